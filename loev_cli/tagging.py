"""Write key and tempo into the tags of audio files, and take them back.

    plan(path, file, values)     what is there and what would be; nothing is written
    write_log(log, changes)      the old values, on disk before any file changes
    apply(change)                one file, replaced by a copy that differs in its tags only
    plan_undo(entry)             for an entry of read_log(log): the change that takes it back

A file is copied beside its place, the copy is tagged and compared with the original in everything
but its tags, given its times, permissions and owner, and renamed. So a file is either as it was or
done, whatever happens; the log says of every file what it was.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loev_cli import __version__
from loev_cli.audio import read_tags
from loev_cli.audio.ffmpeg import content_sha256, identify
from loev_cli.audio.readers import UnreadableError
from loev_cli.audio.tag_fields import (
    FIELDS,
    UntaggableError,
    Values,
    read_fields,
    write_fields,
)
from loev_cli.errors import InputError, LoevError, UsageError
from loev_cli.music_keys import camelot, parse_key, short
from loev_cli.row_names import path_of_row, row_name
from loev_cli.storage.atomic import AtomicFile, write_own
from loev_cli.storage.bounded import DATA_ERRORS, parse_json, read_bytes

LOG_VERSION = 1
_MAX_LOG_N_BYTES = 1 << 30  # of a million files
_CHUNK_N_BYTES = 1 << 20
_UNKNOWN = ("", "0")  # what programs write where they do not know a tempo

State = tuple[int, int, int, int]


@dataclass(frozen=True)
class Change:
    """What is to be written into one file.

    Attributes:
        path: its row name.
        file: where it lies; links are resolved.
        state: of :func:`state_of`, from before it was read.
        old: field -> the values there, of the fields that change.
        new: field -> the values that replace them; none: the field is removed.
        kept: fields that stay, since somebody else has written them.
    """

    path: str
    file: Path
    state: State | None
    old: Mapping[str, Values]
    new: Mapping[str, Values]
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class LogEntry:
    """A file in a log: which values were replaced (``old``), and by what (``new``)."""

    path: str
    old: Mapping[str, Values]
    new: Mapping[str, Values]


def values_of(
    annotations: Mapping[str, float | str], *, min_confidence: float = 0.0, in_camelot: bool = False
) -> dict[str, str]:
    """A track's annotations as tags have them: ``{"key": "F#m", "bpm": "124"}``.

    Args:
        annotations: ``key``, ``bpm`` and their confidences, as in an embedding file.
        min_confidence: answers with less are left out, from 0 to 1.
        in_camelot: keys as places on the Camelot wheel, such as ``8A``.
    """

    def is_confident(field: str) -> bool:
        return float(annotations.get(f"{field}_confidence", math.nan)) >= min_confidence

    values = {}
    key = parse_key(str(annotations.get("key", "")))
    if key is not None and is_confident("key"):
        values["key"] = camelot(key) if in_camelot else short(key)
    bpm = float(annotations.get("bpm", math.nan))
    if bpm > 0 and is_confident("bpm"):
        values["bpm"] = str(round(bpm))
    return values


def state_of(file: Path) -> State | None:
    """What tells a file from a changed one: device, inode, size and time of change; None if it
    cannot be looked at."""
    try:
        return _state(file.stat())
    except (OSError, ValueError):
        return None


def plan(
    path: str, file: Path, state: State | None, values: Mapping[str, str], *, replace: bool = False
) -> Change:
    """What writing ``values`` into a file would change. Nothing is written.

    Args:
        path: its row name.
        file: where it lies.
        state: of :func:`state_of`, from before the values were found.
        values: field -> value.
        replace: also replace values that are there; an empty one or a tempo of 0 is none.

    Raises:
        InputError: stage ``write``: the file cannot be tagged.
    """
    now = _read(file)
    wanted = {f: (value,) for f, value in values.items() if now[f] != (value,)}
    free = {f for f in wanted if replace or all(old.strip() in _UNKNOWN for old in now[f])}
    return _checked(path, file, state, now, {f: wanted[f] for f in FIELDS if f in free}, wanted)


def plan_undo(entry: LogEntry) -> Change:
    """What taking back an entry of a log would change. Nothing is written.

    Values that are neither what was written nor what was there before stay.

    Raises: as :func:`plan`.
    """
    file = Path(path_of_row(entry.path))
    state = state_of(file)
    now = _read(file)
    wanted = {f: old for f, old in entry.old.items() if now[f] != old}
    ours = {f: old for f, old in wanted.items() if now[f] == entry.new[f]}
    return _checked(entry.path, file, state, now, ours, wanted)


def _checked(
    path: str,
    file: Path,
    state: State | None,
    now: Mapping[str, Values],
    new: Mapping[str, Values],
    wanted: Mapping[str, Values],
) -> Change:
    change = Change(
        path=path,
        file=Path(os.path.realpath(file)),
        state=state,
        old={field: now[field] for field in new},
        new=dict(new),
        kept=tuple(field for field in wanted if field not in new),
    )
    if new:
        _check_replaceable(change)
    return change


def apply(change: Change) -> None:
    """Write a change into its file.

    Raises:
        InputError: stage ``write``: the file cannot be written, has changed since it was read, or
            its sound would not stay what it is. It is as it was.
    """
    file = change.file
    with _naming(file):
        status = _check_replaceable(change)
        kind, content = identify(file), content_sha256(file)

        def finish(copy: Path) -> None:
            if content_sha256(copy) != content:
                raise UntaggableError("its sound would change")
            if read_tags(copy) != read_tags(file):
                raise UntaggableError("its other tags would change")
            with copy.open("rb") as stream:
                written = read_fields(stream, *kind)
            if any(written[field] != values for field, values in change.new.items()):
                raise UntaggableError("the values are not found again in the copy")
            _be_like(copy, file, status)
            _check_replaceable(change)

        target = AtomicFile(file, before_replace=finish)
        try:
            if hasattr(os, "fchmod"):  # nobody else may read it while it is written
                os.fchmod(target.stream.fileno(), stat.S_IRUSR | stat.S_IWUSR)
            with file.open("rb") as original:
                shutil.copyfileobj(original, target.stream, _CHUNK_N_BYTES)
            write_fields(target.stream, *kind, change.new)
            target.commit()
        except BaseException:
            target.abort()
            raise


def _be_like(copy: Path, file: Path, status: os.stat_result) -> None:
    """Give the copy the owner, permissions, times and extended attributes of the file."""
    if hasattr(os, "chown"):
        with contextlib.suppress(PermissionError):  # only root may give files away
            os.chown(copy, status.st_uid, status.st_gid)
    shutil.copystat(file, copy)


def _check_replaceable(change: Change) -> os.stat_result:
    """Raises InputError where a file is not to be replaced."""
    file = change.file
    with _naming(file):
        status = file.stat()
        if _state(status) != change.state:
            raise _unwritable(file, "it has changed since it was read", hint="run again")
        if status.st_nlink > 1:
            raise _unwritable(
                file, "it has other hard links, which would keep the old file", hint="copy it first"
            )
        if not (status.st_mode & 0o222 and os.access(file, os.W_OK)):  # a rename would not mind
            raise _unwritable(file, "it is write-protected")
        if not os.access(file.parent, os.W_OK):
            raise _unwritable(file, f"its folder {file.parent} is write-protected")
    return status


def _state(status: os.stat_result) -> State:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read(file: Path) -> dict[str, Values]:
    with _naming(file):
        kind = identify(file)
        with file.open("rb") as stream:
            return read_fields(stream, *kind)


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Errors as those of the file."""
    try:
        yield
    except InputError:
        raise
    except LoevError as error:
        raise _unwritable(file, error.message, hint=error.hint) from error
    except OSError as error:
        raise _unwritable(file, error.strerror or str(error)) from error
    except UnreadableError as error:
        raise _unwritable(file, "unsupported or unreadable audio format") from error
    except UntaggableError as error:
        raise _unwritable(file, str(error)) from error


def _unwritable(file: Path, reason: str, *, hint: str | None = None) -> InputError:
    return InputError(f"{file}: tags cannot be written: {reason}", stage="write", hint=hint)


# ---------------------------------------------------------------- the log


def write_log(log: Path, changes: Sequence[Change]) -> None:
    """Write down the old and new values of changes, on disk when this returns.

    JSON lines: first what the file is, then a line per file, with its full path, ``old`` and
    ``new``: field -> values.

    Raises:
        OutputError: it cannot be written.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"loev_tags": LOG_VERSION, "loev_version": __version__, "created": created}
    records = [{"path": row_name(str(c.file)), "old": c.old, "new": c.new} for c in changes]
    # Escapes keep the bytes of old tags that are not text.
    lines = [json.dumps(record, ensure_ascii=True) for record in (head, *records)]
    write_own(log, "".join(f"{line}\n" for line in lines).encode())


def read_log(log: Path) -> list[LogEntry]:
    """What :func:`write_log` wrote.

    Raises:
        UsageError: no such file, or it is not such a log, or of a newer format.
    """
    try:
        head, *records = map(parse_json, read_bytes(log, _MAX_LOG_N_BYTES).decode().splitlines())
        version = head["loev_tags"]
        entries = [] if version > LOG_VERSION else [_entry(record) for record in records]
    except OSError as error:
        raise UsageError(f"cannot read {log}: {error.strerror}") from error
    except DATA_ERRORS as error:
        raise UsageError(
            f"{log} is not a log of old tags", hint="loev annotate --write-tags says where it is"
        ) from error
    if version > LOG_VERSION:
        raise UsageError(
            f"{log} has format {version}, this version of loev reads up to {LOG_VERSION}",
            hint="pip install --upgrade loev-cli",
        )
    return entries


def _entry(record: Mapping[str, Mapping[str, list[str]]]) -> LogEntry:
    old, new = (
        {field: tuple(map(str, record[side][field])) for field in FIELDS if field in record[side]}
        for side in ("old", "new")
    )
    path = record["path"]
    values = [*record["old"].values(), *record["new"].values()]
    if not all(isinstance(each, list) for each in values) or old.keys() != new.keys():
        raise ValueError("values are not lists")
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError("it names no file")
    return LogEntry(path, old, new)
