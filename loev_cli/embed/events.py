"""What a run tells while it goes on, and in the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from loev_cli.embed.failures import Failure
from loev_cli.embed.stats import Stats


@dataclass(frozen=True)
class RunStarted:
    """The inputs are found: so many are to be embedded, so many are done already."""

    n_tracks: int
    n_kept: int = 0


@dataclass(frozen=True)
class TrackDone:
    """A track is embedded, and will not be lost."""

    path: str
    duration_s: float


@dataclass(frozen=True)
class Notice:
    """Something the user should know, one line."""

    text: str


Event = RunStarted | TrackDone | Notice | Failure


@dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
        n_done: tracks embedded.
        n_rows: rows in the output, those of earlier runs included.
        failures: the files that gave none, sorted; on standard output in the order given.
        audio_s: length of the audio embedded.
        wall_s: time it took.
        stats: where that time went.
        n_orphans: rows kept though their file is not among the inputs.
        n_missing: rows kept though their file, which is among the inputs, is absent.
        n_pruned: rows of either kind dropped.
        n_out_of_sight: rows kept since their file cannot be looked at.
        n_stale: rows dropped since their file has changed and now fails.
    """

    n_done: int
    n_rows: int
    failures: tuple[Failure, ...]
    audio_s: float
    wall_s: float
    stats: Stats = field(default_factory=lambda: Stats(0, 0))
    n_orphans: int = 0
    n_missing: int = 0
    n_pruned: int = 0
    n_out_of_sight: int = 0
    n_stale: int = 0
