"""Finished work, kept beside the output: a killed run resumes, a finished one can be brought up
to date.

    x.npz                      the output, whole or absent
    x.npz.journal/
      lock                     held while a run is at work on x.npz
      journal.json             model and settings that the rest belongs to
      part-000001.rows         rows that are done but not in the output yet, one file per run
      index-<identity>.rows    path, size and mtime of every file in the output of that identity

A row is appended to its run's part as soon as it is done. Putting the output together goes: write
it under a temporary name; write the index that names it; rename the output; remove the other
index and the parts. Wherever that stops, the next run finds either the old output with its index
and the parts, or the new output with its.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from loev_cli.bundle import Bundle
from loev_cli.embed.parts import ForeignError, Part, PartWriter, Place, Stamp
from loev_cli.errors import LoevError, OutputError, UsageError
from loev_cli.formats import (
    ANNOTATIONS,
    ONNX_SHA256,
    Meta,
    Row,
    difference,
    fingerprint,
    read_meta,
    rows,
    without_annotations,
)
from loev_cli.storage.atomic import write_own
from loev_cli.storage.bounded import DATA_ERRORS, parse_json, read_bytes
from loev_cli.storage.own import check_own, own, own_folder

JOURNAL_SUFFIX = ".journal"
FORMAT_VERSION = 1

_STATE_FILE = "journal.json"
_LOCK_FILE = "lock"
_PART = re.compile(r"part-(\d{6,})\.rows")
_INDEX = re.compile(r"index-([0-9a-f]{32})\.rows")
_END_N_BYTES = 1 << 16
_SYNC_EVERY_S = 5.0
_MAX_STATE_N_BYTES = 4 << 20
_MAX_PARTS = 50  # each is an open file; a job that is preempted again and again leaves many


def kept_settings(out: Path, bundle: Bundle) -> dict[str, Any] | None:
    """What decides the rows that an earlier run has put at ``out``, finished or not, as
    :func:`loev_cli.formats.fingerprint` gives it; None if the model of ``bundle`` put none."""
    with contextlib.suppress(LoevError, OSError, *DATA_ERRORS):
        if out.exists():
            kept = fingerprint(read_meta(out))
        else:
            folder = _folder_of(Path(os.path.realpath(out)))
            state = parse_json(read_bytes(folder / _STATE_FILE, _MAX_STATE_N_BYTES, opener=own))
            kept = dict(state["fingerprint"])
        is_alike = (kept["model_sha256"], kept["window_s"]) == (bundle.sha256, bundle.window_s)
        if is_alike and 0 < float(kept["hop_s"]) <= bundle.window_s and dict(kept["subspaces"]):
            return kept
    return None


class Journal:
    """The journal of one output, opened by one run; a context manager; releases the lock on exit.

    Args:
        out: the output's path.
        meta: of the run that starts; its fingerprint must be the journal's.
        overwrite: discard what an earlier run with other settings left, and the output's rows.
        adds_annotations: rows of the same settings without annotations may be there; they stay
            without.

    Attributes:
        problems: what was found damaged or foreign and is not used, one line each.
        n_added: rows added by this run.
        origin: what :meth:`note_origin` was told last, by this run or an earlier one.

    Raises:
        UsageError: the journal belongs to other settings, or is none of ours.
        OutputError: another run holds it, or it cannot be written.
    """

    def __init__(
        self, out: Path, meta: Meta, *, overwrite: bool = False, adds_annotations: bool = False
    ) -> None:
        self.problems: list[str] = []
        self.n_added = 0
        self.origin: Meta = {}
        self._discards: str | None = None
        self.out = Path(os.path.realpath(out))
        self.folder = _folder_of(self.out)
        self._subspaces: dict[str, int] = meta["subspaces"]
        self._fingerprint = fingerprint(meta)
        self._graph: str | None = meta.get(ONNX_SHA256)
        self._owner = _owner(self._fingerprint)
        self._owners = [self._owner]
        self._adds_annotations = adds_annotations
        if adds_annotations:
            self._owners.append(_owner(without_annotations(self._fingerprint)))
        self._parts: list[Part] = []
        self._places: dict[str, tuple[int, Place]] = {}
        self._in_output: dict[str, Stamp | None] = {}
        self._writer: PartWriter | None = None
        self._synced = time.monotonic()
        self._is_ours = False
        with _writing(self.folder):
            own_folder(self.folder)
        self._lock = Lock(self.folder / _LOCK_FILE, what=str(out))
        try:
            with _writing(self.folder):
                self._open(overwrite)
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------ what is there

    def stamp(self, path: str) -> Stamp | None:
        """The file of which a row of that name is there; None if there is no such row, or it is
        not known of what."""
        if path in self._places:
            return self._places[path][1].stamp
        return self._in_output.get(path)

    def __contains__(self, path: str) -> bool:
        return path in self._places or path in self._in_output

    def __len__(self) -> int:
        return len(self._places) + sum(path not in self._places for path in self._in_output)

    def paths(self) -> Iterator[str]:
        """Row names, in no order."""
        yield from self._places
        yield from (path for path in self._in_output if path not in self._places)

    # ------------------------------------------------------------ what is added

    def add(self, row: Row, stamp: Stamp | None) -> None:
        """Keep a row that is done.

        Raises:
            OutputError: it cannot be written; what was kept before stays.
        """
        with _writing(self.folder):
            if self._writer is None:
                self._writer = self._new_part()
            place = self._writer.add(row.path, stamp, row)
            self._places[row.path] = (len(self._parts), place)
            self.n_added += 1
            if time.monotonic() - self._synced > _SYNC_EVERY_S:
                self._writer.sync()
                self._synced = time.monotonic()

    def note_origin(self, origin: Meta) -> None:
        """Keep what the output's ``meta`` is to say of how rows were made on this machine.

        The ONNX graph of earlier rows stays noted where torch makes the others.
        """
        self.origin = {k: v for k, v in self.origin.items() if k == ONNX_SHA256} | origin
        with _writing(self.folder):
            self._write_state()

    def drop(self, path: str) -> None:
        """Leave a row out of the next output."""
        self._places.pop(path, None)
        self._in_output.pop(path, None)

    # ------------------------------------------------------------ what comes of it

    @property
    def has_news(self) -> bool:
        """Whether the output is not yet what :meth:`merged` gives."""
        return bool(self._places) or len(self._in_output) != self._n_in_output

    def merged(self) -> Iterator[Row]:
        """All rows in order of their names, a few at a time.

        Raises:
            UsageError: the output has been damaged since.
        """
        if self._writer is not None:
            with _writing(self.folder):
                self._parts.append(Part(self._writer.file, *self._owners))
        fresh = (
            self._parts[number].row(place, self._subspaces)
            for _, (number, place) in sorted(self._places.items())
        )
        kept = (
            row
            for row in (rows(self.out) if self._in_output else ())
            if row.path in self._in_output and row.path not in self._places
        )
        yield from heapq.merge(fresh, kept, key=lambda row: row.path)

    def settle(
        self,
        commit: Callable[[Callable[[Path], None]], None],
        *,
        stamps: Mapping[str, Stamp | None] | None = None,
    ) -> None:
        """Put the output in its place and forget the parts.

        Args:
            commit: finishes the output; calls what it is given with the finished temporary file,
                just before that takes the output's place.
            stamps: row name -> its file's, where the rows are not the journal's own.
        """
        if stamps is None:
            stamps = {path: self.stamp(path) for path in self.paths()}
        commit(lambda finished: self._write_index(finished, stamps))
        with _writing(self.folder):
            self._close_parts()
            for file in self._files(_PART):
                file.unlink()
            identity = _identity(self.out)
            for file in self._files(_INDEX):
                if _INDEX.fullmatch(file.name)[1] != identity:  # type: ignore[index]
                    file.unlink()
            self._discards = None
            self._write_state()

    def close(self) -> None:
        """Put what was added on the disk and let go; a journal that holds nothing is removed."""
        try:
            if self._writer is not None:
                with contextlib.suppress(OSError):  # a full disk: the process's end writes it
                    self._writer.sync()
            self._close_parts()
            if not self._files(_PART) and not self._files(_INDEX):
                self._remove()
        finally:
            self._lock.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ------------------------------------------------------------ inside

    def _open(self, overwrite: bool) -> None:
        self._remove_leftovers()
        for file in (self.folder / _STATE_FILE, *self._files(_PART), *self._files(_INDEX)):
            check_own(file)
        identity = _identity(self.out)
        state = self._read_state(overwrite)
        if state is not None:
            theirs, ours = dict(state["fingerprint"]), dict(self._fingerprint)
            if self._adds_annotations and ANNOTATIONS not in theirs:
                ours = without_annotations(ours)
            if self._graph is not None and ONNX_SHA256 in state["origin"]:
                theirs[ONNX_SHA256], ours[ONNX_SHA256] = state["origin"][ONNX_SHA256], self._graph
            if theirs != ours:
                if not overwrite:
                    raise UsageError(
                        f"{self.folder} contains results computed with different settings: "
                        f"{difference(theirs, ours)}",
                        hint="--overwrite discards them",
                    )
                state = None
        if overwrite and (state is None or state["discards"] != identity):
            self._clear()
            state = None
        self._is_ours = True
        if state is None:
            self._discards = identity if overwrite else None
            self._write_state()
        else:
            self._discards, self.origin = state["discards"], state["origin"]
        if identity is not None and not overwrite:
            self._read_index(identity)
        self._n_in_output = len(self._in_output)
        for file in self._files(_PART):
            self._read_part(file)
        if len(self._parts) > _MAX_PARTS:
            self._join_parts()

    def _read_state(self, overwrite: bool) -> dict[str, Any] | None:
        file = self.folder / _STATE_FILE
        try:
            state = parse_json(read_bytes(file, _MAX_STATE_N_BYTES, opener=own))
            version = int(state["format_version"])
            if version > FORMAT_VERSION:
                raise UsageError(
                    f"{self.folder} has format {version}, this version of loev reads up to "
                    f"{FORMAT_VERSION}",
                    hint="pip install --upgrade loev-cli",
                )
            return {
                "fingerprint": dict(state["fingerprint"]),
                "origin": dict(state["origin"]),
                "discards": state["discards"],
            }
        except FileNotFoundError:
            problem = f"has results but no settings file ({_STATE_FILE} is missing)"
            if overwrite or not (self._files(_PART) or self._files(_INDEX)):
                return None
        except DATA_ERRORS:
            problem = f"is not a loev journal, or is damaged: {_STATE_FILE} cannot be read"
            if overwrite:
                return None
        raise UsageError(f"{self.folder} {problem}", hint="--overwrite discards it")

    def _write_state(self) -> None:
        # discards: the output that is to be replaced unread, so that a run with --overwrite that
        # was interrupted can tell its own parts from those it is asked to discard.
        state = {
            "format_version": FORMAT_VERSION,
            "fingerprint": self._fingerprint,
            "origin": self.origin,
            "discards": self._discards,
        }
        write_own(
            self.folder / _STATE_FILE,
            json.dumps(state, ensure_ascii=False, indent=1).encode() + b"\n",
        )

    def _read_index(self, identity: str) -> None:
        """Which file each row of the output is of; what is not known is embedded again."""
        file = self.folder / f"index-{identity}.rows"
        problem: str | None = f"{self.out} was modified since the last run"
        if file.exists():
            try:
                with contextlib.closing(Part(file, *self._owners)) as index:
                    self._in_output = {place.path: place.stamp for place in index.places()}
                    problem = index.torn
            except ForeignError as error:
                problem = str(error)
            if problem is None:
                return
            problem = f"{file}: {problem}"
        self.problems.append(f"{problem}; the files in it are embedded again")
        self._in_output = dict.fromkeys((row.path for row in rows(self.out)), None)

    def _write_index(self, finished: Path, stamps: Mapping[str, Stamp | None]) -> None:
        file = self.folder / f"index-{_identity(finished)}.rows"
        file.unlink(missing_ok=True)
        writer = PartWriter(file, self._owner)
        try:
            for path, stamp in stamps.items():
                writer.add(path, stamp)
            writer.sync()
        finally:
            writer.close()

    def _read_part(self, file: Path) -> None:
        try:
            part = Part(file, *self._owners)
        except ForeignError as error:
            self.problems.append(f"{file} {error}; it is not used")
            return
        for place in part.places():
            self._places[place.path] = (len(self._parts), place)
        if part.torn:
            self.problems.append(f"{file}: {part.torn}; what follows is embedded again")
        self._parts.append(part)

    def _join_parts(self) -> None:
        """One part instead of many. If this stops half way its rows are there twice, alike."""
        old = self._parts
        joined = self._new_part()
        try:
            for path, (number, place) in self._places.items():
                joined.add(path, place.stamp, old[number].row(place, self._subspaces))
            joined.sync()
        finally:
            joined.close()
        self._parts, self._places = [], {}
        self._read_part(joined.file)
        for part in old:
            part.close()
            part.file.unlink()

    def _new_part(self) -> PartWriter:
        numbers = [int(_PART.fullmatch(f.name)[1]) for f in self._files(_PART)]  # type: ignore[index]
        number = max(numbers, default=0) + 1
        return PartWriter(self.folder / f"part-{number:06}.rows", self._owner)

    def _files(self, name: re.Pattern[str]) -> list[Path]:
        return sorted(file for file in self.folder.iterdir() if name.fullmatch(file.name))

    def _close_parts(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for part in self._parts:
            part.close()
        self._parts = []

    def _remove_leftovers(self) -> None:
        """Temporary files of runs that were killed; the lock says that nobody is writing them."""
        for folder, name in ((self.out.parent, self.out.name), (self.folder, _STATE_FILE)):
            leftover = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{8}}\.tmp")
            for file in list(folder.iterdir()):
                if not leftover.fullmatch(file.name):
                    continue
                if file.is_dir() and not file.is_symlink():
                    shutil.rmtree(file)
                else:
                    file.unlink(missing_ok=True)

    def _clear(self) -> None:
        """Remove our own files, and nothing else that may lie in the folder."""
        for file in (*self._files(_PART), *self._files(_INDEX)):
            file.unlink()
        (self.folder / _STATE_FILE).unlink(missing_ok=True)

    def _remove(self) -> None:
        if self._is_ours:
            self._clear()
        if {file.name for file in self.folder.iterdir()} != {_LOCK_FILE}:
            return  # something of somebody else's
        with contextlib.suppress(OSError):  # Windows does not remove what is open
            (self.folder / _LOCK_FILE).unlink(missing_ok=True)
            self.folder.rmdir()


def stamps_of(out: Path, meta: Meta) -> dict[str, Stamp]:
    """Which file each row of a finished output is of, as far as its journal knows."""
    out = Path(os.path.realpath(out))
    file = _folder_of(out) / f"index-{_identity(out)}.rows"
    try:
        with contextlib.closing(Part(file, _owner(fingerprint(meta)))) as index:
            return {place.path: place.stamp for place in index.places() if place.stamp}
    except (OSError, OutputError, ForeignError):
        return {}


def _folder_of(out: Path) -> Path:
    return out.with_name(out.name + JOURNAL_SUFFIX)


def _owner(settings: dict[str, Any]) -> bytes:
    return hashlib.sha256(
        json.dumps(settings, sort_keys=True, ensure_ascii=False).encode()
    ).digest()


def _identity(file: Path) -> str | None:
    """Tells an output from any other by its size and its two ends, where every format has its
    contents listed; None if there is no file. Not by its mtime, which copying changes. A folder is
    told by all its files."""
    if file.is_dir():
        parts = sorted(part for part in file.rglob("*") if part.is_file())
        named = [f"{part.relative_to(file).as_posix()} {_identity(part)}" for part in parts]
        return hashlib.sha256("\n".join(named).encode()).hexdigest()[:32]
    try:
        with file.open("rb") as stream:
            n_bytes = stream.seek(0, os.SEEK_END)
            digest = hashlib.sha256(str(n_bytes).encode())
            for start in (0, max(0, n_bytes - _END_N_BYTES)):
                stream.seek(start)
                digest.update(stream.read(_END_N_BYTES))
    except FileNotFoundError:
        return None
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "progress is saved; run the same command again to resume"
        raise OutputError(f"cannot write {folder}: {error.strerror or error}", hint=hint) from error


_PID_N_BYTES = 20
_PID = re.compile(rb"[0-9]{0,20}")  # what a lock file contains


class Lock:
    """Holds a lock file until closed or the process ends; the file itself stays.

    Raises:
        OutputError: another process holds it, the file cannot be made, or it is not a lock of ours.
    """

    def __init__(self, file: Path, *, what: str) -> None:
        while True:
            try:
                self._descriptor = own(file, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                raise OutputError(f"cannot write {file}: {error.strerror}") from error
            try:
                is_ours = _take(self._descriptor)
            except OSError as error:  # some network file systems have no locks
                os.close(self._descriptor)
                raise OutputError(f"cannot lock {file}: {error.strerror}") from error
            if not is_ours:
                holder = os.read(self._descriptor, _PID_N_BYTES).decode("ascii", "replace").strip()
                os.close(self._descriptor)
                raise OutputError(
                    f"{what} is in use by another loev process (PID {holder or 'unknown'})",
                    hint="wait for it, or choose another --out",
                )
            if self._is_still(file):
                break
            os.close(self._descriptor)  # its holder removed it just before we got it
        if not _PID.fullmatch(os.read(self._descriptor, _PID_N_BYTES + 1)):
            os.close(self._descriptor)
            raise OutputError(
                f"{file} is not a loev lock file", hint="remove it, or write elsewhere"
            )
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, str(os.getpid()).encode())

    def _is_still(self, file: Path) -> bool:
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self._descriptor), file.stat())
        return False

    def fileno(self) -> int:
        """The descriptor that holds it; a process that inherits it holds the lock too."""
        return self._descriptor

    def close(self) -> None:
        """Let go."""
        os.close(self._descriptor)


if sys.platform == "win32":
    import msvcrt

    # Locked bytes cannot be read there: the process id stands before them.
    _LOCKED_AT = 1000

    def _take(descriptor: int) -> bool:
        os.lseek(descriptor, _LOCKED_AT, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _take(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
