"""Servers that send without end, not at all, or elsewhere; a real web server on this machine."""

from __future__ import annotations

import http.server
import importlib.util
import ipaddress
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loev_cli.bundle import Bundle
from loev_cli.storage import http as client
from loev_cli.storage import remote
from loev_cli.storage.remote import Limits, RemoteError, RemoteFile, download, fetched, files_below
from tests.conftest import Loev, write_audio

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("aiohttp") is None, reason="fsspec[http] is not installed"
)
SECRET = b"the credentials of this machine"

Routes = dict[str, Callable[[http.server.BaseHTTPRequestHandler], None]]


class Web:
    """A server, listening on every loopback address; ``asked`` are the paths that were asked for,
    with the address at which they were."""

    def __init__(self) -> None:
        self.routes: Routes = {}
        self.asked: list[tuple[str, str]] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.asked.append((self.connection.getsockname()[0], self.path))
                web.routes[self.path](self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server.server_address[1]}{path}"

    def content(self, path: str, content: bytes) -> None:
        def answer(to: http.server.BaseHTTPRequestHandler) -> None:
            to.send_response(200)
            to.send_header("Content-Length", str(len(content)))
            to.end_headers()
            if to.command == "GET":
                to.wfile.write(content)

        self.routes[path] = answer

    def redirect(self, path: str, location: str, body: bytes = b"") -> None:
        def answer(to: http.server.BaseHTTPRequestHandler) -> None:
            to.send_response(302)
            to.send_header("Location", location)
            to.send_header("Content-Length", str(len(body)))
            to.end_headers()
            if to.command == "GET":
                to.wfile.write(body)

        self.routes[path] = answer

    def stream(self, path: str, block: bytes, pause_s: float) -> None:
        """An answer of unknown length that goes on until the client has had enough."""

        def answer(to: http.server.BaseHTTPRequestHandler) -> None:
            to.close_connection = True
            to.send_response(200)
            to.send_header("Connection", "close")
            to.end_headers()
            ends = time.monotonic() + 60
            try:
                while to.command == "GET" and time.monotonic() < ends:
                    to.wfile.write(block)
                    to.wfile.flush()
                    time.sleep(pause_s)
            except OSError:
                pass

        self.routes[path] = answer


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    yield web
    web.server.shutdown()
    web.server.server_close()


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address of this machine that is taken for one of the public Internet."""
    monkeypatch.setattr(client, "is_public_address", lambda address: address == "127.0.0.2")
    return "127.0.0.2"


def refused(url: str, tmp_path: Path) -> str:
    with pytest.raises(RemoteError) as raised:
        download(url, tmp_path / "x")
    assert url in str(raised.value)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ------------------------------------------------------------ limits


def test_more_bytes_than_allowed(web: Web, tmp_path: Path) -> None:
    web.content("/a.wav", bytes(1000))
    url = web.url("/a.wav")
    with fetched(RemoteFile(url, 1000), Limits(max_n_bytes=1000)) as copy:
        assert copy.stat().st_size == 1000
    for size in (1000, None, 3):  # as the server says, does not say, or says wrongly
        with pytest.raises(RemoteError, match=url), fetched(RemoteFile(url, size), Limits(999)):
            pass


def test_bytes_without_end(web: Web, tmp_path: Path) -> None:
    web.stream("/a.wav", bytes(1 << 16), 0)
    url = web.url("/a.wav")
    with pytest.raises(RemoteError, match=url):
        download(url, tmp_path / "x", Limits(max_n_bytes=10 << 20))
    assert (tmp_path / "x").stat().st_size < 40 << 20


@pytest.mark.parametrize("pause_s", [0.05, 30.0])
def test_more_time_than_allowed(web: Web, tmp_path: Path, pause_s: float) -> None:
    """Of a server that sends a byte now and then, and of one that has stopped to."""
    web.stream("/a.wav", b"x", pause_s)
    url = web.url("/a.wav")
    with pytest.raises(RemoteError, match=url):
        download(url, tmp_path / "x", Limits(timeout_s=0.5))


def test_silence_ends_too(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    fsspec.filesystem("http").clear_instance_cache()
    monkeypatch.setattr(client, "SILENCE_TIMEOUT_S", 0.5)
    web.stream("/a.wav", b"x", 30.0)
    url = web.url("/a.wav")
    with pytest.raises(RemoteError, match=url):
        download(url, tmp_path / "x", Limits())
    fsspec.filesystem("http").clear_instance_cache()


def test_the_command_goes_on_with_the_other_files(
    web: Web, bundle: Bundle, tmp_path: Path, loev: Loev
) -> None:
    good = write_audio(tmp_path / "good.wav", 0.5)
    web.content("/good.wav", good.read_bytes())
    web.content("/large.wav", good.read_bytes() * 10)
    web.stream("/slow.wav", b"x", 0.1)
    out = tmp_path / "x.npz"
    done = loev(
        "embed", *(web.url(f"/{name}.wav") for name in ("good", "large", "slow")),
        "--out", out, "--model", bundle.path,
        "--max-download-gb", "0.00005", "--download-timeout-s", "2",
    )  # fmt: skip
    assert done.code == 3
    lines = (tmp_path / "x.npz.failures.jsonl").read_text().splitlines()
    failures = [json.loads(line) for line in lines]
    assert [(f["path"], f["stage"]) for f in failures] == [
        (web.url("/large.wav"), "open"),
        (web.url("/slow.wav"), "open"),
    ]
    assert all(f["path"] in f["message"] for f in failures)


# ------------------------------------------------------------ redirects


def test_what_a_user_names_may_be_here_and_redirect_here(web: Web, tmp_path: Path) -> None:
    web.content("/a.wav", b"audio")
    web.redirect("/old.wav", web.url("/a.wav", "127.0.0.3"))
    download(web.url("/old.wav"), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"audio"


def test_a_public_server_may_redirect_to_itself(web: Web, tmp_path: Path, public: str) -> None:
    web.content("/a.wav", b"audio")
    web.redirect("/old.wav", "/a.wav")
    download(web.url("/old.wav", public), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"audio"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0.0.0.0"])
@pytest.mark.parametrize("body", [b"", b"moved"])
def test_a_public_server_does_not_redirect_here(
    web: Web, tmp_path: Path, public: str, host: str, body: bytes
) -> None:
    web.content("/secret", SECRET)
    web.redirect("/a.wav", web.url("/secret", host), body)
    url = web.url("/a.wav", public)
    refused(url, tmp_path)
    with pytest.raises(RemoteError, match=url):
        files_below(url)
    assert remote.describe(url) == RemoteFile(url)
    assert "/secret" not in [path for _, path in web.asked]
    assert not (tmp_path / "x").exists() or (tmp_path / "x").read_bytes() != SECRET


def test_nor_by_way_of_another_public_page(web: Web, tmp_path: Path, public: str) -> None:
    web.content("/secret", SECRET)
    web.redirect("/b.wav", web.url("/secret"))
    web.redirect("/a.wav", web.url("/b.wav", public))
    refused(web.url("/a.wav", public), tmp_path)
    assert "/secret" not in [path for _, path in web.asked]


def test_nor_over_a_connection_that_is_open(web: Web, tmp_path: Path, public: str) -> None:
    """The user named a file here before: its connection is kept, and not for others to use."""
    web.content("/mine.wav", b"audio")
    web.content("/secret", SECRET)
    web.redirect("/a.wav", web.url("/secret"))
    download(web.url("/mine.wav"), tmp_path / "mine")
    refused(web.url("/a.wav", public), tmp_path)
    assert "/secret" not in [path for _, path in web.asked]


def test_from_here_to_a_public_server_and_back(web: Web, tmp_path: Path, public: str) -> None:
    web.content("/secret", SECRET)
    web.redirect("/b.wav", web.url("/secret"))
    web.redirect("/a.wav", web.url("/b.wav", public))
    refused(web.url("/a.wav"), tmp_path)
    assert "/secret" not in [path for _, path in web.asked]


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.5.5", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        *("2002:7f00:1::", "2002:a00:1::"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not client.is_public_address(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_that_are(address: str) -> None:
    assert client.is_public_address(address)
    assert ipaddress.ip_address(address)
