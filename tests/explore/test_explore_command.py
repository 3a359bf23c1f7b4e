"""``loev explore`` as a user meets it: its address, its end, and what it refuses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import Loev, command, environment, foreground
from tests.explore.common import Place


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "code", "host"),
    [(signal.SIGINT, 130, "127.0.0.1"), (signal.SIGTERM, 143, "0.0.0.0")],
    ids=["SIGINT", "SIGTERM"],
)
def test_it_serves_until_it_is_interrupted(
    place: Place, number: signal.Signals, code: int, host: str
) -> None:
    arguments = ["explore", place.emb, "--audio", place.music, "--host", host, "--port", "0"]
    process = subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=foreground,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert ("?token=" in url) is (host == "0.0.0.0")
        if host == "127.0.0.1":
            with urllib.request.urlopen(url, timeout=60) as page:
                assert b"<title>loev explore</title>" in page.read()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    first, note, *last = err.splitlines()
    assert first.endswith(f"tracks of {place.emb}, audio in {place.music}; Ctrl-C to stop")
    assert note.startswith("note: 9 of ")
    assert last == [f"loev: interrupted ({number.name})"]


def test_a_port_that_is_taken(loev: Loev, place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = loev("explore", place.emb, "--port", str(port), "--no-browser")
    assert (done.code, len(done.lines)) == (1, 1)
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in done.err
    assert "--port 0 for any free one" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gone.npz"], "gone.npz"),
        (["{emb}", "--audio", "gone"], "--audio gone: no such folder"),
        (["{emb}", "--host", "no such host"], "--host no such host: no such address"),
        (["{emb}", "--port", "70000"], "--port"),
        (["{emb}", "--bpm-range", "80-100"], "80-100"),
        (["{emb}", "--bpm-range", "80-160"], "no model 'tiny'"),
        (["{emb}", "--bpm-range", "80-160", "--model", "loevpp-small"], "made by tiny"),
        (["{emb}", "--model", "loevpp-small"], "--model is for --bpm-range"),
        ([], "EMB"),
        (["--ab", "{emb}", "{emb}@tempo"], "--log"),
        (["{emb}", "--log", "clicks.jsonl"], "--ab"),
        (["--ab", "{emb}", "{emb}@mood", "--log", "clicks.jsonl"], "mood"),
        (["--ab", "{emb}", "{emb}@tempo", "--log", "{emb}"], "{emb}"),
    ],
)
def test_what_is_refused(loev: Loev, place: Place, arguments: list[str], says: str) -> None:
    given = [argument.replace("{emb}", str(place.emb)) for argument in arguments]
    done = loev("explore", *given, "--no-browser")
    assert (done.code, len(done.lines)) == (2, 1)
    assert says.replace("{emb}", str(place.emb)) in done.err


def test_a_missing_extra_is_named(
    loev: Loev, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("loev_cli.explore")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = loev("explore", place.emb, "--no-browser")
    assert (done.code, len(done.lines)) == (2, 1)
    assert "pip install 'loev-cli[explore]'" in done.err


def test_the_page_is_in_the_package() -> None:
    folder = Path(sys.modules["loev_cli"].__file__ or "").parent / "explore" / "page"
    assert {file.name for file in folder.iterdir()} >= {"index.html", "app.js", "style.css"}
