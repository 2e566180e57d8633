"""How files are fetched: how many at once, how often, how large, how long is waited."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Manners:
    """What is asked of servers, and of them at most how much.

    Attributes:
        threads: requests at the same time, to all hosts.
        per_host: requests at the same time to one host.
        interval: seconds between the starts of two requests to one host, at least.
        connect_seconds: until a connection stands.
        silent_seconds: between two signs of life of a server.
        most_seconds: for one request from its start to the last byte; looking its host up is left to the system.
        attempts: of one file, where trying again may help.
        backoff: seconds before the second attempt; before each further one twice as long, and up to half as long
            again by chance.
        longest_wait: seconds that a server may ask for; who asks for more is left for the next run.
        most_bytes: of one file.
        redirects: that are followed to one file.
        give_up: failures in a row that trying again might have mended, after which a host is left for the next run.
        allow_private: whether loopback and private addresses may be connected to.
    """

    threads: int = 16
    per_host: int = 4
    interval: float = 0.1
    connect_seconds: float = 10.0
    silent_seconds: float = 20.0
    most_seconds: float = 120.0
    attempts: int = 4
    backoff: float = 1.0
    longest_wait: float = 60.0
    most_bytes: int = 32 * 2**20
    redirects: int = 5
    give_up: int = 20
    allow_private: bool = False
