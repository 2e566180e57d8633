"""Connections to no address but one that was checked, and none that is read from for longer than agreed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any

import httpcore2

if TYPE_CHECKING:
    import ssl

METADATA = frozenset(
    map(ip_address, ("169.254.169.254", "168.63.129.16", "192.0.0.192", "100.100.100.200", "fd00:ec2::254"))
)
"""Where clouds tell a machine its secrets: AWS, Google, Azure, Oracle, Alibaba."""
NAT64 = IPv6Network("64:ff9b::/96")
TRIED = 4
"""Addresses of a host that are tried, at most."""


class FetchError(Exception):
    """A file could not be fetched.

    Args:
        reason: in a phrase.
        final: whether trying again is of no use.
        wait: seconds for which the server asks to be left alone.
        busy: whether the host has too much to do, be it for this file or any.
        passing: whether trying again soon may help; by default wherever it is not final.
    """

    def __init__(
        self, reason: str, final: bool = False, wait: float = 0.0, busy: bool = False, passing: bool = True
    ) -> None:
        super().__init__(reason)
        self.reason, self.final, self.wait, self.busy = reason, final, wait, busy
        self.passing = passing and not final


def refusal(address: str, allow_private: bool = False) -> str:
    """Why an IP address is not connected to; empty where it may be.

    An address that carries another one (IPv4 mapped into IPv6, 6to4, NAT64) is judged by that. What serves the
    secrets of a cloud's machine, link-local, multicast, unspecified and reserved addresses are never
    connected to; loopback and others that are not public only with `allow_private`.
    """
    found = ip_address(address.partition("%")[0])
    carried = _carried(found)
    if carried is not None:
        return refusal(str(carried), allow_private)
    if found in METADATA or found.is_link_local:
        return "is link-local, or tells a machine of a cloud its secrets"
    if found.is_loopback:  # which IPv6 counts as reserved
        return "" if allow_private else "is this machine itself"
    if found.is_multicast or found.is_unspecified or found.is_reserved:
        return "is no single machine's"
    if not found.is_global or (isinstance(found, IPv6Address) and found.is_site_local):
        return "" if allow_private else "is private"
    return ""


def _carried(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    if isinstance(address, IPv4Address):
        return None
    nat64 = IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None
    return address.ipv4_mapped or address.sixtofour or nat64


def addresses_of(host: str, port: int, allow_private: bool) -> list[str]:
    """The IP addresses of a host, in the order of the system. Raises FetchError if one of them is refused."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise FetchError(f"the host {host} is not found ({error.strerror})") from error
    except UnicodeError as error:  # a part of the name is longer than any can be
        raise FetchError(f"{host[:80]} can be no host's name", final=True) from error
    addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
    for address in addresses:
        why = refusal(address, allow_private)
        if why:
            said = f"the host {host} has the address {address}, which {why}"
            if refusal(address, allow_private=True):
                raise FetchError(said, final=True)
            raise FetchError(f"{said} (see --allow-private)", passing=False)
    return addresses


class Guarded(httpcore2.NetworkBackend):
    """Looks a host up once, checks all its addresses, and connects to these and no others.

    A name that points elsewhere a moment later changes nothing, for it is not asked again.
    """

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._plain = httpcore2.SyncBackend()
        self._own = threading.local()

    def allow(self, seconds: float) -> None:
        """What this thread reads and writes from now on must be done by then."""
        self._own.seconds, self._own.until = seconds, time.monotonic() + seconds

    def left(self, most: float | None) -> float:
        """Seconds for the next step, at most `most`. Raises FetchError where there are none left."""
        left = self._own.until - time.monotonic()
        if left <= 0:
            raise FetchError(f"took longer than {self._own.seconds:g} s")
        return float(left if most is None else min(most, left))

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """As of the library; the host may have several addresses, the first that answers is taken."""
        failed: Exception = FetchError(f"the host {host} has no address")
        for address in addresses_of(host, port, self._allow_private)[:TRIED]:
            try:
                stream = self._plain.connect_tcp(address, port, self.left(timeout), local_address, socket_options or ())
                return Timed(stream, self)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed


class Timed(httpcore2.NetworkStream):
    """A connection on which every step ends when the thread's time is up.

    A server that sends a byte a second keeps every step short, and would never end otherwise.
    """

    def __init__(self, stream: httpcore2.NetworkStream, clock: Guarded) -> None:
        self._stream, self._clock = stream, clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As of the library."""
        return self._stream.read(max_bytes, self._clock.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As of the library."""
        self._stream.write(buffer, self._clock.left(timeout))

    def close(self) -> None:
        """As of the library."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        """As of the library."""
        return Timed(self._stream.start_tls(ssl_context, server_hostname, self._clock.left(timeout)), self._clock)

    def get_extra_info(self, info: str) -> Any:
        """As of the library."""
        return self._stream.get_extra_info(info)
