"""One request: to an address that may be asked, for a file of bounded size, in bounded time."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpcore2
import httpx2

from extract.downloads.guard import FetchError, Guarded
from extract.downloads.manners import Manners

REDIRECTS = frozenset((301, 302, 303, 307, 308))
PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Answers after which trying again may help."""
BUSY = frozenset((429, 503))
"""Those by which a server asks for fewer requests of any kind."""
HEADERS = (
    (b"User-Agent", b"encode-once"),
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"identity"),
    (b"Connection", b"close"),
)
SHOWN = 80
"""Characters of what a server says in messages."""


@dataclass(frozen=True)
class Body:
    """A file as it was sent.

    `whole` says that its length was announced, and that it came to that; `kind` is what the server calls it.
    """

    raw: bytes
    whole: bool
    kind: str


@dataclass(frozen=True)
class Moved:
    """The file is to be found at another address."""

    address: str


class Line:
    """Sends requests, each over a connection of its own.

    What a server sends beyond the length that it announced would be taken, on a connection that is kept, for the
    answer to the next request: every later file of the host would be another row's.

    No proxy is used, whatever the environment says: it would connect for us, to what we cannot check. Nothing
    is unpacked, no cookie is kept, no user's name or password is sent.
    """

    def __init__(self, manners: Manners) -> None:
        self._manners = manners
        self._network = Guarded(manners.allow_private)
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpcore2.default_ssl_context(),
            max_connections=manners.threads,
            network_backend=self._network,
        )

    def close(self) -> None:
        """Closes what is open."""
        self._pool.close()

    def get(self, address: str) -> Body | Moved:
        """What is at an address. Raises FetchError."""
        url, manners = parsed(address), self._manners
        place = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers = [(b"Host", url.netloc), *HEADERS]
        silent = manners.silent_seconds
        waits = {"connect": manners.connect_seconds, "read": silent, "write": silent, "pool": manners.most_seconds}
        self._network.allow(manners.most_seconds)
        try:
            with self._pool.stream("GET", place, headers=headers, extensions={"timeout": waits}) as response:
                return self._answer(url, response)
        except httpcore2.TimeoutException as error:
            self._network.left(None)  # says so where it was the time for all of it
            if isinstance(error, httpcore2.ConnectTimeout):
                raise FetchError(f"no connection within {manners.connect_seconds:g} s") from error
            raise FetchError(f"the server was silent for {silent:g} s") from error
        except httpcore2.LocalProtocolError as error:
            raise FetchError(f"cannot be asked for: {error}", final=True) from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            untrusted = bool(error.args) and isinstance(error.args[0], ssl.SSLCertVerificationError)
            raise FetchError(str(error) or type(error).__name__, final=untrusted) from error

    def _answer(self, url: httpx2.URL, response: httpcore2.Response) -> Body | Moved:
        headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        status, most = response.status, self._manners.most_bytes
        if status in REDIRECTS:
            return _moved(url, _beyond_ascii(headers.get(b"location", "")))
        if status in PASSING:
            raise FetchError(f"the server answered {status}", wait=_asked_wait(headers), busy=status in BUSY)
        if status != 200:
            raise FetchError(f"the server answered {status}", final=True)
        if headers.get(b"content-encoding", "identity").lower() not in ("", "identity"):
            packed = headers[b"content-encoding"][:SHOWN]
            raise FetchError(f"the server sent it packed ({packed!r}) though asked not to", final=True)
        announced = headers.get(b"content-length")  # digits, or the library would have refused the answer
        raw = bytearray()
        if announced is None or int(announced) <= most:
            for part in response.iter_stream():
                raw += part
                if len(raw) > most:
                    break
        if len(raw) > most or (announced is not None and int(announced) > most):
            raise FetchError(f"larger than {most} bytes", final=True)
        whole = announced is not None or b"transfer-encoding" in headers
        return Body(bytes(raw), whole, headers.get(b"content-type", "")[:SHOWN])


def parsed(address: str) -> httpx2.URL:
    """An address in its parts. Raises FetchError for what may not be asked, or is none."""
    try:
        url = httpx2.URL(address)
    except (httpx2.InvalidURL, ValueError) as error:
        raise FetchError(f"no address: {error}"[:200], final=True) from error
    if url.scheme not in ("http", "https"):
        raise FetchError(f"only http and https are followed, not {url.scheme[:SHOWN]!r}", final=True)
    if url.userinfo:
        raise FetchError("names a user, and names and passwords are not sent", final=True)
    if not url.raw_host or not 0 < (url.port or 80) < 2**16:
        raise FetchError("no address: it lacks a host, or the port is none", final=True)
    return url


def host_of(address: str) -> str:
    """The host of an address, without its port; empty where there is none."""
    try:
        return parsed(address).raw_host.decode("ascii")
    except FetchError:  # said when the file's turn comes
        return ""


def _beyond_ascii(location: str) -> str:
    """An address read as Latin-1 as browsers take it: UTF-8 where it is that, else byte by byte."""
    raw = location.encode("latin-1")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(chr(byte) if byte < 128 else f"%{byte:02X}" for byte in raw)


def _moved(url: httpx2.URL, location: str) -> Moved:
    """The address that an answer points to. Raises FetchError where it is not followed."""
    if not location:
        raise FetchError("redirects to nowhere", final=True)
    try:
        target = parsed(str(url.join(location)))
    except FetchError as error:
        raise FetchError(f"redirects to {location[:SHOWN]!r}: {error.reason}", final=True) from error
    except (httpx2.InvalidURL, ValueError) as error:
        raise FetchError(f"redirects to {location[:SHOWN]!r}, which is no address", final=True) from error
    if url.scheme == "https" and target.scheme == "http":
        raise FetchError(f"redirects from https to {location[:SHOWN]!r}, which is not protected", final=True)
    return Moved(str(target))


def _asked_wait(headers: Mapping[bytes, str]) -> float:
    """Seconds of `Retry-After`, given as such or as a date; 0 where there is none that can be read."""
    asked = headers.get(b"retry-after", "").strip()
    if asked.isascii() and asked.isdigit():
        return float(asked[:12])
    try:
        moment = parsedate_to_datetime(asked)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
