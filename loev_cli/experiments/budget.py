"""Convert a time budget to steps per run: the same number for all methods.

A few steps of each method are really trained first, as many side by side as later. What was decided
is kept in ``plan.json``, so that the same command goes on with the same runs.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loev_cli.errors import UsageError
from loev_cli.experiments.runs import Run, RunEvent, train_runs
from loev_cli.train.metrics import METRICS_FILE
from loev_cli.writers.atomic import write_own

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
