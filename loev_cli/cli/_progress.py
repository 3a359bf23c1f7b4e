"""What ``loev embed`` shows while it runs: a bar on a terminal, and a line per failed file."""

from __future__ import annotations

import sys
from typing import Self

from loev_cli.cli._console import on_terminal, say
from loev_cli.embed import Event, Failure, RunStarted, TrackDone


class Progress:
    """Takes the runner's events; a context manager that clears its bar in the end."""

    def __init__(self, *, quiet: bool) -> None:
        self._bar = None if quiet or not on_terminal() else _Bar()

    def take(self, event: Event) -> None:
        match event:
            case RunStarted():
                if self._bar:
                    self._bar.start(event.n_tracks)
            case TrackDone():
                if self._bar:
                    self._bar.advance(event.duration_s)
            case Failure():
                say(f"loev: failed ({event.stage}): {event.message}")
                if self._bar:
                    self._bar.advance(0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()


class _Bar:
    def __init__(self) -> None:
        # rich's own imports take a tenth of a second; pipes do not need them.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        self._bar = Progress(
            TextColumn("embedding"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[audio]}"),
            TimeLeft(),
            console=Console(file=sys.stderr),
            transient=True,
        )
        self._task = self._bar.add_task("embed", total=None, audio="")
        self._audio_s = 0.0

    def start(self, n_tracks: int) -> None:
        self._bar.update(self._task, total=n_tracks)
        self._bar.start()

    def advance(self, audio_s: float) -> None:
        self._audio_s += audio_s
        speed = self._audio_s / max(self._bar.tasks[0].elapsed or 0.0, 1e-3)
        self._bar.update(self._task, advance=1, audio=f"{speed:.0f} x real time")

    def stop(self) -> None:
        self._bar.stop()
