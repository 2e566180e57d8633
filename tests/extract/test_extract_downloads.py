"""Files by address: what is fetched, what is kept, what is recorded, against a real server."""

import json
import signal
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cache import DataError
from extract import Downloads, download, read_manifest
from extract.downloads.record import FAILURES_FILE
from extract.manifest import content_key, read_content
from tests.conftest import ROOT
from tests.extract.web_server import (
    JPEG,
    OK,
    QUICK,
    Handler,
    Page,
    Web,
    fetched,
    files_in,
    picture,
    raw,
    sends,
    serving,
    table,
)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as one:
        yield one


def test_pictures_are_fetched_once_and_are_the_samples_then(tmp_path: Path, web: Web):
    web.pages = {"/a.jpg": sends(JPEG), "/b": sends(picture(1, "PNG"), Content_Type="text/html")}
    cells = [web.url("/a.jpg"), web.url("/b?size=9#top"), web.url("/a.jpg"), ""]
    web.pages["/b?size=9"] = web.pages["/b"]
    manifest = table(tmp_path, cells)
    assert [read_content_or_none(one.inputs.get("image")) for one in manifest.samples] == [None] * 4
    done = download(manifest, None, QUICK)
    assert (done.addresses, done.present, done.fetched, done.failed) == (2, 0, 2, ())
    assert done.bytes == len(JPEG) + len(picture(1, "PNG"))
    contents = [read_content_or_none(one.inputs.get("image")) for one in manifest.samples]
    assert contents == [JPEG, picture(1, "PNG"), JPEG, None]
    assert content_key(manifest.samples[0].inputs["image"]) == content_key(JPEG)
    again = download(read_manifest(tmp_path / "posts.csv"), None, QUICK)
    assert (again.present, again.fetched) == (2, 0)
    assert web.hits == {"/a.jpg": 1, "/b?size=9": 1}
    assert len(files_in(tmp_path)) == 2
    assert (web.headers["Accept-Encoding"], web.headers["Host"]) == ("identity", f"127.0.0.1:{web.server_port}")
    assert not {"Authorization", "Cookie"} & set(web.headers)


def read_content_or_none(content):
    try:
        return None if content is None else read_content(content)
    except FileNotFoundError:
        return None


def test_without_manners_nothing_is_asked_for(tmp_path: Path, web: Web):
    web.pages["/a"] = sends(JPEG)
    manifest = table(tmp_path, [web.url("/a"), web.url("/b")])
    looked = download(manifest, None, None)
    assert not web.hits
    assert not (tmp_path / "downloads").exists()
    assert looked.lines() == ["2 of 2 pictures that are named by address are not here; --download fetches them"]
    download(manifest, None, QUICK)
    assert download(manifest, None, None).lines()[0].startswith("1 of 2 pictures that are named by address are not")
    assert download(table(tmp_path / "other", ["a.jpg"]), None, None).lines() == []


def test_what_is_odd_but_honest_is_fetched(tmp_path: Path, web: Web):
    half, rest = JPEG[:500], JPEG[500:]
    pages: dict[str, Page] = {
        "/page": sends(JPEG, Content_Type="text/html"),
        "/open": raw(OK + b"\r\n" + JPEG),
        "/old": raw(b"HTTP/1.0 200 OK\r\n\r\n" + JPEG),
        "/chunks": raw(
            OK + b"Transfer-Encoding: chunked\r\n\r\n",
            *[b"%x\r\n%b\r\n" % (len(part), part) for part in (half, rest)],
            b"0\r\n\r\n",
        ),
        "/slow": raw(OK + b"Content-Length: %d\r\n\r\n" % len(JPEG), 0.3, half, 0.3, rest),
        "/early": raw(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG),
        "/far": sends(b"", 301, Location="/1"),
        **{f"/{n}": sends(b"", 307, Location=f"{n + 1}") for n in range(1, 5)},
        "/5": sends(JPEG),
        "/m%C3%BCnchen%20(1).jpg?a=b%20c": sends(JPEG),
        "/utf-8": raw(b"HTTP/1.1 302 Found\r\nLocation: /caf\xc3\xa9.jpg\r\nContent-Length: 0\r\n\r\n"),
        "/caf%C3%A9.jpg": sends(JPEG),
        "/latin-1": raw(b"HTTP/1.1 302 Found\r\nLocation: /caf\xe9.jpg\r\nContent-Length: 0\r\n\r\n"),
        "/caf%E9.jpg": sends(JPEG),
    }
    web.pages = pages
    ends = [
        "/utf-8",
        "/latin-1",
        "/page",
        "/open",
        "/old",
        "/chunks",
        "/slow",
        "/early",
        "/far",
        "/münchen (1).jpg?a=b c",
    ]
    done = fetched(tmp_path, *(web.url(end) for end in ends))
    assert done.failed == ()
    assert done.fetched == len(ends)
    assert {one.read_bytes() for one in files_in(tmp_path)} == {JPEG}


def test_what_follows_an_answer_is_no_other_files_answer(tmp_path: Path, web: Web):
    stray = picture(9)

    def says_more(handler: Handler) -> None:
        """As where a length was counted before the file was changed; more comes than was announced."""
        handler.answer(200, JPEG + OK + b"Content-Length: %d\r\n\r\n" % len(stray) + stray, Content_Length=len(JPEG))

    pictures = {f"/{number}": picture(number) for number in range(1, 5)}
    web.pages = {"/0": says_more, **{path: sends(body) for path, body in pictures.items()}}
    manifest = table(tmp_path, [web.url(path) for path in web.pages])
    download(manifest, None, replace(QUICK, per_host=1))
    assert [read_content(one.inputs["image"]) for one in manifest.samples] == [JPEG, *pictures.values()]
    assert web.headers["Connection"] == "close"


def test_failures_are_recorded_and_tried_again_as_they_should_be(tmp_path: Path, web: Web):
    web.pages = {"/flaky": sends(b"", 500), "/good": sends(JPEG)}
    cells = [web.url("/gone"), web.url("/flaky"), web.url("/good"), web.url("/gone")]
    done = fetched(tmp_path, *cells)
    listed = [json.loads(line) for line in (tmp_path / "downloads" / FAILURES_FILE).read_text().splitlines()]
    assert {(one["url"], one["reason"], one["final"], one["attempts"]) for one in listed} == {
        (web.url("/gone"), "the server answered 404", True, 1),
        (web.url("/flaky"), "the server answered 500", False, 2),
    }
    assert done.ids[web.url("/gone")] == ("r0", "r3")
    lines = done.lines()
    assert lines[0].startswith(f"1 of 3 pictures that are named by address are in {tmp_path / 'downloads'}, 1 of them")
    assert f"not downloaded: r0, r3 ({web.url('/gone')}): the server answered 404" in lines
    assert lines[-1].endswith("failures.jsonl; the same command tries 1 of them again, --retry-failed all")
    web.pages |= {"/flaky": sends(JPEG), "/gone": sends(JPEG)}
    with (tmp_path / "downloads" / FAILURES_FILE).open("a") as file:
        file.write('{"url": "http')  # a kill in the middle of a line
    web.hits.clear()
    again = fetched(tmp_path, *cells)
    assert (again.fetched, again.present, web.hits) == (1, 1, {"/flaky": 1})
    assert [(one.url, one.final) for one in again.failed] == [(web.url("/gone"), True)]
    assert again.lines()[-1].endswith("--retry-failed tries them again")
    [before] = download(table(tmp_path, cells), None, None).lines()
    assert before.startswith("1 of 3 pictures that are named by address are not here; --download fetches them (1 of")
    assert before.endswith("failures.jsonl; --retry-failed tries these too)")
    assert fetched(tmp_path, *cells, retry_failed=True).failed == ()
    assert not (tmp_path / "downloads" / FAILURES_FILE).exists()
    assert again.as_json() == {
        "addresses": 3,
        "present": 1,
        "fetched": 1,
        "failed": 1,
        "failed_for_good": 1,
        "bytes": len(JPEG),
        "seconds": round(again.seconds, 3),
        "folders": [str(tmp_path / "downloads")],
    }


def test_sounds_are_fetched_too_and_web_pages_are_none(tmp_path: Path, web: Web):
    with wave.open(str(tmp_path / "clip.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    clip = (tmp_path / "clip.wav").read_bytes()
    web.pages = {"/a.wav?key=1": sends(clip), "/b.wav": sends(b"<html>")}
    folder = tmp_path / "clips"
    manifest = table(folder, [web.url("/a.wav?key=1"), web.url("/b.wav")], "clip", columns={"audio": "clip"})
    done = download(manifest, None, QUICK)
    assert read_content(manifest.samples[0].inputs["audio"]) == clip
    assert [one.reason for one in done.failed] == ["no audio file that is known: expected WAV, FLAC, MP3 or Ogg"]
    assert "files that are named by address" in done.lines()[0]
    assert download(manifest, ("text",), QUICK).addresses == 0


def test_a_fakeddit_picture_that_is_not_there_is_fetched(tmp_path: Path, web: Web):
    web.pages["/b.jpg"] = sends(JPEG)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(picture(1))
    rows = f"one\ta\t{web.url('/a.jpg')}\t0\ntwo\tb\t{web.url('/b.jpg')}\t1\nthree\tc\t\t1\n"
    (tmp_path / "multimodal_train.tsv").write_text(f"clean_title\tid\timage_url\t2_way_label\n{rows}")
    manifest = read_manifest(tmp_path)
    assert download(manifest, None, QUICK).fetched == 1
    contents = [read_content_or_none(one.inputs["image"]) for one in manifest.samples]
    assert contents == [picture(1), JPEG, None]
    assert manifest.layout == "fakeddit"
    assert web.hits == {"/b.jpg": 1}


def test_two_at_once_fetch_each_file_once(tmp_path: Path, web: Web):
    def slow(handler: Handler) -> None:
        time.sleep(0.05)
        handler.answer(200, JPEG)

    paths = [f"/{number}" for number in range(8)]
    web.pages = dict.fromkeys(paths, slow)
    manifest = table(tmp_path, [web.url(path) for path in paths])
    found: list[Downloads] = []
    threads = [threading.Thread(target=lambda: found.append(download(manifest, None, QUICK))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.fetched for one in found) == [0, 8]
    assert sorted(one.present for one in found) == [0, 8]
    assert set(web.hits.values()) == {1}


def test_a_kill_leaves_whole_files_and_the_next_run_fetches_the_others(tmp_path: Path, web: Web):
    bodies = {f"/{number}": picture(number) for number in range(30)}

    def slow(handler: Handler) -> None:
        body = bodies[handler.path]
        handler.answer(200, body[:900], Content_Length=len(body))
        time.sleep(0.05)
        handler.wfile.write(body[900:])

    web.pages = dict.fromkeys(bodies, slow)
    cells = [web.url(path) for path in bodies]
    manifest = table(tmp_path, cells)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from extract import Manners, download, read_manifest\n"
        f"download(read_manifest({str(tmp_path / 'posts.csv')!r}), None, Manners(interval=0.05, allow_private=True))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_for(lambda: len(list((tmp_path / "downloads").glob("[0-9a-f]*[0-9a-f]"))) > 4)  # whole ones
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (tmp_path / "downloads" / ".tmp-0123456789abcdef").write_bytes(b"of a killed run")
    kept = {one for one in files_in(tmp_path) if not one.name.startswith(".tmp-")}
    lacking = {path for path, one in zip(bodies, manifest.samples, strict=True) if one.inputs["image"].path not in kept}
    assert 4 < len(kept) < 30
    assert {one.read_bytes() for one in kept} <= set(bodies.values())
    web.hits.clear()
    done = download(manifest, None, QUICK)
    assert (done.present, done.fetched, done.failed) == (len(kept), 30 - len(kept), ())
    assert set(web.hits) == lacking
    assert len(files_in(tmp_path)) == 30
    assert [read_content(one.inputs["image"]) for one in manifest.samples] == list(bodies.values())


def wait_for(what) -> None:
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, web: Web):
    web.pages["/a"] = sends(JPEG)
    manifest = table(tmp_path, [web.url("/a")])
    (tmp_path / "downloads").write_text("a file")
    with pytest.raises(DataError, match=r"nothing can be downloaded into .*downloads: .*exists"):
        download(manifest, None, QUICK)
    (tmp_path / "downloads").unlink()
    (tmp_path / "downloads").symlink_to(tmp_path.parent)
    with pytest.raises(DataError, match="leads out of"):
        read_manifest(tmp_path / "posts.csv")
    assert not web.hits


def test_looking_loads_no_network_library(tmp_path: Path):
    table(tmp_path, ["http://127.0.0.1:9/a"])
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from extract import download, read_manifest\n"
        f"print(download(read_manifest({str(tmp_path)!r}), None, None).addresses)\n"
        "print({'httpcore2', 'httpx2', 'filelock'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["1", "set()"]
