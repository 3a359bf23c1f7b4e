"""Progress events and the final report of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loev_cli.embed.failures import Failure
from loev_cli.embed.stats import Stats

_N_EXTENSIONS = 8


@dataclass(frozen=True)
class RunStarted:
    """The inputs are found: so many are to be embedded, so many are done already."""

    n_tracks: int
    n_kept: int = 0


@dataclass(frozen=True)
class TrackDone:
    """A track is embedded, and will not be lost.

    Attributes:
        path: its row name.
        duration_s: decoded length.
        warnings: what was skipped or wrong in the file.
    """

    path: str
    duration_s: float
    warnings: tuple[str, ...] = ()


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
        passed_over: files of folders that were left out, by extension.
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
    passed_over: Mapping[str, int] = field(default_factory=dict)


def not_read(passed_over: Mapping[str, int]) -> list[str]:
    """A line on the files that were passed over; none if there are none."""
    if not passed_over:
        return []
    by_count = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{extension or 'none'} {n}" for extension, n in by_count[:_N_EXTENSIONS]]
    if n_others := sum(n for _, n in by_count[_N_EXTENSIONS:]):
        named.append(f"others {n_others}")
    n_files = sum(passed_over.values())
    files = "1 file" if n_files == 1 else f"{n_files} files"
    were = "was" if n_files == 1 else "were"
    return [f"{files} with other extensions {were} not read: {', '.join(named)}"]
