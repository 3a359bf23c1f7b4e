"""``curves.png``: how the losses of a run went."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from loev_cli.writers.atomic import writing_own

_N_POINTS = 200


def draw_curves(metrics: Path, validation: Path, out: Path) -> None:
    """Plot loss per head and learning rate over the steps in ``metrics.csv``.

    Faint lines are single steps, strong ones averages of about a two-hundredth of the run, dots
    the losses in ``validation.csv``, if there is one.
    """
    train, val = _columns(metrics), _columns(validation)
    step = train["step"]
    figure = Figure(figsize=(9, 5), layout="constrained")
    losses, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    size = max(1, len(step) // _N_POINTS)
    for column, values in train.items():
        if not column.startswith("loss_"):
            continue
        head = column.removeprefix("loss_")
        (faint,) = losses.plot(step, values, alpha=0.2, lw=0.8)
        means = np.convolve(values, np.ones(size) / size, mode="valid")
        losses.plot(step[size - 1 :], means, color=faint.get_color(), label=head)
        if column in val:
            losses.plot(val["step"], val[column], "o--", ms=4, lw=0.8, color=faint.get_color())
    if val:
        losses.plot([], [], "o--", ms=4, lw=0.8, color="gray", label="validation")
    losses.set_ylabel("loss")
    losses.set_ylim(bottom=0)
    losses.legend()
    rate.plot(step, train["lr"], color="gray")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    with writing_own(out) as stream:
        figure.savefig(stream, dpi=110, format="png")


def _columns(file: Path) -> dict[str, np.ndarray]:
    """Columns of a CSV of numbers; none of an empty or missing one."""
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]} if rows else {}
