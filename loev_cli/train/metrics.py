"""What a run reports: of every step, in files; in the end, as curves and as a model card."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from loev_cli.defaults import PALETTE
from loev_cli.model import ModelSpec
from loev_cli.storage.atomic import writing_own
from loev_cli.storage.own import own
from loev_cli.train.validation import Validation

METRICS_FILE = "metrics.csv"
VALIDATION_FILE = "validation.csv"
CURVES_FILE = "curves.png"
_N_AVERAGES = 20  # of a curve, that do not overlap


@dataclass(frozen=True)
class Progress:
    """State after one step, for a display and for ``metrics.csv``.

    Attributes:
        losses: per head.
        share_done: 0 to 1 of the steps or minutes asked for.
        elapsed_s: training time, all sessions of the run together.
        audio_s_per_s: seconds of views seen per second, by all processes; None without audio.
        data_wait_share: share of the last step's time spent waiting for its batch.
    """

    step: int
    share_done: float
    elapsed_s: float
    lr: float
    loss: float
    losses: dict[str, float]
    audio_s_per_s: float | None
    data_wait_share: float

    @property
    def remaining_s(self) -> float:
        """Training time left, if it goes on at this pace."""
        return self.elapsed_s * (1 - self.share_done) / max(self.share_done, 1e-9)

    def values(self) -> dict[str, float]:
        """By column of ``metrics.csv``."""
        return {
            "elapsed_s": self.elapsed_s,
            "lr": self.lr,
            "loss": self.loss,
            **{f"loss_{head}": value for head, value in self.losses.items()},
            **({"audio_s_per_s": self.audio_s_per_s} if self.audio_s_per_s else {}),
            "data_wait_share": self.data_wait_share,
        }


def mean_losses(rows: Collection[Mapping[str, float]]) -> dict[str, float]:
    """Loss per head, averaged over ``rows``; empty for none."""
    heads = next(iter(rows), {})
    return {head: sum(row[head] for row in rows) / len(rows) for head in heads}


class MetricsFile:
    """A CSV with a row per step; rows past the step a run resumes from are dropped."""

    def __init__(self, file: Path, step: int) -> None:
        self.file = file
        kept = list(self._rows_up_to(step)) if step and file.exists() else []
        self._stream = open(  # noqa: SIM115
            file, "w", newline="", encoding="utf-8", opener=own
        )
        self._writer = csv.writer(self._stream)
        self._writer.writerows(kept)
        self._has_header = bool(kept)

    def _rows_up_to(self, step: int) -> Iterator[list[str]]:
        with self.file.open(newline="", encoding="utf-8") as stream:
            for row in csv.reader(stream):
                if not row[0].isdigit() or int(row[0]) <= step:
                    yield row

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One row; every row has the same columns."""
        if not self._has_header:
            self._writer.writerow(["step", *values])
            self._has_header = True
        self._writer.writerow([step, *(f"{value:.6g}" for value in values.values())])
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


class TensorBoard:
    """Event files for ``tensorboard --logdir RUN``; steps after a resume replace those before."""

    def __init__(self, folder: Path, step: int) -> None:
        # Slow to import, and only a run that trains needs it.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, float], *, prefix: str) -> None:
        """One point on the curve of every value."""
        for name, value in values.items():
            self._writer.add_scalar(f"{prefix}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


def draw_curves(run: Path, *, chance: float | None = None) -> None:
    """Plot loss per head and learning rate over the steps of the run in this folder.

    Faint lines are single steps, strong ones averages of a twentieth of the run, dots the losses in
    ``validation.csv``, if there is one.

    Args:
        chance: loss of projections that tell no rows apart, drawn as a dotted line.
    """
    from matplotlib.figure import Figure  # slow to import
    from matplotlib.ticker import MaxNLocator

    train, val = _columns(run / METRICS_FILE), _columns(run / VALIDATION_FILE)
    step = train["step"]
    figure = Figure(figsize=(9, 5), layout="constrained")
    losses, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    size = max(1, len(step) // _N_AVERAGES)
    columns = [column for column in train if column.startswith("loss_")]
    for column, color in zip(columns, cycle(PALETTE), strict=False):
        values = train[column]
        losses.plot(step, values, alpha=0.2, lw=0.8, color=color)
        means = np.convolve(values, np.ones(size) / size, mode="valid")
        middles = step[(size - 1) // 2 :][: len(means)]
        losses.plot(middles, means, color=color, label=column.removeprefix("loss_"))
        if column in val:
            losses.plot(val["step"], val[column], "o--", ms=4, lw=0.8, color=color)
    if val:
        losses.plot([], [], "o--", ms=4, lw=0.8, color="gray", label="validation")
    if chance is not None:
        losses.axhline(chance, ls=":", lw=1, color="gray", label="chance")
    losses.set_ylabel("loss")
    losses.set_ylim(bottom=0)
    losses.legend()
    rate.plot(step, train["lr"], color="gray")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    with writing_own(run / CURVES_FILE) as stream:
        figure.savefig(stream, dpi=110, format="png")


def _columns(file: Path) -> dict[str, np.ndarray]:
    """Columns of a CSV of numbers; none of an empty or missing one."""
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]} if rows else {}


def _input(spec: ModelSpec) -> str:
    if not spec.reads_waveforms:
        return f"It reads arrays of shape {spec.input_shape}."
    short = "followed by silence" if spec.pads_short else "repeated"
    return f"""It reads mono audio at {spec.frontend.sample_rate_hz / 1000:g} kHz in windows of
{spec.window_s:.2f} s; a shorter file is {short} to fill one window. The embedding of a track
is the mean of its windows."""


def model_card(
    name: str, spec: ModelSpec, facts: dict[str, Any], validation: Validation | None
) -> str:
    """Markdown text of a bundle's ``README.md``: training facts and validation figures."""
    rows = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in facts.items())
    heads = ", ".join(f"`{head}`" for head in spec.heads)
    return f"""# {name}

A {spec.method} model with the `{spec.encoder}` encoder. Heads: {heads}.

{_input(spec)}

## Training

| | |
|---|---|
{rows}

The `config.toml` of the run reproduces it. Losses are averages over the last steps.

## What was measured

{_measured(validation)}

## License

The weights are yours; check what the licenses of your training data allow.
"""


def _measured(validation: Validation | None) -> str:
    if validation is None or not validation.sensitivity:
        return (
            "Nothing beyond the losses. They measure how well views of one track are separated "
            "from\nother tracks, not what a subspace is useful for. Evaluate it on your own data."
        )
    augs = list(next(iter(validation.sensitivity.values())))
    header = ["subspace", *(f"moved by {aug}" for aug in augs), "alignment", "uniformity"]
    lines = [header, ["---"] * len(header)]
    for subspace, row in validation.sensitivity.items():
        values = [*row.values(), validation.alignment[subspace], validation.uniformity[subspace]]
        lines.append([f"`{subspace}`", *(f"{value:.2f}" for value in values)])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    losses = ", ".join(f"`{head}` {loss:.3f}" for head, loss in validation.losses.items())
    return f"""Measured by `loev train` on validation tracks of the same collection:

{table}

*Moved by*: how far that augmentation moves a window, over the mean distance between different
tracks. 1 is as far away as another recording; ideal is large for a subspace's own augmentation and
0 elsewhere. *Alignment*: mean squared distance of two crops of one track, *uniformity*: log of the
mean of exp(-2 d^2) over pairs of tracks, both of unit vectors (Wang & Isola 2020); lower is better
for both. Validation loss: {losses}.

These figures do not show what a subspace is useful for: evaluate it on your own data and labels."""
