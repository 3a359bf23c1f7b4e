"""Is a file gone, or only out of sight? Storage that is away for a while must not cost rows."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from enum import Enum, auto
from typing import TypedDict

from loev_cli.audio import STDIN, Source
from loev_cli.embed.journal import Journal
from loev_cli.embed.parts import Stamp
from loev_cli.embed.request import Request
from loev_cli.errors import InputError, StoppedError
from loev_cli.formats import Row
from loev_cli.row_names import path_of_row
from loev_cli.storage.remote import is_url

_N_GONE = 5
_N_FOLDERS = 64

Results = Iterator[tuple[int, Row | InputError]]


# ---------------------------------------------------------------- during a run


def while_there(sources: Sequence[Source], results: Results) -> Results:
    """``results`` of ``sources``, as long as the folders that are there now stay there.

    Failures under a folder that has gone are not given. After a few of them, or when all other
    results have been given, the run is stopped: an output without those rows would look finished.

    Raises (while iterating):
        StoppedError: a folder has gone.
    """
    devices = {folder: _device(folder) for folder in {_folder(source) for source in sources}}
    return _results(sources, results, devices)


def _results(
    sources: Sequence[Source], results: Results, devices: dict[str | None, int | None]
) -> Generator[tuple[int, Row | InputError], None, None]:
    gone: list[str | None] = []
    for track, outcome in results:
        folder = _folder(sources[track])
        if not isinstance(outcome, InputError) or not _has_gone(folder, devices[folder]):
            yield track, outcome
            continue
        gone.append(folder)
        if len(gone) == _N_GONE:
            break
    if gone:
        raise StoppedError(
            f"{gone[0]} no longer exists: it was there when the run began",
            hint="is its storage still mounted?",
        )


def _folder(source: Source) -> str | None:
    """None if it is not on this machine."""
    if source.remote is not None:
        return None
    return os.path.dirname(source.location) or os.curdir  # noqa: PTH120  (a million of them)


def _device(folder: str | None) -> int | None:
    """On which device the folder lies; None if it is not there, or cannot be listed."""
    if folder is None:
        return None
    try:
        with os.scandir(folder) as listing:
            next(listing, None)
        return os.stat(folder).st_dev  # noqa: PTH116
    except (OSError, ValueError):
        return None


def _has_gone(folder: str | None, device: int | None) -> bool:
    """An unmounted folder may still be there, empty and on another device."""
    return device is not None and _device(folder) != device


# ---------------------------------------------------------------- between two runs


class Sight(Enum):
    """What a look at the place of a file shows."""

    THERE = auto()
    ABSENT = auto()  # its folder can be listed, and its name is not in it
    UNKNOWN = auto()  # its folder cannot be listed


def root_of(inputs: Sequence[str]) -> str:
    """The folder or URL that row names are relative to; empty: the working folder."""
    if len(inputs) != 1 or inputs[0] == STDIN:
        return ""
    return inputs[0] if is_url(inputs[0]) or os.path.isdir(inputs[0]) else ""  # noqa: PTH112


class Lookout:
    """Looks for the files of rows.

    Args:
        request: of the run, by whose inputs row names mean files (:func:`loev_cli.audio.find`).

    Attributes:
        prune: drop rows whose file is absent, or not among the inputs.
    """

    def __init__(self, request: Request) -> None:
        self.prune = request.prune
        self._root = root_of(request.inputs)
        self._urls = [given for given in request.inputs if is_url(given)]
        self._names_in = functools.lru_cache(_N_FOLDERS)(_names_in)

    def row(self, path: str) -> Sight:
        """Of a row whose name is not among the sources of the run."""
        if not is_url(self._root) and not is_url(path):
            return self._file(os.path.join(self._root, path_of_row(path)))  # noqa: PTH118
        url = path if is_url(path) else f"{self._root.rstrip('/')}/{path}"
        # What a URL that was given contains has been listed.
        is_below = any(url.startswith(f"{given.rstrip('/')}/") for given in self._urls)
        return Sight.ABSENT if is_below else Sight.UNKNOWN

    def source(self, source: Source) -> Sight:
        """Of a source that failed and whose size and time are not known."""
        return Sight.UNKNOWN if source.remote is not None else self._file(source.location)

    def _file(self, place: str) -> Sight:
        folder, name = os.path.split(place)
        names = self._names_in(folder)
        if names is None:
            return Sight.UNKNOWN
        # The second question is for file systems on which names have several spellings.
        is_there = name in names or os.path.lexists(place)
        return Sight.THERE if is_there else Sight.ABSENT


class Verdicts(TypedDict):
    """How many rows were kept or dropped and why, as in :class:`loev_cli.embed.Report`."""

    n_orphans: int
    n_missing: int
    n_pruned: int
    n_out_of_sight: int
    n_stale: int


def drop_what_is_gone(
    journal: Journal,
    sources: Sequence[Source],
    stamps: Mapping[str, Stamp | None],
    failed: Collection[str],
    lookout: Lookout,
) -> Verdicts:
    """Drop rows that say nothing about what is there; those of files out of sight stay.

    A row whose file has changed and now fails goes; one whose file is absent, or not among the
    inputs, if rows are to be pruned.

    Args:
        stamps: of the sources, by row name, as they were when the run began.
        failed: row names of the sources that failed.
    """
    counts: Counter[str] = Counter()
    unknown = {source.path: source for source in sources if stamps[source.path] is None}
    for path in sorted(journal.paths()):  # folder by folder
        if (stamp := stamps.get(path)) is not None:
            if journal.stamp(path) != stamp:
                counts["n_stale"] += 1
                journal.drop(path)
            continue
        listed = unknown.get(path)
        if listed and path not in failed:
            continue  # embedded just now; nobody tells the size and time of its file
        sight = lookout.source(listed) if listed else lookout.row(path)
        if sight is Sight.UNKNOWN or (listed and sight is Sight.THERE):
            counts["n_out_of_sight"] += 1
        elif lookout.prune:
            counts["n_pruned"] += 1
            journal.drop(path)
        else:
            counts["n_missing" if listed else "n_orphans"] += 1
    return Verdicts(
        n_orphans=counts["n_orphans"],
        n_missing=counts["n_missing"],
        n_pruned=counts["n_pruned"],
        n_out_of_sight=counts["n_out_of_sight"],
        n_stale=counts["n_stale"],
    )


def _names_in(folder: str) -> frozenset[str] | None:
    try:
        return frozenset(os.listdir(folder or os.curdir))  # noqa: PTH208
    except (OSError, ValueError):
        return None
