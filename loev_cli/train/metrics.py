"""What a run reports of every step, and the files that keep it."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loev_cli.files.own import own

METRICS_FILE = "metrics.csv"
VALIDATION_FILE = "validation.csv"


@dataclass(frozen=True)
class Progress:
    """State after one step, for a display and for ``metrics.csv``.

    Attributes:
        losses: per head.
        share_done: 0 to 1 of the steps or minutes asked for.
        elapsed_s: training time, all sessions of the run together.
        audio_s_per_s: seconds of views seen per second, by all processes.
        data_wait_share: share of the last step's time spent waiting for its batch.
    """

    step: int
    share_done: float
    elapsed_s: float
    lr: float
    loss: float
    losses: dict[str, float]
    audio_s_per_s: float
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
            "audio_s_per_s": self.audio_s_per_s,
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

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_: object) -> None:
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

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
