"""``curves.png``: how the losses of a run went."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

_N_POINTS = 200


def draw_curves(metrics: Path, out: Path) -> None:
    """Plot loss per head and learning rate over the steps in ``metrics.csv``.

    Faint lines are single steps, strong ones averages of about a two-hundredth of the run.
    """
    with metrics.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    step = np.array([int(row["step"]) for row in rows])
    figure = Figure(figsize=(9, 5), layout="constrained")
    losses, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    size = max(1, len(rows) // _N_POINTS)
    for column in rows[0]:
        if not column.startswith("loss_"):
            continue
        values = np.array([float(row[column]) for row in rows])
        (faint,) = losses.plot(step, values, alpha=0.2, lw=0.8)
        means = np.convolve(values, np.ones(size) / size, mode="valid")
        head = column.removeprefix("loss_")
        losses.plot(step[size - 1 :], means, color=faint.get_color(), label=head)
    losses.set_ylabel("loss")
    losses.set_ylim(bottom=0)
    losses.legend()
    rate.plot(step, [float(row["lr"]) for row in rows], color="gray")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    figure.savefig(out, dpi=110)
