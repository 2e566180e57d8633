"""Files by address: whom they may lead to, and whom not."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cache import DataError, StoreError
from extract.downloads.address import Download, bare, is_address
from extract.downloads.record import FAILURES_FILE
from extract.downloads.result import printable
from tests.extract.web_server import (
    JPEG,
    QUICK,
    Web,
    fetched,
    sends,
    serving,
    table,
)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as one:
        yield one


REFUSED = [
    "http://127.0.0.1:{port}/a",
    "http://localhost:{port}/a",
    "http://2130706433:{port}/a",
    "http://0x7f.1:{port}/a",
    "http://0177.0.0.1:{port}/a",
    "http://127.1:{port}/a",
    "http://[::1]:{port}/a",
    "http://[::ffff:127.0.0.1]:{port}/a",
    "http://[::ffff:7f00:1]:{port}/a",
    "http://[64:ff9b::7f00:1]:{port}/a",
    "http://[2002:7f00:1::]:{port}/a",
    "http://0.0.0.0:{port}/a",
    "http://10.0.0.1/a",
    "http://192.168.0.1/a",
    "http://169.254.169.254/latest/meta-data/",
    "http://example.com@127.0.0.1:{port}/a",
    "http://127.0.0.1:{port}\\@example.com/a",
    "http://user:secret@127.0.0.1:{port}/a",
    "http://:{port}/a",
    "http:///a",
    "http://127.0.0.1:99999/a",
    "http://127.0.0.1:x/a",
    "http://[fe80::1%25eth0]/a",
    "http://" + "a" * 70 + ".test/a",
    "http://a\tb/a",
    "http://127.0.0.1:{port}/" + "a" * 70_000,
]


def test_this_machine_and_private_networks_are_not_asked_unless_allowed(tmp_path: Path, web: Web):
    web.pages["/a"] = sends(JPEG)
    cells = [one.format(port=web.server_port) for one in REFUSED]
    done = fetched(tmp_path, *cells, manners=replace(QUICK, allow_private=False))
    assert {one.url for one in done.failed} == set(cells)
    assert not web.hits
    assert web.most == 0
    reasons = {one.url: one.reason for one in done.failed}
    assert reasons[cells[2]].endswith("127.0.0.1, which is this machine itself (see --allow-private)")
    assert "secret" not in reasons[cells[17]]
    assert fetched(tmp_path, cells[0], cells[2]).fetched == 2  # the refusal was no final one
    [secrets] = fetched(tmp_path, "http://169.254.169.254/latest/meta-data/").failed  # allowed or not
    assert (secrets.final, "(see" in secrets.reason) == (True, False)


ADDRESSES = {
    "93.184.215.14": (True, True),
    "2606:2800:21f:cb07:6820:80da:af6b:8b2c": (True, True),
    "64:ff9b::5db8:d70e": (True, True),
    "::ffff:93.184.215.14": (True, True),
    **dict.fromkeys(("127.8.9.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1"), (False, True)),
    **dict.fromkeys(("10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1"), (False, True)),
    **dict.fromkeys(("fd00::1", "fec0::1", "2001::5", "2002:a00:1::1", "64:ff9b::a00:1"), (False, True)),
    **dict.fromkeys(("169.254.169.254", "fe80::1%eth0", "168.63.129.16", "fd00:ec2::254"), (False, False)),
    **dict.fromkeys(("100.100.100.200", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"), (False, False)),
    **dict.fromkeys(("0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1"), (False, False)),  # noqa: S104
    **dict.fromkeys(("::127.0.0.1", "64:ff9b:1::1", "100::1"), (False, False)),
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_which_addresses_are_connected_to(address: str):
    from extract.downloads.guard import refusal

    found = (not refusal(address), not refusal(address, allow_private=True))
    assert found == ADDRESSES[address]


def test_cells_of_other_schemes_are_no_addresses(tmp_path: Path):
    assert [is_address(one) for one in ("HTTP://a", "https://a", "httpx://a", "http:/a")] == [True, True, False, False]
    assert bare("http://a/b.wav?c.jpg#d") == "http://a/b.wav"
    assert bare("a?b") == "a?b"
    samples = table(tmp_path, ["ftp://a/b.jpg", "file:b.jpg", "data:image/png;base64,AA", "HTTPS://a/b"]).samples
    assert [isinstance(one.inputs["image"], Download) for one in samples] == [False, False, False, True]
    with pytest.raises(DataError, match="lies outside"):
        table(tmp_path, ["//example.com/../../../b.jpg"])


def only_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 is taken for public; all other addresses are what they are."""
    from extract.downloads import guard

    real = guard.refusal
    monkeypatch.setattr(
        guard,
        "refusal",
        lambda address, allow_private=False: "" if address == "127.0.0.1" else real(address, allow_private),
    )


def test_each_redirect_is_checked_anew(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch):
    only_first(monkeypatch)
    web.pages = {
        "/in": sends(b"", 302, Location=web.url("/a", "127.0.0.2")),
        "/back": sends(b"", 302, Location="/in"),
        "/a": sends(JPEG),
    }
    done = fetched(tmp_path, web.url("/in"), web.url("/back"), manners=replace(QUICK, allow_private=False))
    assert [one.reason for one in done.failed] == [
        "the host 127.0.0.2 has the address 127.0.0.2, which is this machine itself (see --allow-private)"
    ] * 2
    assert web.hits["/a"] == 0


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
):
    only_first(monkeypatch)
    answers = {"rebind.test": [["127.0.0.1"], ["127.0.0.2"]], "two.test": [["127.0.0.1", "10.0.0.1"]]}
    real = socket.getaddrinfo

    def lookup(host, port, *args, **kwargs):
        if host in answers:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in answers[host].pop(0)]
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    web.pages["/a"] = sends(JPEG)
    cells = [web.url("/a", "rebind.test"), web.url("/a", "two.test")]
    done = fetched(tmp_path, *cells, manners=replace(QUICK, allow_private=False))
    assert done.fetched == 1
    assert len(answers["rebind.test"]) == 1  # looked up once
    assert [one.reason for one in done.failed] == [
        "the host two.test has the address 10.0.0.1, which is private (see --allow-private)"
    ]


def test_proxies_of_the_environment_are_not_used(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    web.pages["/a"] = sends(JPEG)
    assert fetched(tmp_path, web.url("/a")).fetched == 1


def test_what_strangers_say_cannot_steer_a_terminal(tmp_path: Path, web: Web):
    assert printable("a\x1b[2Jb\nü") == "a\\x1b[2Jb\\nü"
    web.pages["/a"] = sends(b"", 302, Location="gopher://x/\x1b]0;hello\x07")
    lines = fetched(tmp_path, web.url("/a")).lines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_what_failed_is_written_to_no_file_outside_of_the_data(tmp_path: Path, web: Web, kind: str):
    mine, place = tmp_path / "mine.txt", tmp_path / "data" / "downloads" / FAILURES_FILE
    place.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(mine)
    if kind == "link":
        mine.write_text("precious")
    with pytest.raises(StoreError, match="no plain file"):
        fetched(tmp_path / "data", web.url("/gone"))
    assert (mine.read_text() if mine.exists() else None) == ("precious" if kind == "link" else None)
    assert not web.hits


def test_a_record_that_somebody_made_up_is_passed_over(tmp_path: Path, web: Web):
    place = tmp_path / "downloads" / FAILURES_FILE
    place.parent.mkdir()
    good = {"url": web.url("/gone"), "reason": "no", "final": True, "attempts": 1, "time": ""}
    wrong = [{"url": []}, {"reason": None}, {"final": "yes"}, {"attempts": {}}, {"time": 5}]
    place.write_text("".join(json.dumps(good | one) + "\n" for one in wrong) + "[" * 100_000)
    web.pages["/gone"] = sends(JPEG)
    assert fetched(tmp_path, web.url("/gone")).failed == ()
    assert web.hits == {"/gone": 1}


def test_certificates_are_verified_and_protection_is_not_given_up(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
):
    import ssl

    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    paths = {"keyout": tmp_path / "key.pem", "out": tmp_path / "cert.pem"}
    try:
        files = [part for option, path in paths.items() for part in (f"-{option}", str(path))]
        subprocess.run([*made, *names, *files], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(paths["out"], paths["keyout"])
    web.pages["/plain"] = sends(JPEG)
    with serving(tls) as safe:
        safe.pages = {"/a": sends(JPEG), "/down": sends(b"", 302, Location=web.url("/plain"))}
        cells = [safe.url("/a", "localhost"), safe.url("/down", "localhost"), safe.url("/a", "127.0.0.1")]
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        [unknown] = fetched(tmp_path / "one", cells[0]).failed
        assert "CERTIFICATE_VERIFY_FAILED" in unknown.reason
        assert unknown.final
        monkeypatch.setenv("SSL_CERT_FILE", str(paths["out"]))
        done = fetched(tmp_path / "two", *cells)
        reasons = {one.url: one.reason for one in done.failed}
        assert done.fetched == 1
        assert reasons[cells[1]].startswith("redirects from https to 'http://")
        assert "IP address mismatch" in reasons[cells[2]]
        assert not web.hits
