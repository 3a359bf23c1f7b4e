"""Resolve a query to a row of the library, or to an audio file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from loev_cli.errors import UsageError, nearest
from loev_cli.row_names import row_name, spell_out

_MAX_N_NAMED = 3
_MAX_N_COMPARED = 20_000


@dataclass(frozen=True)
class RowQuery:
    """A row of the library: path and index."""

    path: str
    row: int


@dataclass(frozen=True)
class FileQuery:
    """An audio file that is not a row."""

    file: Path

    @property
    def path(self) -> str:
        return str(self.file)

    @property
    def rows(self) -> frozenset[str]:
        """All row paths that match this file: the tails of its absolute path."""
        parts = PurePosixPath(row_name(self.file.absolute().as_posix())).parts
        tails = {"/".join(parts[i:]) for i in range(1, len(parts))}
        return frozenset({*tails, str(PurePosixPath(*parts)), row_name(str(self.file))})


def rows_of(entries: Iterable[str], row_of: Mapping[str, int]) -> tuple[set[int], int]:
    """The rows that entries of a list name, and how many entries are no rows.

    Args:
        entries: paths of rows, or that lead to them: ``../Music/a/b.mp3`` is the row ``a/b.mp3``.
        row_of: path -> row.
    """
    found, n_others = set(), 0
    for entry in entries:
        tails = FileQuery(Path(entry)).rows & row_of.keys()
        if tails:
            found.add(row_of[max(tails, key=len)])
        else:
            n_others += 1
    return found, n_others


def find_query(text: str, paths: Sequence[str], source: Path) -> RowQuery | FileQuery:
    """What ``text`` means: a row of that path, else the one row whose path ends in it, else a file.

    Paths end in whole names: ``b.mp3`` is the end of ``a/b.mp3`` and not of ``a/bb.mp3``.

    Args:
        paths: the library's.
        source: the library, for the error.

    Raises:
        UsageError: no match (names the nearest path), or the end of several paths.
    """
    if not text:
        raise UsageError("an empty query", hint="give the path of a track or of an audio file")
    # As the row is called, or as the file is, which differ where a name is no UTF-8.
    file, called, text = Path(text), row_name(text), spell_out(text)
    tails = [PurePosixPath(each).parts for each in dict.fromkeys([text, called])]
    last = tuple(tail[-1] for tail in tails if tail)  # parts are without ./ and doubled slashes
    ends: list[int] = []
    of_file: int | None = None
    for row, path in enumerate(paths):
        if path == text:
            return RowQuery(path, row)
        if path == called:
            of_file = row
        if path.endswith(last) and any(_is_tail(t, PurePosixPath(path).parts) for t in tails):
            ends.append(row)
    if of_file is not None:
        return RowQuery(called, of_file)
    if len(ends) == 1:
        return RowQuery(paths[ends[0]], ends[0])
    if _is_file(file):
        return FileQuery(file)
    if ends:
        named = [paths[row] for row in ends[:_MAX_N_NAMED]]
        more = ", ..." if len(ends) > len(named) else ""
        raise UsageError(f"'{text}' is ambiguous; it matches {', '.join(named)}{more} in {source}")
    raise UsageError(
        f"{source} has no track '{text}', and there is no such file",
        hint=_nearest(text, paths) or None,
    )


def _nearest(text: str, paths: Sequence[str]) -> str:
    """The paths that contain ``text``, else the one most like it; names before whole paths."""
    containing = (path for path in paths if text.lower() in path.lower())
    if named := list(islice(containing, _MAX_N_NAMED)):
        return f"did you mean {' or '.join(map(repr, named))}?"
    name = PurePosixPath(text).name
    if len(paths) > _MAX_N_COMPARED:  # comparing takes 20 us a path
        paths = [path for path in paths if name[:3].lower() in path.lower()][:_MAX_N_COMPARED]
    of_name = {PurePosixPath(path).name: path for path in reversed(paths)}
    near = nearest(name, of_name)
    whole = of_name[near] if near else nearest(text, paths)
    return f"did you mean '{whole}'?" if whole else ""


def _is_tail(short: tuple[str, ...], long: tuple[str, ...]) -> bool:
    return bool(short) and long[-len(short) :] == short


def _is_file(file: Path) -> bool:
    try:
        return file.exists()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False
