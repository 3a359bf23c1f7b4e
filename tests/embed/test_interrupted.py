"""Runs that are killed, stopped, or find the disk full, as processes of their own."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from loev_cli.bundle import Bundle
from loev_cli.formats import read
from tests.conftest import command, environment, foreground, in_process_of_its_own, write_audio
from tests.embed.common import assert_same, embedded, interrupted, left_in, request

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")

N_FILES = 20
PATIENCE_S = 60


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for i in range(N_FILES):
        write_audio(tmp_path / "in" / f"{i:02}.wav", 3.0, seed=i)
    return tmp_path / "in"


def start(bundle: Bundle, folder: Path, out: Path) -> subprocess.Popen[bytes]:
    options = ["--out", out, "--model", bundle.path, "--hop-s", "0.005", "--batch-size", "2"]
    return subprocess.Popen(
        command("embed", folder, *options),
        stderr=subprocess.PIPE,
        env=environment(),
        preexec_fn=foreground,
    )


def wait_for_rows(process: subprocess.Popen[bytes], out: Path) -> None:
    """Until some rows are kept, and the run is in the middle of the next."""
    deadline = time.monotonic() + PATIENCE_S
    while not any(p.stat().st_size > 500 for p in Path(f"{out}.journal").glob("part-*.rows")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_is_done(
    bundle: Bundle, many: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "x.npz"
    process = start(bundle, many, out)
    wait_for_rows(process, out)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code
    (line,) = stderr.decode().splitlines()
    assert line.startswith(f"loev: interrupted ({number.name}); ")
    assert line.endswith(
        f" of {N_FILES} files are done and saved in {out}.journal; "
        "run the same command again to resume"
    )
    n_done = int(line.split("; ")[1].split(" ")[0])
    assert 0 < n_done < N_FILES
    assert left_in(tmp_path) == {"in", "x.npz.journal"}
    done = in_process_of_its_own(
        "embed", many, "--out", out, "--model", bundle.path, "--hop-s", "0.005"
    )
    assert done.code == 0
    assert done.lines[0] == f"{n_done} files already done, {N_FILES - n_done} remaining"
    whole, _ = embedded(bundle, tmp_path / "whole.npz", many, hop_s=0.005)
    assert_same(read(out), whole)


def test_a_signal_to_the_whole_group_is_no_files_failure(
    bundle: Bundle, many: Path, tmp_path: Path
) -> None:
    """As a terminal sends Ctrl-C, and a scheduler SIGTERM, to everybody."""
    out = tmp_path / "x.npz"
    process = start(bundle, many, out)
    wait_for_rows(process, out)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("no list of children here")
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    pids = [int(pid) for task in tasks for pid in task.read_text().split()]
    assert pids
    for pid in [*pids, process.pid]:
        os.kill(pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143
    assert len(stderr.decode().splitlines()) == 1


@pytest.mark.slow
def test_kill_9_again_and_again_loses_nothing(bundle: Bundle, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    for _ in range(3):
        process = start(bundle, many, out)
        wait_for_rows(process, out)
        time.sleep(0.02)
        process.kill()
        process.communicate(timeout=PATIENCE_S)
    (tmp_path / ".x.npz.0123abcd.tmp").touch()  # as one killed while it wrote the output leaves it
    process = start(bundle, many, out)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    assert b"files already done" in stderr
    assert left_in(tmp_path) == {"in", "x.npz", "x.npz.journal"}
    whole, _ = embedded(bundle, tmp_path / "whole.npz", many, hop_s=0.005)
    assert_same(read(out), whole)


@pytest.mark.parametrize(
    "extension",
    [".npz", *(pytest.param(e, marks=pytest.mark.slow) for e in (".parquet", ".jsonl"))],
)
def test_a_full_disk_is_a_clear_error_and_keeps_what_is_done(
    bundle: Bundle, many: Path, tmp_path: Path, extension: str
) -> None:
    """No file may grow beyond a limit: first the part, then, with more room, the output."""
    out = tmp_path / f"x{extension}"
    options = ["--out", out, "--model", bundle.path, "--hop-s", "0.01", "--per-window"]
    line = shlex.join(command("embed", many, *options, "--workers", "1"))
    whole, _ = embedded(
        bundle, tmp_path / f"whole{extension}", many, hop_s=0.01, per_window=True, workers=1
    )
    limit_kb = (tmp_path / f"whole{extension}").stat().st_size // 1024 // 2
    n_tries, n_kept = 0, 0
    while True:
        done = subprocess.run(
            ["bash", "-c", f"ulimit -f {limit_kb * (n_tries + 1)}; {line}"],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        if done.returncode == 0:
            break
        assert done.returncode == 1
        *_, error = done.stderr.splitlines()
        assert error.startswith(f"loev: error: cannot write {out}")
        assert "File too large" in error
        assert not out.exists()
        assert {f for f in left_in(tmp_path) if f.endswith(".tmp")} == set()
        first = done.stderr.splitlines()[0]
        if n_tries:
            assert first.endswith(" remaining")
            n_kept, n_before = int(first.split(" ")[0]), n_kept
            assert n_kept > n_before or n_kept == N_FILES
        n_tries += 1
        assert n_tries < 20
    assert n_tries > 1
    assert_same(read(out), whole)


@pytest.fixture
def without_privileges() -> list[str]:
    """Root may start as many processes as it likes: a command that makes it another user."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv to run as another user")
    keeps = ("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override")
    return ["setpriv", "--reuid", "54321", "--clear-groups", *keeps]


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["-n", "-u"])
def test_a_decoder_that_cannot_be_started_stops_the_run_and_loses_nothing(
    bundle: Bundle, tmp_path: Path, without_privileges: list[str], limit: str
) -> None:
    """So few files, or processes, that the command itself starts, but not all that it needs."""
    prefix = without_privileges if limit == "-u" else []
    for i in range(5):
        write_audio(tmp_path / "in" / f"{i}.wav", seed=i)
    out = tmp_path / "x.npz"
    interrupted(request(bundle, out, tmp_path / "in", workers=1), after=2)
    for left in Path(f"{out}.journal").iterdir():
        left.chmod(0o666)  # also for that other user
    arguments = ["embed", tmp_path / "in", "--out", out]
    line = shlex.join(command(*arguments, "--model", bundle.path, "--workers", "2"))
    reasons = []
    for number in range(2, 7) if limit == "-u" else range(12, 20, 2):
        done = subprocess.run(
            [*prefix, "bash", "-c", f"ulimit {limit} {number}; exec {line}"],
            env=environment() | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        if done.returncode == 0:
            break
        *_, error = done.stderr.splitlines()
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert error.startswith(("loev: error: cannot start ", f"loev: error: cannot write {out}"))
        kept = (
            f"2 of 5 files are done and saved in {out}.journal; "
            "run the same command again to resume"
        )
        assert error.endswith(kept) or "cannot write" in error
        assert not out.exists()
        reasons.append(error)
    assert any("cannot start a decoder" in reason for reason in reasons), reasons
    done_now = in_process_of_its_own(*arguments, "--model", bundle.path)
    assert (done_now.code, len(read(out).paths)) == (0, 5)
