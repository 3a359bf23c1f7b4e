"""What a run reports of every step, and the file that keeps it."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

METRICS_FILE = "metrics.csv"


@dataclass(frozen=True)
class Progress:
    """State after one step, for a display and for ``metrics.csv``.

    Attributes:
        losses: per head.
        share_done: 0 to 1 of the steps or minutes asked for.
        elapsed_s: training time, all sessions of the run together.
        audio_s_per_s: seconds of views seen per second.
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


def mean_losses(rows: Collection[Mapping[str, float]]) -> dict[str, float]:
    """Loss per head, averaged over ``rows``; empty for none."""
    heads = next(iter(rows), {})
    return {head: sum(row[head] for row in rows) / len(rows) for head in heads}


class MetricsFile:
    """``metrics.csv``, one row per step; rows past the step a run resumes from are dropped."""

    def __init__(self, file: Path, step: int) -> None:
        self.file = file
        kept = list(self._rows_up_to(step)) if step and file.exists() else []
        self._stream = file.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._stream)
        self._writer.writerows(kept)
        self._has_header = bool(kept)

    def _rows_up_to(self, step: int) -> Iterator[list[str]]:
        with self.file.open(newline="", encoding="utf-8") as stream:
            for row in csv.reader(stream):
                if not row[0].isdigit() or int(row[0]) <= step:
                    yield row

    def write(self, progress: Progress) -> None:
        values = {
            "step": progress.step,
            "elapsed_s": f"{progress.elapsed_s:.3f}",
            "lr": f"{progress.lr:.6g}",
            "loss": f"{progress.loss:.6g}",
            **{f"loss_{head}": f"{value:.6g}" for head, value in progress.losses.items()},
            "audio_s_per_s": f"{progress.audio_s_per_s:.1f}",
            "data_wait_share": f"{progress.data_wait_share:.4f}",
        }
        if not self._has_header:
            self._writer.writerow(values)
            self._has_header = True
        self._writer.writerow(values.values())
        self._stream.flush()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
