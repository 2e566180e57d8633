"""Files by address: how often servers are asked, and when again."""

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from extract.downloads.record import FAILURES_FILE
from tests.extract.web_server import JPEG, QUICK, Handler, Page, Web, fetched, sends, serving

BUSY = 5.0
"""Seconds by which a busy machine may be late."""


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as one:
        yield one


def failing(times: int, status: int = 500, **headers: object) -> Page:
    """Fails so often, then sends the picture."""
    left = [times]

    def page(handler: Handler) -> None:
        left[0] -= 1
        handler.answer(status, **headers) if left[0] >= 0 else handler.answer(200, JPEG)

    return page


def test_what_passes_is_tried_again_after_ever_longer_waits(tmp_path: Path, web: Web):
    web.pages = {"/a": failing(3), "/b": failing(1, 429, Retry_After=1)}
    done = fetched(tmp_path, web.url("/a"), manners=replace(QUICK, attempts=4, backoff=0.05))
    assert (done.fetched, web.hits["/a"]) == (1, 4)
    moments = [moment for moment, _ in web.starts]
    waits = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert all(low <= wait < 1.5 * low + BUSY for low, wait in zip((0.05, 0.1, 0.2), waits, strict=True)), waits
    assert fetched(tmp_path, web.url("/b")).fetched == 1
    moments = [moment for moment, path in web.starts if path == "/b"]
    assert 1.0 <= moments[1] - moments[0] < 1.0 + BUSY


def test_who_asks_for_a_long_wait_is_left_for_the_next_run_and_others_come_at_once(tmp_path: Path, web: Web):
    web.pages = {"/a": sends(b"", 429, Retry_After=3600), "/b": sends(JPEG)}
    there = web.url("/b", "localhost")
    done = fetched(tmp_path, web.url("/a"), there, manners=replace(QUICK, longest_wait=0.3))
    assert [(one.final, one.attempts) for one in done.failed] == [(False, 1)]
    assert "asked to be left alone for 3600 s" in done.failed[0].reason
    assert (done.fetched, web.hits) == (1, {"/a": 1, "/b": 1})


def test_a_host_is_asked_for_few_files_at_once_and_not_too_often(tmp_path: Path, web: Web):
    three = threading.Barrier(3)

    def slow(handler: Handler) -> None:
        if sum(web.hits.values()) <= 3:
            three.wait(30)  # breaks, and fails, unless three are here at once
        time.sleep(0.05)
        handler.answer(200, JPEG)

    paths = [f"/{number}" for number in range(12)]
    web.pages = dict.fromkeys(paths, slow)
    done = fetched(tmp_path, *map(web.url, paths), manners=replace(QUICK, per_host=3, threads=8, interval=0.1))
    moments = sorted(moment for moment, _ in web.starts)
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert done.fetched == 12
    assert web.most == 3
    assert sorted(gaps)[len(gaps) // 2] >= 0.06


def test_nobody_waits_for_a_host_that_rests(tmp_path: Path, web: Web):
    paths = [f"/{number}" for number in range(5)]
    web.pages = {"/tired": failing(1, 503), **dict.fromkeys(paths, sends(JPEG))}
    cells = [web.url("/tired"), *(web.url(path, "localhost") for path in paths)]
    done = fetched(tmp_path, *cells, manners=replace(QUICK, threads=1, backoff=2.0))
    assert done.fetched == 6
    assert [path for _, path in web.starts] == ["/tired", *paths, "/tired"]


def test_a_host_that_only_fails_is_left_for_the_next_run(tmp_path: Path, web: Web):
    paths = [f"/{number}" for number in range(9)]
    web.pages = dict.fromkeys(paths, sends(b"", 500))
    cells = [web.url(path) for path in paths]
    done = fetched(tmp_path, *cells, manners=replace(QUICK, give_up=3, attempts=1, per_host=1))
    assert sum(web.hits.values()) == 3
    assert len(done.failed) == 9
    assert not any(one.final for one in done.failed)
    dropped = [one for one in done.failed if one.attempts == 0]
    assert [one.reason for one in dropped] == [
        "left for the next run: 3 requests to 127.0.0.1 failed in a row (the server answered 500)"
    ] * 6
    web.pages = dict.fromkeys(paths, sends(JPEG))
    assert fetched(tmp_path, *cells).fetched == 9
    assert not (tmp_path / "downloads" / FAILURES_FILE).exists()


def test_a_server_may_say_when_to_come_back_by_a_date():
    from extract.downloads.line import _asked_wait

    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 88 <= _asked_wait({b"retry-after": soon}) <= 90
    past = {"120": 120.0, "Wed, 21 Oct 2015 07:28:00 GMT": 0.0, "never": 0.0, "-5": 0.0, "": 0.0, "\u0663": 0.0}
    assert {said: _asked_wait({b"retry-after": said}) for said in past} == past
    assert _asked_wait({}) == 0.0
