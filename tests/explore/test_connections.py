"""Clients that hold connections without asking, or without taking the answer."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loev_cli.explore import Access, new_token, security
from tests.explore.common import Place, Site, served, write_embedding

PATIENCE_S = 60
HALF = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "


@pytest.fixture
def impatient(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "REQUEST_TIMEOUT_S", 0.3)
    monkeypatch.setattr(security, "SEND_TIMEOUT_S", 0.5)
    monkeypatch.setattr(security, "_CHECK_EVERY_S", 0.05)
    monkeypatch.setattr(site.server.config, "timeout_keep_alive", 0.5)


@pytest.fixture
def guarded(place: Place) -> Iterator[Site]:
    with served(place, Access(new_token(), "0.0.0.0")) as running:
        yield running


@contextlib.contextmanager
def connected(site: Site, first: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE_S) as client:
        client.sendall(first)
        yield client


def is_closed(client: socket.socket) -> bool:
    """Whether the server ends the connection, without an answer."""
    try:
        return client.recv(100) == b""
    except ConnectionError:
        return True


def test_half_sent_requests_keep_nobody_out(guarded: Site) -> None:
    """More of them than there may be connections; the time they may take has not passed."""
    with contextlib.ExitStack() as stack:
        halves = [stack.enter_context(connected(guarded, HALF)) for _ in range(140)]
        for _ in range(5):
            assert guarded.get("/").status == 401
        for client in halves[:70]:  # the oldest made room
            assert is_closed(client)


def test_connections_that_are_silent_keep_nobody_out(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(140):
            stack.enter_context(connected(site))
        assert site.get("/api/library").status == 200


@pytest.mark.parametrize(
    "first",
    [
        b"",
        HALF,
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nbody",
    ],
)
@pytest.mark.usefixtures("impatient")
def test_a_request_has_to_come(site: Site, first: bytes) -> None:
    with connected(site, first) as client:
        answer = b""
        with contextlib.suppress(ConnectionError):
            while block := client.recv(1 << 16):
                answer += block
        assert answer == b"" or b"Content-Length" in first  # that one is answered before


@pytest.mark.usefixtures("impatient")
def test_a_byte_now_and_then_is_no_request(site: Site) -> None:
    with connected(site, HALF) as client:
        deadline = time.monotonic() + PATIENCE_S
        client.settimeout(0.05)
        while True:
            assert time.monotonic() < deadline
            try:
                client.sendall(b"x")
                if client.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break


@pytest.mark.usefixtures("impatient")
def test_the_second_request_has_to_come_too(site: Site) -> None:
    whole = b"GET /style.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with connected(site, whole + HALF) as client:
        answer = b""
        with contextlib.suppress(ConnectionError):
            while block := client.recv(1 << 16):
                answer += block
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_nobody_takes_ends(tmp_path: Path) -> None:
    write_embedding(tmp_path / "emb.npz", ["large.wav"])
    with (tmp_path / "large.wav").open("wb") as stream:
        stream.truncate(200 << 20)
    with served(Place(tmp_path / "emb.npz", tmp_path, tmp_path)) as site:
        request = b"GET /audio/0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        with connected(site, request) as client:
            deadline = time.monotonic() + PATIENCE_S
            while _peers_of(site.port):  # as long as the server holds its end
                assert time.monotonic() < deadline
                time.sleep(0.1)
            taken = 0
            with contextlib.suppress(ConnectionError):
                while block := client.recv(1 << 20):
                    taken += len(block)
            assert taken < 200 << 20
        assert site.get("/api/library").status == 200


def _peers_of(port: int) -> int:
    """Connections to a port that are established, at the server's end."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    local = f":{port:04X}"
    return sum(f[1].endswith(local) and f[3] == "01" for f in fields)


# ------------------------------------------------------------ odd questions


@pytest.mark.parametrize("duration_s", [np.nan, np.inf, -np.inf, -1.0])
def test_tracks_of_no_known_length(
    place: Place, tmp_path: Path, duration_s: float, capfd: pytest.CaptureFixture[str]
) -> None:
    with np.load(place.emb) as columns:
        arrays = dict(columns)
    row = place.row("old.aiff")
    arrays["duration_s"][row] = duration_s
    np.savez(tmp_path / "emb.npz", **arrays)
    with served(replace(place, emb=tmp_path / "emb.npz")) as site:
        assert site.get(f"/audio/{row}").status == 404
        assert site.get(f"/audio/{row}", {"Range": "bytes=0-10"}).status == 404
        assert site.get(f"/api/tracks?rows={row}").status == 200
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("header", ["bytes={n}-", "bytes=-{n}", "bytes=0-{n}", "bytes={n}-{n}"])
def test_ranges_of_thousands_of_digits(
    site: Site, place: Place, header: str, capfd: pytest.CaptureFixture[str]
) -> None:
    value = header.format(n="9" * 5000)
    for path in ("old.aiff", "plain/00.wav"):
        answer = site.get(f"/audio/{place.row(path)}", {"Range": value})
        assert 400 <= answer.status < 500
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "host",
    [
        "user@127.0.0.1",
        "user:password@127.0.0.1:80",
        "evil.example@127.0.0.1",
        "127.0.0.1#evil.example",
        "127.0.0.1/evil",
        "127.0.0.1?x",
        "127.0.0.1:",
        "127.0.0.1:80:80",
        "127.0.0.1:port",
        "[::1",
        "[::1]x",
        "::1",
        "127.0.0.1 x",
        "",
    ],
)
@pytest.mark.parametrize("token", [None, "t" * 40])
def test_a_host_is_a_name_and_a_port(host: str, token: str | None) -> None:
    assert not Access(token).allows_host(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:80", "[::1]", "[::1]:8765", "LOCALHOST"])
def test_hosts_of_this_machine(host: str) -> None:
    assert Access().allows_host(host)


def test_a_host_with_a_user_is_refused_over_http(site: Site) -> None:
    for host in ("a@127.0.0.1", "127.0.0.1#b"):
        assert site.get("/", {"Host": host}).status == 403
