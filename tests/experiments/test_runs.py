"""Runs side by side: taken, resumed, refused, failed and stopped, with real training."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from loev_cli import bundle as bundles
from loev_cli.errors import LoevError, OutputError, UsageError
from loev_cli.experiments.runs import RunEvent, is_finished, train_runs
from loev_cli.train.checkpoint import load_checkpoint
from loev_cli.train.config import to_toml
from loev_cli.train.pipeline import CONFIG_FILE
from tests.conftest import environment
from tests.experiments.conftest import run_of


@pytest.fixture(scope="module")
def finished(music: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished run of method ``cl``, seed 0."""
    out = tmp_path_factory.mktemp("finished")
    events: list[RunEvent] = []
    made = train_runs([run_of(music, "cl")], out, cache=cache, on_event=events.append)
    assert made == {"cl-seed0": out / "cl-seed0" / "bundle"}
    assert bundles.load(made["cl-seed0"]).config["method"] == "cl"
    assert events[0].state == "started" and events[-1].state == "finished"
    assert events[-1].step == events[-1].n_steps == 2
    return out


@pytest.mark.slow
def test_runs_are_trained_taken_and_gone_on_with(
    finished: Path, music: Path, cache: Path, tmp_path: Path
) -> None:
    first, second = run_of(music, "cl"), run_of(music, "loev++", 1)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    events: list[RunEvent] = []

    # A run that has a checkpoint but no bundle is gone on with; a finished one is not touched.
    weights = (tmp_path / "cl-seed0" / "bundle" / bundles.WEIGHTS_FILE).stat().st_mtime_ns
    train_runs([second], tmp_path, cache=cache)
    (tmp_path / second.name / "bundle" / bundles.CONFIG_FILE).unlink()
    assert not is_finished(second, tmp_path)
    made = train_runs([first, second], tmp_path, n_parallel=2, cache=cache, on_event=events.append)
    states = {name: [e.state for e in events if e.name == name] for name in made}
    assert states[first.name] == ["taken"]
    assert states[second.name][0] == "resumed" and states[second.name][-1] == "finished"
    assert (made["cl-seed0"] / bundles.WEIGHTS_FILE).stat().st_mtime_ns == weights
    assert is_finished(second, tmp_path)


def test_another_config_is_refused(music: Path, cache: Path, tmp_path: Path) -> None:
    there = run_of(music, "cl")
    (tmp_path / there.name).mkdir()
    (tmp_path / there.name / CONFIG_FILE).write_text(to_toml(there.config))
    with pytest.raises(UsageError, match="different settings: lr"):
        train_runs([run_of(music, "cl", lr=0.001)], tmp_path, cache=cache)


@pytest.mark.slow
def test_another_config_is_thrown_away_when_asked(
    finished: Path, music: Path, cache: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    other = run_of(music, "cl", lr=0.001)
    train_runs([other], tmp_path, cache=cache, overwrite=True)
    assert is_finished(other, tmp_path)


@pytest.mark.slow
def test_one_failure_leaves_the_others_alone(music: Path, cache: Path, tmp_path: Path) -> None:
    events: list[RunEvent] = []
    (tmp_path / "cl-seed0").write_text("a file where the folder should be")
    with pytest.raises(LoevError, match="1 of 2 runs failed, the first, cl-seed0: "):
        train_runs(
            [run_of(music, "cl"), run_of(music, "cl", 1)],
            tmp_path,
            cache=cache,
            on_event=events.append,
        )
    assert {e.name: e.state for e in events} == {"cl-seed0": "failed", "cl-seed1": "finished"}
    assert is_finished(run_of(music, "cl", 1), tmp_path)


def test_what_cannot_be_trained_is_said_before_anything_starts(music: Path, tmp_path: Path) -> None:
    for run, says in [
        (run_of(music, "cl", batch_size=64), "10 tracks to train on are fewer than the batch"),
        (run_of(music, "cl", steps=None), "missing option: --steps or --minutes"),
        (run_of(tmp_path / "none", "cl"), "no such folder or file"),
    ]:
        with pytest.raises(UsageError, match=says):
            train_runs([run_of(music, "cl", 1), run], tmp_path / "out")
    with pytest.raises(UsageError, match="duplicate run name 'cl-seed0'"):
        train_runs([run_of(music, "cl")] * 2, tmp_path / "out")
    assert not (tmp_path / "out").exists()


SCRIPT = """
import os
import signal
from pathlib import Path
from loev_cli.cli._boundary import signals_raise
from loev_cli.experiments.runs import train_runs
from tests.experiments.conftest import run_of
runs = [run_of(Path({music!r}), "cl", seed, steps=1000) for seed in (0, 1)]
with signals_raise():
    train_runs(runs, Path({out!r}), n_parallel=2, cache=Path({cache!r}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals and locks of POSIX")
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_runs_save_and_killed_ones_keep_their_lock(
    music: Path, cache: Path, tmp_path: Path, number: signal.Signals
) -> None:
    code = textwrap.dedent(SCRIPT).format(music=str(music), cache=str(cache), out=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], env=environment())
    metrics = [tmp_path / f"cl-seed{seed}" / "metrics.csv" for seed in (0, 1)]
    deadline = time.monotonic() + 120
    while not all(f.exists() and len(f.read_text().splitlines()) > 2 for f in metrics):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    process.wait(timeout=90)
    shorter = [run_of(music, "cl", seed, steps=1000) for seed in (0, 1)]
    if number == signal.SIGKILL:
        with pytest.raises(OutputError, match="in use by another loev process"):
            train_runs(shorter, tmp_path, cache=cache)
        _end_orphans(tmp_path)
        return
    for seed in (0, 1):
        assert load_checkpoint(tmp_path / f"cl-seed{seed}" / "checkpoints" / "last.pt")["step"] >= 2


def _end_orphans(folder: Path) -> None:
    """The runs that the killed process had started, known by their --out."""

    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--out" in words and words[words.index(b"--out") + 1].startswith(bytes(folder)):
            os.kill(int(entry.name), signal.SIGKILL)
