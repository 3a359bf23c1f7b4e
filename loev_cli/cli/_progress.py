"""Progress on stderr: bars on a terminal, events under ``--log-json``, otherwise a line per stage
or run."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Self

from loev_cli.cli._console import (
    TELL_EVERY_S,
    Throttle,
    escaped,
    on_terminal,
    say,
    says_json,
    tell,
)

if TYPE_CHECKING:
    from rich.progress import TaskID

    from loev_cli.evaluate.job import Event
    from loev_cli.experiments.runs import RunEvent

_LINE_EVERY_S = 60.0


class Bars:
    """Bars with a name each; a context manager that clears them in the end.

    Args:
        shown: if False, or if stderr is no terminal, nothing is drawn.
    """

    def __init__(self, *, shown: bool) -> None:
        self.are_shown = shown and on_terminal() and not says_json()
        self._throttle = Throttle(TELL_EVERY_S)
        self._tasks: dict[str, TaskID] = {}
        if not self.are_shown:
            return
        # rich's own imports take a tenth of a second; pipes do not need them.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeLeft(),
            console=Console(file=sys.stderr),
            transient=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tasks:
            self._progress.stop()

    def update(self, name: str, done: int, total: int | None, note: str = "") -> None:
        """Draw the bar of this name, which may be a new one."""
        if not self.are_shown:
            return
        if name not in self._tasks:
            self._progress.start()
            self._tasks[name] = self._progress.add_task(escaped(name), total=total, note=note)
        self._progress.update(self._tasks[name], completed=done, total=total, note=note)


class StageDisplay(Bars):
    """Stages of an evaluation; and a line per bad file."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(shown=not quiet)
        self._quiet = quiet
        self._begun: set[str] = set()

    def take(self, event: Event) -> None:
        """Show it."""
        from loev_cli.evaluate.job import Skipped

        if isinstance(event, Skipped):
            if says_json():
                tell("skipped", text=event.message)
            else:
                say(f"loev: skipped: {event.message}")
            return
        if says_json():
            if self._throttle.passes(event.name, always=event.done == event.total):
                tell("stage", **asdict(event))
            return
        self.update(event.name, event.done, event.total)
        if not self.are_shown and not self._quiet and event.name not in self._begun:
            self._begun.add(event.name)
            say(f"{event.name} ...")


class RunsDisplay(StageDisplay):
    """Runs as well: a bar each on a terminal, otherwise a line when one begins, resumes or ends."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        self._lines = Throttle(_LINE_EVERY_S)

    def take(self, event: Event | RunEvent) -> None:
        """Show it."""
        from loev_cli.experiments.runs import RunEvent

        if not isinstance(event, RunEvent):
            super().take(event)
        elif says_json():
            if self._throttle.passes(event.name, always=event.state != "training"):
                tell("run", **asdict(event))
        elif event.state == "failed":
            say(f"loev: failed: {event.name}: {event.message}")
        elif self.are_shown:
            self.update(event.name, event.step, event.n_steps)
        elif not self._quiet and self._lines.passes(event.name, always=event.state != "training"):
            of = f" of {event.n_steps}" if event.n_steps else ""
            say(f"{event.name} {event.state}: step {event.step}{of}")
