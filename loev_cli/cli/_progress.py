"""Progress of evaluations: a bar per stage on a terminal, otherwise a line per stage."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from loev_cli.cli._console import escaped, on_terminal, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from loev_cli.evaluate.job import Event
    from loev_cli.experiments.runs import RunEvent

_LINE_EVERY_S = 60.0


class StageDisplay:
    """Stages of judging; and a line per bad file."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._begun: set[str] = set()

    def __enter__(self) -> StageDisplay:
        if not self._quiet and on_terminal():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                console=Console(file=sys.stderr),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def take(self, event: Event) -> None:
        """Show it."""
        from loev_cli.evaluate.job import Skipped

        if isinstance(event, Skipped):
            say(f"loev: skipped: {event.message}")
        else:
            self._stage(event.name, event.done, event.total)

    def _stage(self, name: str, done: int, total: int | None) -> None:
        if self._bar:
            if name not in self._tasks:
                self._tasks[name] = self._bar.add_task(escaped(name), total=total)
            self._bar.update(self._tasks[name], completed=done)
        elif not self._quiet and name not in self._begun:
            self._begun.add(name)
            say(f"{name} ...")


class RunsDisplay(StageDisplay):
    """Runs as well: a bar each on a terminal, otherwise a line when one begins, resumes or ends."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        self._said_at: dict[str, float] = {}

    def __enter__(self) -> RunsDisplay:
        super().__enter__()
        return self

    def take(self, event: Event | RunEvent) -> None:
        """Show it."""
        from loev_cli.experiments.runs import RunEvent

        if not isinstance(event, RunEvent):
            super().take(event)
        elif event.state == "failed":
            say(f"loev: failed: {event.name}: {event.message}")
        elif self._bar:
            self._stage(event.name, event.step, event.n_steps)
        elif not self._quiet and self._is_due(event):
            of = f" of {event.n_steps}" if event.n_steps else ""
            say(f"{event.name} {event.state}: step {event.step}{of}")

    def _is_due(self, event: RunEvent) -> bool:
        now = time.monotonic()
        if event.state == "training" and now - self._said_at.get(event.name, now) < _LINE_EVERY_S:
            self._said_at.setdefault(event.name, now)
            return False
        self._said_at[event.name] = now
        return True
