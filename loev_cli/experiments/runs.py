"""Many training runs, alike but for what is compared: each ``loev train`` in a process of its own.

    FOLDER/NAME.toml     the config
    FOLDER/NAME.log      the output of the run
    FOLDER/NAME/         as ``loev train --out`` leaves it: config.toml, checkpoints/, bundle/

A run that is finished is taken as it is; one that is not resumes from its last checkpoint.

A budget of minutes becomes a number of steps, the same for all methods: a few steps of each method
are really trained first, as many side by side as later. The number is kept in ``plan.json``, so
that the same command goes on with the same runs.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from loev_cli import bundle as bundles
from loev_cli.backends.machine import usable_cpus
from loev_cli.embed.journal import Lock
from loev_cli.errors import LoevError, OutputError, UsageError
from loev_cli.manifest import TRACK
from loev_cli.storage.atomic import write_own
from loev_cli.storage.own import own
from loev_cli.train.checkpoint import FOLDER, LAST
from loev_cli.train.config import TrainConfig, from_mapping, read_toml, to_toml
from loev_cli.train.data import listing
from loev_cli.train.loop import Trainer
from loev_cli.train.metrics import METRICS_FILE
from loev_cli.train.pipeline import BUNDLE, CONFIG_FILE, pick_device

_POLL_EVERY_S = 0.2
_LET_SAVE_S = 60.0  # a run that is told to stop writes a checkpoint first
_TAIL_N_BYTES = 4096
_PACKAGE_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """A model to be trained.

    Attributes:
        name: of its folder, unlike the names of the others.
        config: complete, with absolute ``data`` and with ``steps`` or ``minutes``.
    """

    name: str
    config: TrainConfig


State = Literal["taken", "started", "resumed", "training", "finished", "failed"]


@dataclass(frozen=True)
class RunEvent:
    """Something happened to a run.

    Attributes:
        step: that the run has reached.
        n_steps: that it is to reach; None if it is to train for minutes.
        message: why it failed.
    """

    name: str
    state: State
    step: int = 0
    n_steps: int | None = None
    message: str = ""


def check_runs(runs: Sequence[Run], *, device: str = "auto") -> None:
    """Everything about the runs that can be known before the first one is started.

    Raises:
        UsageError: two of one name, a config that cannot be trained, no data or less than a batch,
            a device that is not there.
    """
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"duplicate run name '{name}'")
    torch_device = pick_device(device)
    seen: list[TrainConfig] = []
    for run in runs:
        but_seed = dataclasses.replace(run.config, seed=0)
        if but_seed in seen:
            continue
        seen.append(but_seed)
        listed = listing(run.config.data, run.config.variants)
        n_tracks = len({i.labels.get(TRACK) or i.path for i in listed if i.split != "test"})
        if n_tracks < run.config.batch_size:
            raise UsageError(
                f"{n_tracks} tracks to train on are fewer than the batch of "
                f"{run.config.batch_size}",
                hint="use a smaller --batch-size, or add music",
            )
        Trainer(run.config, Path(run.name), device=torch_device)


def train_runs(
    runs: Sequence[Run],
    folder: Path,
    *,
    n_parallel: int = 1,
    device: str = "auto",
    cache: Path | None = None,
    overwrite: bool = False,
    on_event: Callable[[RunEvent], None] = lambda event: None,
) -> dict[str, Path]:
    """Train what is not trained yet, ``n_parallel`` runs at a time that share the cores.

    If one fails the others go on. Interrupted, all are told to stop and save a checkpoint; calling
    this again goes on.

    Args:
        folder: made if it is missing; a run lives in ``folder/NAME``.
        cache: folder of decoded tracks; None for the usual one.
        overwrite: throw away a run of that name with another config, instead of refusing.

    Returns:
        name -> its bundle, in the order of ``runs``.

    Raises:
        UsageError: as :func:`check_runs`; a run of that name has another config.
        OutputError: another process trains in ``folder``, or it cannot be written.
        LoevError: a run failed; raised when all others are done.
    """
    check_runs(runs, device=device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
    with ExitStack() as stack:
        lock = Lock(folder / ".lock", what=str(folder))
        stack.callback(lock.close)
        todo = []
        for run in runs:
            _refuse_other_config(run, folder, overwrite=overwrite)
            if is_finished(run, folder):
                on_event(RunEvent(run.name, "taken", run.config.steps or 0, run.config.steps))
            else:
                todo.append(run)
        failed = _Pool(folder, lock, n_parallel, device, cache, on_event).train(todo)
    if failed:
        name, reason = next(iter(failed.items()))
        raise LoevError(
            f"{len(failed)} of {len(runs)} runs failed, the first, {name}: {reason}",
            hint=f"see {folder / name}.log; run the same command again to resume",
        )
    return {run.name: folder / run.name / BUNDLE for run in runs}


def is_finished(run: Run, folder: Path) -> bool:
    """Whether ``folder`` holds the run, trained to the end as its config says, with its bundle."""
    config, bundle = folder / run.name / CONFIG_FILE, folder / run.name / BUNDLE
    if not config.is_file() or not (bundle / bundles.CONFIG_FILE).is_file():
        return False
    step, elapsed_s = _reached(folder / run.name)
    enough_steps = run.config.steps is not None and step >= run.config.steps
    enough_time = run.config.minutes is not None and elapsed_s >= 60 * run.config.minutes
    return _config_of(config) == run.config and (enough_steps or enough_time)


def _refuse_other_config(run: Run, folder: Path, *, overwrite: bool) -> None:
    file = folder / run.name / CONFIG_FILE
    if not file.is_file():
        return
    there = _config_of(file)
    if there == run.config:
        return
    if overwrite:
        shutil.rmtree(folder / run.name)
        return
    differing = [
        field.name
        for field in dataclasses.fields(TrainConfig)
        if getattr(there, field.name) != getattr(run.config, field.name)
    ]
    raise UsageError(
        f"{folder / run.name} was trained with different settings: {', '.join(differing)}",
        hint="give the same settings, choose another --out, or --overwrite",
    )


def _config_of(file: Path) -> TrainConfig:
    return from_mapping(TrainConfig, read_toml(str(file)))


def _reached(run: Path) -> tuple[int, float]:
    """Steps and seconds that a run has trained for, by its metrics."""
    try:
        with (run / METRICS_FILE).open("rb") as stream:
            header = stream.readline().decode()
            stream.seek(max(stream.tell(), (run / METRICS_FILE).stat().st_size - _TAIL_N_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
        if not lines:
            return 0, 0.0
        row = next(csv.DictReader([header, lines[-1]]))
        return int(row["step"]), float(row["elapsed_s"])
    except (OSError, StopIteration, KeyError, TypeError, ValueError):
        return 0, 0.0  # not begun, or a row that is just being written


@dataclass
class _Process:
    run: Run
    process: subprocess.Popen[bytes]
    step: int = 0


class _Pool:
    """Runs side by side."""

    def __init__(
        self,
        folder: Path,
        lock: Lock,
        n_parallel: int,
        device: str,
        cache: Path | None,
        on_event: Callable[[RunEvent], None],
    ) -> None:
        self._folder = folder
        self._lock = lock
        self._n_parallel = max(1, n_parallel)
        self._device = device
        self._cache = cache
        self._tell = on_event

    def train(self, runs: Sequence[Run]) -> dict[str, str]:
        """Name -> reason of those that failed."""
        waiting = list(runs)
        at_work: list[_Process] = []
        failed: dict[str, str] = {}
        try:
            while waiting or at_work:
                while waiting and len(at_work) < self._n_parallel:
                    at_work.append(self._start(waiting.pop(0)))
                time.sleep(_POLL_EVERY_S)
                for one in list(at_work):
                    self._follow(one)
                    if one.process.poll() is None:
                        continue
                    at_work.remove(one)
                    reason = self._reason(one)
                    if reason:
                        failed[one.run.name] = reason
                    state: State = "failed" if reason else "finished"
                    self._event(one.run, state, one.step, reason)
        finally:
            _stop([one.process for one in at_work])
        return failed

    def _start(self, run: Run) -> _Process:
        home = self._folder / run.name
        resumes = (home / FOLDER / LAST).is_file()
        asked = self._folder / f"{run.name}.toml"
        command = [
            *(sys.executable, "-P", "-m", "loev_cli", "train", "--config", str(asked)),
            *("--out", str(home), "--device", self._device),
            *(["--resume"] if resumes else []),
            *(["--cache", str(self._cache)] if self._cache else []),
        ]
        n_threads = str(max(1, usable_cpus() // self._n_parallel))
        path = os.pathsep.join(filter(None, [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": n_threads}
        # The runs hold the lock too: should this process be killed, they are still at work.
        descriptors = () if sys.platform == "win32" else (self._lock.fileno(),)
        try:
            write_own(asked, to_toml(run.config).encode())
            with open(self._folder / f"{run.name}.log", "ab", opener=own) as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    pass_fds=descriptors,
                    # Ctrl-C in a terminal goes to all of a group; here it is passed on, once.
                    start_new_session=True,
                )
        except OSError as error:
            raise OutputError(f"cannot train in {self._folder}: {error.strerror}") from error
        step, _ = _reached(home)
        self._event(run, "resumed" if resumes else "started", step)
        return _Process(run, process)

    def _follow(self, one: _Process) -> None:
        step, _ = _reached(self._folder / one.run.name)
        if step > one.step:
            one.step = step
            self._event(one.run, "training", step)

    def _reason(self, one: _Process) -> str:
        """Why the process ended without a model; empty if it has made one."""
        code = one.process.returncode
        if code == 0 and is_finished(one.run, self._folder):
            return ""
        lines = (self._folder / f"{one.run.name}.log").read_text("utf-8", "replace").splitlines()
        last = lines[-1].removeprefix("loev: error: ") if lines else "no output"
        return last if code >= 0 else f"killed by signal {-code}"

    def _event(self, run: Run, state: State, step: int, message: str = "") -> None:
        self._tell(RunEvent(run.name, state, step, run.config.steps, message))


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Tell all to save and end, and wait for it; who does not is killed."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + _LET_SAVE_S
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


PLAN_FILE = "plan.json"
TRIAL_FOLDER = "trial"
_TRIAL_STEPS = 6
_WARM_STEPS = 2  # pay for setting up
_MARGIN = 0.95
_FEWEST_STEPS = 10


def steps_within(
    minutes: float,
    methods: Sequence[Run],
    n_seeds: int,
    out: Path,
    *,
    n_parallel: int,
    device: str,
    cache: Path | None,
    on_event: Callable[[RunEvent], None],
) -> int:
    """Steps for each of ``n_seeds`` runs of every method, all done in ``minutes`` of training.

    Args:
        methods: a run of each method, its length not yet decided.

    Raises:
        UsageError: the minutes are too few.
        LoevError: a method cannot be trained.
    """
    asked = {
        "minutes": minutes,
        "methods": [run.name for run in methods],
        "seeds": n_seeds,
        "jobs": n_parallel,
    }
    decided = _decided(out / PLAN_FILE, asked)
    if decided is not None:
        return decided
    trial = out / TRIAL_FOLDER
    runs = [replace(m, config=replace(m.config, steps=_TRIAL_STEPS, minutes=None)) for m in methods]
    train_runs(
        runs, trial, n_parallel=n_parallel, device=device, cache=cache, overwrite=True,
        on_event=on_event,
    )  # fmt: skip
    step_s = {run.name: _step_s(trial / run.name / METRICS_FILE) for run in runs}
    shutil.rmtree(trial)
    n_side_by_side = min(n_parallel, n_seeds * len(methods))
    steps = int(_MARGIN * 60 * minutes * n_side_by_side / (n_seeds * sum(step_s.values())))
    if steps < _FEWEST_STEPS:
        needed = minutes * _FEWEST_STEPS / max(steps, 0.1)
        raise UsageError(
            f"--minutes {minutes:g} allows only {steps} steps per run",
            hint=f"{needed:.0f} or more, or fewer --seeds or --methods",
        )
    plan = asked | {"steps": steps, "step_s": step_s}
    write_own(out / PLAN_FILE, (json.dumps(plan, indent=2) + "\n").encode())
    return steps


def _decided(file: Path, asked: dict[str, Any]) -> int | None:
    """The steps that were decided on when the same was asked for."""
    try:
        plan = json.loads(file.read_text(encoding="utf-8"))
        return int(plan["steps"]) if all(plan.get(k) == v for k, v in asked.items()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _step_s(metrics: Path) -> float:
    with metrics.open(newline="", encoding="utf-8") as stream:
        elapsed_s = [float(row["elapsed_s"]) for row in csv.DictReader(stream)]
    return (elapsed_s[-1] - elapsed_s[_WARM_STEPS - 1]) / (len(elapsed_s) - _WARM_STEPS)
