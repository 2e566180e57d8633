"""An S3-compatible server on this machine (moto's), which remembers what it was asked."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",  # or a client without rights would ask the network who it is
}


@dataclass(frozen=True)
class Request:
    """One request: `GET`, the object's key (empty of a bucket's), the bytes asked for and those sent."""

    method: str
    key: str
    range: str
    sent: int

    @property
    def kind(self) -> str:
        """As bills name it: LIST apart from GET."""
        return "LIST" if self.method == "GET" and not self.key else self.method


class Buckets:
    """The server, its clients' environment, and the requests since `forget`."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        self.requests: list[Request] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._server._server.app = self._counting(self._server._server.app)

    def _counting(self, app: Any) -> Any:
        def counted(environ: dict[str, Any], respond: Any) -> Any:
            body = b"".join(app(environ, respond))
            key = environ["PATH_INFO"].strip("/").partition("/")[2]
            with self._lock:
                self.requests.append(Request(environ["REQUEST_METHOD"], key, environ.get("HTTP_RANGE", ""), len(body)))
            return [body]

        return counted

    @cached_property
    def client(self) -> Any:
        """A client of boto3's, which is no part of what is tested."""
        import boto3

        return boto3.session.Session(
            CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1"
        ).client("s3", endpoint_url=self.environment["AWS_ENDPOINT_URL"])

    def new(self) -> Bucket:
        """An empty bucket of its own name."""
        bucket = Bucket(self, f"bucket-{next(self._numbers)}", self.client)
        bucket.client.create_bucket(Bucket=bucket.name)
        self.requests.clear()
        return bucket

    def stop(self) -> None:
        self._server.stop()


@dataclass(frozen=True)
class Bucket:
    """One bucket, looked at by boto3."""

    server: Buckets
    name: str
    client: Any

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def names(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [one["Key"] for page in pages for one in page.get("Contents", [])]

    def key(self, end: str) -> str:
        """The only key that ends so."""
        (found,) = [key for key in self.names() if key.endswith(end)]
        return found

    def segments(self) -> list[str]:
        return [key for key in self.names() if key.endswith(".h5") and not key.endswith((".view.h5", ".pending.h5"))]

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def flip(self, key: str, place: int = -9) -> None:
        """Changes one bit."""
        raw = bytearray(self.get(key))
        raw[place] ^= 1
        self.put(key, bytes(raw))

    @contextmanager
    def asked(self) -> Iterator[list[Request]]:
        """What is asked of the server within, by whomever."""
        before = len(self.server.requests)
        found: list[Request] = []
        yield found
        found += self.server.requests[before:]


@pytest.fixture(scope="session")
def buckets() -> Iterator[Buckets]:
    """The server."""
    server = Buckets()
    yield server
    server.stop()


@pytest.fixture
def bucket(buckets: Buckets, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new bucket; this process and those that it starts find the server, and copies lie in the test's folder."""
    for name, value in buckets.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ENCODE_ONCE_CACHE", str(tmp_path / "copies"))
    return buckets.new()
