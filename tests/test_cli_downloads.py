"""`--download` on the commands that read data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Result
from tests.extract.web_server import Web, picture, sends, serving

IMAGES = ["--image-model", "squeezenet1_1", "--random-init", "0", "--modalities", "image", "--precision", "fp32"]


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as one:
        yield one


def write_table(folder: Path, web: Web, n: int = 10) -> Path:
    """Rows whose pictures lie on the server, but for the last one, which it does not have."""
    web.pages = {f"/{number}.jpg": sends(picture(number)) for number in range(n - 1)}
    (folder / "posts").mkdir()
    rows = [f"{number},{web.url(f'/{number}.jpg')},{'ab'[number % 2]}\n" for number in range(n)]
    (folder / "posts" / "posts.csv").write_text("id,image,label\n" + "".join(rows))
    return folder / "posts"


def test_extract_downloads_and_says_what_failed(run: Callable[..., Result], tmp_path: Path, web: Web):
    posts = write_table(tmp_path, web)
    offline = run("extract", posts, *IMAGES, "--json")
    assert (offline.code, offline.json["missing"], "downloads" in offline.json) == (0, {"image": 10}, False)
    assert offline.err.count("--download fetches them") == 1
    assert "10 of 10 pictures that are named by address are not here" in offline.err
    refused = run("extract", posts, *IMAGES, "--download", "--json")
    assert (refused.code, refused.json["downloads"]["failed"], sum(web.hits.values())) == (3, 10, 0)
    assert "this machine itself (see --allow-private)" in refused.err

    done = run("extract", posts, *IMAGES, "--download", "--allow-private", "--json")
    counts = {key: done.json["downloads"][key] for key in ("addresses", "present", "fetched", "failed")}
    assert counts == {"addresses": 10, "present": 0, "fetched": 9, "failed": 1}
    assert (done.code, done.json["missing"], done.json["failed"], done.json["encoded"]) == (3, {"image": 1}, 0, 9)
    assert f"not downloaded: 9 ({web.url('/9.jpg')}): the server answered 404" in done.err

    web.pages["/9.jpg"] = sends(picture(9))
    known = run("extract", posts, *IMAGES, "--download", "--allow-private")
    assert (known.code, web.hits["/9.jpg"]) == (3, 1)
    assert "--retry-failed tries them again" in known.out
    healed = run("extract", posts, *IMAGES, "--download", "--allow-private", "--retry-failed")
    assert (healed.code, web.hits["/9.jpg"]) == (0, 2)
    assert healed.out.splitlines()[-1].startswith("next: pipeline.py fuse")
    quiet = run("extract", posts, *IMAGES, "--json")
    assert (quiet.code, quiet.json["missing"], "by address" in quiet.err) == (0, {"image": 0}, False)


@pytest.mark.slow
def test_predict_downloads_what_it_labels(run: Callable[..., Result], tmp_path: Path, web: Web):
    posts = write_table(tmp_path, web)
    get = ["--download", "--allow-private"]
    assert run("extract", posts, *IMAGES, *get).code == 3
    assert run("fuse", "--head", "logreg", "--name", "posts", "--folds", "2", "--out", "run").code == 0
    web.pages["/new.jpg"] = sends(picture(77))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "new.csv").write_text(f"id,image\nx,{web.url('/new.jpg')}\n")
    done = run("predict", "--run", "run", tmp_path / "new", *get, "--json")
    assert (done.code, done.json["downloads"]["fetched"], done.json["missing"]) == (0, 1, {"image": 0})


def test_only_pictures_that_are_encoded_are_downloaded(
    run: Callable[..., Result], tmp_path: Path, web: Web, bert: Path
):
    posts = write_table(tmp_path, web)
    table = (posts / "posts.csv").read_text().replace("id,image,label", "id,image,text")
    (posts / "posts.csv").write_text(table)
    done = run("extract", posts, "--modalities", "text", "--text-model", bert, "--download", "--json")
    assert (done.code, done.json["downloads"]["addresses"], sum(web.hits.values())) == (0, 0, 0)


INTERRUPTIBLE = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts the tests may have it ignored
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_an_interrupt_does_not_wait_for_slow_servers(tmp_path: Path, web: Web):
    posts = write_table(tmp_path, web)
    web.pages = {path: lambda handler: handler.hang() for path in web.pages}
    command = [sys.executable, "-c", INTERRUPTIBLE, str(ROOT / "pipeline.py"), "extract", str(posts)]
    options = ["--download", "--allow-private"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*command, *options], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not web.hits and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=15)  # the servers are silent for a minute, and waited for 20 s
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert "stopped; what was done is kept" in said
    assert "Traceback" not in said
