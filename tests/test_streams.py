"""Standard streams that are full, closed, or a terminal; folders that are gone."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from loev_cli import bundle as bundles
from loev_cli.bundle import Bundle
from loev_cli.cli import main
from loev_cli.cli._console import escaped
from loev_cli.formats import Row, open_writer, read
from tests.conftest import ROOT, Loev, add_bad_files, command, environment, write_audio
from tests.search.common import DIMS, meta, write_library
from tests.train.conftest import TINY_OPTIONS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and ptys")

FAILING_STDERR = ["2>/dev/full", "2>&-", "2> >(head -c 1 >/dev/null)"]
EVIL = "a\x1b[2J\x9b1m\u202egpj\u2028\x7f.wav"


def shell(line: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["bash", "-c", line], capture_output=True, env=environment(), timeout=120)


def words(*arguments: str | Path) -> str:
    return shlex.join(command(*arguments))


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> str:
    """What a terminal shows that is stdout and stderr of the command."""
    import pty

    ours, theirs = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # Linux: the other end is closed
            while block := os.read(ours, 1 << 16):
                seen.append(block)

    reader = threading.Thread(target=read)
    reader.start()
    with open(theirs, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:  # noqa: PTH123
        patch.setattr("sys.stdout", terminal)
        patch.setattr("sys.stderr", terminal)
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
    reader.join()
    os.close(ours)
    assert exit_info.value.code in (0, 3), seen
    return b"".join(seen).decode("utf-8")


# ---------------------------------------------------------------- stderr


@pytest.mark.parametrize("stderr", FAILING_STDERR)
def test_work_goes_on_without_stderr(
    stderr: str, bundle: Bundle, library: Path, tmp_path: Path, loev: Loev
) -> None:
    add_bad_files(library)
    out = tmp_path / "x.npz"
    assert shell(f"{words('embed', library, '--out', out, '--model', bundle.path)} {stderr}"
                 ).returncode == 3  # fmt: skip
    assert len(read(out).paths) == 5
    asked = ["search", out, "short.WAV", "--format", "jsonl"]
    done = shell(f"{words(*asked)} {stderr}")
    assert (done.returncode, done.stdout.decode()) == (0, loev(*asked).out)
    assert len(done.stdout.splitlines()) == 5
    assert shell(f"{words('search', out, 'none.wav')} {stderr}").returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "stderr",
    [
        FAILING_STDERR[0],
        FAILING_STDERR[1],
        "2>&1 | head -n 1",
    ],
)
def test_annotate_and_train_go_on_without_stderr(stderr: str, tmp_path: Path) -> None:
    music = tmp_path / "music"
    for i in range(5):
        write_audio(music / f"{i}.wav", 4.0, rate_hz=16000, seed=i)
    (music / "bad.mp3").write_text("no music\n" * 50)
    out = tmp_path / "x.csv"
    line = words("annotate", music, "--out", out)
    assert shell(f"set -o pipefail; {line} {stderr}").returncode == 3
    with out.open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 5
    run = tmp_path / "run"
    line = words(
        *("train", music, "--out", run, "--steps", "1", "--batch-size", "4", "--no-cache"),
        *("--set", "val_fraction=0", "--device", "cpu", *TINY_OPTIONS),
    )
    assert shell(f"set -o pipefail; {line} {stderr}").returncode == 0
    assert bundles.load(run / "bundle").subspaces


def test_a_library_on_stdout_does_not_end_up_elsewhere_without_stderr(
    bundle: Bundle, tmp_path: Path
) -> None:
    """What a C library prints goes to descriptor 2, whatever file has come to be it."""
    file = write_audio(tmp_path / "in" / "x.mp3", 5.0, rate_hz=44100)
    file.write_bytes(file.read_bytes()[:20_000])  # libmpg123 comments on such a file
    write_audio(tmp_path / "in" / "y.wav")
    line = words("embed", tmp_path / "in", "--out", "-", "--model", bundle.path)
    done = shell(f"{line} <&- 2>&-")
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()][-1] == "y.wav"


# ---------------------------------------------------------------- stdout


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["models"], ["models", "loevpp-small"], ["search", "--help"]],
)
def test_a_full_stdout_is_one_line_that_names_it(arguments: list[str]) -> None:
    done = shell(f"{words(*arguments)} > /dev/full")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert b"/dev/full" in done.stderr


def test_rows_for_a_full_stdout(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    write_library(tmp_path / "x.npz", 40)
    lines = [
        words("embed", library, "--out", "-", "--model", bundle.path, "--quiet"),
        *(
            words("search", tmp_path / "x.npz", "003.wav", "--format", name, "--quiet")
            for name in ("table", "csv")  # which are written in two ways
        ),
    ]
    for line in lines:
        done = shell(f"{line} > /dev/full")
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert b"/dev/full" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["embed", "--help"], ["models", "loevpp-small"]])
def test_help_for_a_reader_of_one_line(arguments: list[str]) -> None:
    done = shell(f"set -o pipefail; {words(*arguments)} | head -n 1")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("columns", ["0", "1", "abc", "", "-5", "9" * 30])
def test_help_is_shown_in_any_width(
    columns: str, loev: Loev, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    done = loev("--help")
    assert done.code == 0
    assert "annotate" in done.out
    assert len(done.out.splitlines()) < 100


# ---------------------------------------------------------------- folders that are gone


@pytest.mark.parametrize(
    "arguments",
    [
        ["models"],
        ["embed", "a.wav", "--out", "x.npz"],
        ["train", "music", "--out", "run"],
        ["embed", "--help"],
    ],
)
def test_a_removed_working_folder_is_named(arguments: list[str], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = shell(f"cd {gone} && rmdir {gone} && {words(*arguments)}")
    if "--help" in arguments:
        assert done.returncode == 0
    else:
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert str(gone) in done.stderr.decode()


def test_an_output_folder_removed_meanwhile_is_named(tmp_path: Path) -> None:
    file = write_audio(tmp_path / "a.wav", 4.0, rate_hz=16000)
    out = tmp_path / "out" / "x.csv"
    out.parent.mkdir()
    process = subprocess.Popen(
        command("annotate", "-", "--out", out),
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    assert process.stdin is not None
    while not any(out.parent.iterdir()):  # the file has been begun
        assert process.poll() is None
    shutil.rmtree(out.parent)
    _, told = process.communicate(f"{file}\n".encode(), timeout=120)
    assert (process.returncode, len(told.splitlines())) == (1, 1), told
    assert str(out).encode() in told


# ---------------------------------------------------------------- what a terminal is shown


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    with open_writer(str(tmp_path / "evil.npz"), meta()) as writer:
        for i in range(3):
            vectors = {s: np.eye(d, dtype=np.float32)[0] for s, d in DIMS.items()}
            writer.add(Row(f"{i}{EVIL}", 10.0, False, vectors))
        writer.commit()
    return tmp_path / "evil.npz"


def assert_harmless(seen: str) -> None:
    for mark in ("\x1b[2J", "\x9b", "\u202e", "\u2028", "\x7f"):
        assert mark not in seen


@pytest.mark.parametrize("name", ["table", "csv", "jsonl", "m3u"])
def test_lists_do_nothing_to_a_terminal(
    name: str, evil: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str | Path]] = [
        ["search", evil, f"0{EVIL}"],
        ["dedup", evil],
        ["playlist", evil, "--seed", f"0{EVIL}"],
    ]
    for arguments in commands:
        seen = on_a_terminal(monkeypatch, *arguments, "--format", name, "--quiet")
        assert_harmless(seen)
        assert "1" in seen
        if name == "jsonl":
            paths = {json.loads(line)["path"] for line in seen.splitlines()}
            assert f"0{EVIL}" in paths
        if name in ("csv", "m3u"):
            assert "\\x1b[2J\\x9b1m\\u202egpj\\u2028\\x7f" in seen


def test_in_a_pipe_they_are_as_they_are(evil: Path, loev: Loev) -> None:
    for name in ("csv", "jsonl", "m3u"):
        assert "\u202egpj" in loev("search", evil, f"0{EVIL}", "--format", name).out
    assert "\\u202egpj" in loev("search", evil, f"0{EVIL}").out


def test_cards_and_failures_do_nothing_to_a_terminal(tmp_path: Path, loev: Loev) -> None:
    shutil.copytree(ROOT / "models" / "loevpp-small", tmp_path / "evil")
    (tmp_path / "evil" / "README.md").write_text(f"# {EVIL}\n\nsecond line\n")
    card = loev("models", tmp_path / "evil")
    assert_harmless(card.out)
    assert card.out.splitlines()[2] == "second line"
    config = json.loads((tmp_path / "evil" / "config.json").read_text())
    config["name"] = EVIL
    (tmp_path / "evil" / "config.json").write_text(json.dumps(config))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / EVIL).write_text("no music\n" * 50)
    commands: list[list[str | Path]] = [
        ["embed", tmp_path / "in", "--out", tmp_path / "x.npz"],
        ["annotate", tmp_path / "in"],
    ]
    for arguments in commands:
        done = loev(*arguments)
        assert done.code == 1
        assert_harmless(done.err)
        assert len(done.lines) == 2


def test_what_is_escaped() -> None:
    assert escaped("é日🎵 \\ ok") == "é日🎵 \\ ok"
    assert escaped("\0\n\x9f\u061c\u2069\U000e0041") == "\\x00\\x0a\\x9f\\u061c\\u2069\\U000e0041"
    assert escaped("a\n\x1bb", keep_lines=True) == "a\n\\x1bb"
