"""A real web server on this machine that behaves as badly as it is told to, and remembers who came when."""

from __future__ import annotations

import contextlib
import io
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from extract import Downloads, Manifest, Manners, download, read_manifest
from extract.downloads.record import FAILURES_FILE

Page = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers by the pages of its server."""

    protocol_version = "HTTP/1.1"
    server: Web

    def do_GET(self) -> None:
        self.server.came(self)
        try:
            self.server.page(self.path)(self)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True
        finally:
            self.server.left()

    def answer(self, status: int, body: bytes = b"", **headers: object) -> None:
        """Status, headers and body; `Content-Length` is what it should be unless it is given."""
        self.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def hang(self) -> None:
        """Until the test is over, or a minute."""
        self.server.over.wait(60)
        self.close_connection = True

    def handle(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError, TimeoutError):
            super().handle()

    def log_message(self, *args: object) -> None:
        pass


class Web(ThreadingHTTPServer):
    """The server.

    Attributes:
        pages: what is done for each path; any other path is 404.
        hits: requests by path.
        starts: when each request came, and for which path.
        headers: of the last request.
        most: requests that were answered at the same time.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Page] = {}
        self.hits: Counter[str] = Counter()
        self.starts: list[tuple[float, str]] = []
        self.headers: dict[str, str] = {}
        self.most = self._now = 0
        self.over = threading.Event()
        self._lock = threading.Lock()
        self.scheme = "http"

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.server_port}{path}"

    def page(self, path: str) -> Page:
        return self.pages.get(path, lambda handler: handler.answer(404, b"no such page"))

    def came(self, handler: Handler) -> None:
        with self._lock:
            self.hits[handler.path] += 1
            self.starts.append((time.monotonic(), handler.path))
            self.headers = dict(handler.headers.items())
            self._now += 1
            self.most = max(self.most, self._now)

    def left(self) -> None:
        with self._lock:
            self._now -= 1

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that leaves in the middle of it is what is tested


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    web = Web()
    if tls is not None:
        web.socket = tls.wrap_socket(web.socket, server_side=True, do_handshake_on_connect=False)
        web.scheme = "https"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.over.set()
        web.shutdown()
        web.server_close()
        thread.join()


def picture(seed: int = 0, kind: str = "JPEG", side: int = 48) -> bytes:
    """The file of a picture of noise."""
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def sends(body: bytes, status: int = 200, **headers: object) -> Page:
    """A page that answers properly, or with other headers."""
    return lambda handler: handler.answer(status, body, **headers)


def table(folder: Path, cells: Sequence[str], column: str = "image", **how: Any) -> Manifest:
    """A table with a cell a row; ids are r0, r1, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    rows = "".join(f"r{number},{cell},{number % 2}\n" for number, cell in enumerate(quoted))
    (folder / "posts.csv").write_text(f"id,{column},label\n{rows}", encoding="utf-8")
    return read_manifest(folder / "posts.csv", **how)


QUICK = Manners(
    interval=0.0,
    per_host=64,
    attempts=2,
    backoff=0.02,
    longest_wait=2.0,
    most_bytes=200_000,
    give_up=1000,
    allow_private=True,
)


JPEG = picture()


OK = b"HTTP/1.1 200 OK\r\n"


def fetched(folder: Path, *cells: str, manners: Manners = QUICK, retry_failed: bool = False) -> Downloads:
    return download(table(folder, cells), None, manners, retry_failed)


def files_in(folder: Path) -> list[Path]:
    hidden = (FAILURES_FILE, ".lock")
    return sorted(one for one in (folder / "downloads").iterdir() if one.name not in hidden)


def raw(*parts: bytes | float) -> Page:
    """Sends bytes as they are, sleeping where a number stands, and closes the connection."""

    def page(handler: Handler) -> None:
        for part in parts:
            if isinstance(part, bytes):
                handler.wfile.write(part)
                handler.wfile.flush()
            elif handler.server.over.wait(part):
                break
        handler.close_connection = True

    return page
