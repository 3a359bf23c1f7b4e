"""What a training run shows: a live table on a terminal, events under ``--log-json``, otherwise a
line now and then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from loev_cli.cli._console import TELL_EVERY_S, Throttle, clock, escaped, says_json, tell
from loev_cli.train.metrics import Progress as StepProgress
from loev_cli.train.metrics import mean_losses

if TYPE_CHECKING:
    from loev_cli.train.data import Skipped
    from loev_cli.train.pipeline import Plan
    from loev_cli.train.validation import Validation

_LINE_EVERY_S = 30.0
_N_SMOOTHED = 20


class TrainDisplay:
    """Shows decoding, then training. Everything goes to stderr.

    Args:
        quiet: events under ``--log-json``, and nothing else.
        is_main: whether this process is the one that shows anything at all.
    """

    def __init__(self, *, quiet: bool, is_main: bool = True) -> None:
        quiet = quiet or not is_main
        self._tells = says_json() and is_main
        self._throttle = Throttle(TELL_EVERY_S)
        self.console = Console(stderr=True, quiet=quiet or says_json())
        self.is_terminal = self.console.is_terminal
        self._recent: deque[StepProgress] = deque(maxlen=_N_SMOOTHED)
        self._last_line = 0.0
        self._decoding = Progress(
            TextColumn("reading audio"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._decoding_task = self._decoding.add_task("", total=None)
        self._live = Live(console=self.console, refresh_per_second=4, transient=False)

    def __enter__(self) -> TrainDisplay:
        if self.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.is_terminal:
            self._live.stop()

    def features(self, done: int, total: int) -> None:
        """``done`` of ``total`` files are decoded."""
        if self._tells and self._throttle.passes("stage", always=done == total):
            tell("stage", name="reading audio", done=done, total=total)
        self._decoding.update(self._decoding_task, completed=done, total=total)
        if self.is_terminal:
            self._live.update(self._decoding)
        elif self._line_is_due() or done == total:
            self._line(f"reading audio: {done} of {total} files")

    def tracks(self, n_train: int, n_val: int, skipped: list[Skipped]) -> None:
        """Decoding is over."""
        if self._tells:
            for item in skipped:
                tell("skipped", **asdict(item))
            tell("tracks", n_train=n_train, n_val=n_val, n_skipped=len(skipped))
        for item in skipped:
            self.console.print(f"skipped: {escaped(item.error)}", style="yellow", markup=False)
        validated = f"{n_val} validation tracks" if n_val else "no validation tracks"
        self.console.print(
            f"{n_train} tracks, {len(skipped)} skipped, {validated}", markup=False, highlight=False
        )

    def step(self, progress: StepProgress) -> None:
        """One step is done."""
        self._recent.append(progress)
        if self._tells and self._throttle.passes("step", always=progress.share_done >= 1):
            tell("step", **asdict(progress))
        if self.is_terminal:
            self._live.update(self._table())
        elif self._line_is_due() or progress.share_done >= 1:
            losses = "  ".join(f"{k} {v:.3f}" for k, v in self._losses().items())
            self._line(
                f"step {progress.step}  loss {self._mean(lambda p: p.loss):.3f}  {losses}  "
                f"lr {progress.lr:.2e}  {self._audio_s_per_s():.0f} audio-s/s  "
                f"wait {self._mean(lambda p: p.data_wait_share):.0%}  "
                f"{clock(progress.remaining_s)} left"
            )

    def validation(self, step: int, validation: Validation) -> None:
        """The model was measured on tracks it does not train on."""
        if self._tells:
            tell("validation", step=step, **asdict(validation))
        losses = "  ".join(f"{head} {loss:.3f}" for head, loss in validation.losses.items())
        self._line(f"validation at step {step}  loss {validation.loss:.3f}  {losses}")
        for subspace, moved in validation.sensitivity.items():
            row = "  ".join(f"{aug} {value:.2f}" for aug, value in moved.items())
            self._line(f"  {subspace} moved by  {row}")

    def _losses(self) -> dict[str, float]:
        return mean_losses([progress.losses for progress in self._recent])

    def _audio_s_per_s(self) -> float:
        return self._mean(lambda progress: progress.audio_s_per_s or 0)

    def _mean(self, value: Callable[[StepProgress], float]) -> float:
        return fmean(map(value, self._recent))

    def _table(self) -> RenderableType:
        progress = self._recent[-1]
        bar = Progress(TextColumn("{task.description}"), BarColumn(bar_width=40))
        bar.add_task(
            f"{progress.share_done:6.1%}", total=1000, completed=round(1000 * progress.share_done)
        )
        table = Table(box=None, padding=(0, 2, 0, 0))
        columns = {
            "step": f"{progress.step}",
            "loss": f"{self._mean(lambda p: p.loss):.3f}",
            **{head: f"{value:.3f}" for head, value in self._losses().items()},
            "lr": f"{progress.lr:.2e}",
            "audio-s/s": f"{self._audio_s_per_s():.0f}",
            "data wait": f"{self._mean(lambda p: p.data_wait_share):.0%}",
            "elapsed": clock(progress.elapsed_s),
            "left": clock(progress.remaining_s),
        }
        for column in columns:
            table.add_column(column, justify="right")
        table.add_row(*columns.values())
        return Group(bar, table)

    def _line_is_due(self) -> bool:
        return time.monotonic() - self._last_line > _LINE_EVERY_S

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def plan_table(plan: Plan, batch_size: int) -> Table:
    """What ``--dry-run`` shows."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    subspaces = ", ".join(f"{name} {dim}" for name, dim in plan.subspaces.items())
    parts = {
        "weights and optimizer": plan.weight_bytes,
        "activations": plan.activation_bytes,
        "similarity matrix": plan.similarity_bytes,
    }
    rows = {
        "files": f"{plan.n_files}, {plan.hours:.1f} h of audio, {len(plan.unreadable)} unreadable",
        "validation": f"up to {plan.n_val_wanted} tracks" if plan.n_val_wanted > 1 else "none",
        "views": f"{batch_size} tracks x {plan.n_views} per step, made on {plan.views_on}",
        "steps per epoch": str(plan.steps_per_epoch),
        "subspaces": subspaces,
        "parameters": f"{plan.n_parameters / 1e6:.2f} million",
        "a step": f"about {plan.step_s:.2g} s here, from a trial run, excluding data loading",
        "memory": f"{_size(plan.memory_bytes)} ("
        + ", ".join(f"{what} {_size(n)}" for what, n in parts.items())
        + ") excluding the program and its batches",
        "cache": _size(plan.cache_bytes),
    }
    for what, value in rows.items():
        table.add_row(what, value)
    return table


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"
