"""The cache of track contents on disk: content-addressed, shared between runs, bounded.

    <folder>/index/ab/<hash of path>       "size mtime_ns digest": the bytes of a file last seen
    <folder>/entries/ab/<key>.npy          rows of a track; key = hash(digest, content, max_track_s)
    <folder>/drafts/<run>/                 entries being written

A renamed, moved or copied file keeps its entry, and a file that did not change is not read again.
Runs share the folder without locks: files appear whole, by rename, under a name that says what
they hold, so two runs that write the same entry write the same bytes. Nothing found there is
trusted before its header and size are those of whole rows of the right kind.

The bound is held by :class:`Room`, which deletes the entries used longest ago. On POSIX a run that
has such an entry mapped keeps its data; one that has not makes it again (:mod:`.rows`). (A network
file system may not keep data that another machine deletes: give runs that share one a bound that
holds them all.) The index takes one small file per path ever seen and does not count.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from loev_cli.errors import OutputError
from loev_cli.storage.own import own_folder, user_cache
from loev_cli.train.data.content import Content

DEFAULT_MAX_BYTES = 50 * 10**9
_DIGEST_N_BYTES = 16
# A file changed this short a time ago may change again without its time stamp telling.
_STAMP_SETTLES_NS = 2 * 10**9
_USE_NOTED_EVERY_S = 3600.0
_DRAFTS_STALE_S = 24 * 3600.0


def default_cache() -> Path:
    """Where features are kept unless told otherwise.

    Raises:
        OutputError: the user has no home folder.
    """
    return user_cache() / "features"


@dataclass(frozen=True)
class Stamp:
    """What tells cheaply that a file has changed."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, file: Path) -> Stamp:
        status = file.stat()
        return cls(status.st_size, status.st_mtime_ns)


def digest_of(file: Path) -> str:
    """Hash of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, _hasher).hexdigest()


def _hasher() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=_DIGEST_N_BYTES)


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=_DIGEST_N_BYTES).hexdigest()


@dataclass(frozen=True)
class Cache:
    """A cache folder. Picklable: workers are handed it.

    Attributes:
        max_bytes: bound of all entries together, whichever run made them.
    """

    folder: Path
    max_bytes: int = DEFAULT_MAX_BYTES

    def prepare(self) -> None:
        """Make the folder; throw away what killed runs left half written.

        Raises:
            OutputError: it cannot be used.
        """
        drafts = self.folder / "drafts"
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            own_folder(drafts)
        for left in drafts.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - left.lstat().st_mtime > _DRAFTS_STALE_S:
                    shutil.rmtree(left)

    @contextlib.contextmanager
    def drafts(self) -> Iterator[Path]:
        """A folder for one run's drafts; whatever is left in it is deleted in the end."""
        with self._writing():
            folder = Path(tempfile.mkdtemp(dir=self.folder / "drafts"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def known_digest(self, file: Path, stamp: Stamp) -> str | None:
        """The digest of ``file`` if it is unchanged since :meth:`remember`."""
        try:
            size, mtime_ns, digest = self._index_file(file).read_text(encoding="ascii").split()
        except (OSError, ValueError):
            return None  # never seen, or not written by us
        if (size, mtime_ns) != (str(stamp.size), str(stamp.mtime_ns)):
            return None
        return digest if len(digest) == 2 * _DIGEST_N_BYTES else None

    def remember(self, file: Path, stamp: Stamp, digest: str, drafts: Path) -> None:
        """Raises OutputError where it cannot be written."""
        if time.time_ns() - stamp.mtime_ns < _STAMP_SETTLES_NS:
            return
        target = self._index_file(file)
        draft = drafts / target.name
        with self._writing():
            draft.write_text(f"{stamp.size} {stamp.mtime_ns} {digest}\n", encoding="ascii")
            _move(draft, target)

    def key(self, digest: str, content: Content, max_track_s: float) -> str:
        """Name of the entry of a file with these bytes."""
        identity = [digest, dict(content.identity), float(max_track_s)]
        return _hash(json.dumps(identity, sort_keys=True).encode())

    def entry_file(self, key: str) -> Path:
        return self.folder / "entries" / key[:2] / f"{key}.npy"

    def n_frames(self, key: str, content: Content) -> int | None:
        """Rows of an entry, which counts as used now; None if it is not there or not whole."""
        file = self.entry_file(key)
        try:
            with file.open("rb") as stream:
                found = _valid_header(stream, content)
            if found is not None:
                _touch(file)
        except OSError:
            return None
        return None if found is None else found[0]

    def map(self, key: str, content: Content) -> np.ndarray | None:
        """An entry's rows, memory-mapped; None if it is not there or not whole."""
        try:
            with self.entry_file(key).open("rb") as stream:
                found = _valid_header(stream, content)
                if found is None:
                    return None
                if time.time() - os.fstat(stream.fileno()).st_mtime > _USE_NOTED_EVERY_S:
                    _touch(self.entry_file(key))
                n_frames, offset = found
                shape = (n_frames, *content.row_shape)
                return np.memmap(stream, content.dtype, "r", offset, shape)
        except OSError:
            return None

    def write_draft(self, rows: np.ndarray, draft: Path) -> None:
        """Raises OutputError, and leaves no draft, where it cannot be written."""
        with self._writing():
            try:
                with draft.open("wb") as stream:
                    # np.save would not say why a write failed.
                    npy.write_array_header_1_0(stream, npy.header_data_from_array_1_0(rows))
                    stream.write(np.ascontiguousarray(rows).data)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise

    def adopt(self, draft: Path, key: str) -> None:
        """Make a draft the entry of ``key``, in one step."""
        with self._writing():
            _move(draft, self.entry_file(key))

    def _index_file(self, file: Path) -> Path:
        name = _hash(os.fsencode(os.path.realpath(file)))
        return self.folder / "index" / name[:2] / name

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"cannot write the cache {self.folder}: {error.strerror or error}",
                hint="use another --cache, or --no-cache",
            ) from error


def _touch(entry: Path) -> None:
    with contextlib.suppress(OSError):  # somebody else's, and good to read
        os.utime(entry)


def _move(draft: Path, target: Path) -> None:
    own_folder(target.parent.parent)  # entries or index
    own_folder(target.parent)
    draft.replace(target)


def _valid_header(stream: io.BufferedReader, content: Content) -> tuple[int, int] | None:
    """Rows and offset of the data, if the file holds whole rows of ``content`` and no more."""
    try:
        if npy.read_magic(stream) != (1, 0):
            return None
        shape, is_fortran, dtype = npy.read_array_header_1_0(stream)
    except ValueError:
        return None
    if not shape or shape[0] < 1 or shape[1:] != content.row_shape or dtype != content.dtype:
        return None
    n_bytes = stream.tell() + int(np.prod(shape)) * dtype.itemsize
    if os.fstat(stream.fileno()).st_size != n_bytes or (is_fortran and len(shape) > 1):
        return None
    return shape[0], stream.tell()


class Room:
    """Keeps a cache within its bound while one run fills it.

    Entries that this run uses are never deleted, others the longest unused first. Other runs
    write too, so the folder is looked through again after every 2 % of the bound.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._own: set[str] = set()
        self._own_n_bytes = 0
        self._n_bytes = 0  # of all entries, as far as known
        self._n_bytes_since_look: int | None = None
        self._others: list[tuple[int, int, Path]] = []  # mtime_ns, size, file; oldest last

    def claim(self, key: str) -> None:
        """This run uses the entry of ``key``, which is there."""
        if key not in self._own:
            self._own.add(key)
            with contextlib.suppress(FileNotFoundError):
                self._own_n_bytes += self._cache.entry_file(key).stat().st_size

    def adopt(self, draft: Path, key: str) -> None:
        """Make a draft an entry of this run, once there is room for it.

        Raises:
            OutputError: what this run uses does not fit into the bound.
        """
        if key in self._own:  # a copy of the file was quicker
            draft.unlink()
            return
        n_bytes = draft.stat().st_size
        self.make(n_bytes)
        n_bytes_replaced = 0  # torn, or of a run beside this one that was quicker
        with contextlib.suppress(FileNotFoundError):
            n_bytes_replaced = self._cache.entry_file(key).stat().st_size
        self._cache.adopt(draft, key)
        self._own.add(key)
        self._own_n_bytes += n_bytes
        self._n_bytes += n_bytes - n_bytes_replaced
        self._n_bytes_since_look = (self._n_bytes_since_look or 0) + n_bytes

    def make(self, n_bytes: int) -> None:
        """Delete entries of other runs until ``n_bytes`` more fit.

        Raises:
            OutputError: what this run uses does not fit into the bound, or others' entries cannot
                be deleted.
        """
        bound = self._cache.max_bytes
        if self._own_n_bytes + n_bytes > bound:
            raise OutputError(
                f"the cache {self._cache.folder} is limited to {bound / 1e9:.3g} GB, and "
                f"{len(self._own) + bool(n_bytes)} tracks of this run need "
                f"{(self._own_n_bytes + n_bytes) / 1e9:.3g} GB",
                hint="raise --cache-gb, lower max_track_s, or use --no-cache",
            )
        if self._n_bytes_since_look is None or self._n_bytes_since_look > bound // 50:
            self._look()
        for _ in range(3):
            if self._delete(bound - n_bytes):
                return
            # Entries that were used since the last look are known with their new times now.
            self._look()
        raise OutputError(
            f"the cache {self._cache.folder} is limited to {bound / 1e9:.3g} GB, has "
            f"{self._n_bytes / 1e9:.3g} GB, and entries of other runs cannot be deleted",
            hint="raise --cache-gb, use another --cache, or --no-cache",
        )

    def _look(self) -> None:
        self._others = []
        self._n_bytes = self._n_bytes_since_look = 0
        for file in (self._cache.folder / "entries").glob("*/*.npy"):
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                self._n_bytes += status.st_size
                if file.stem not in self._own:
                    self._others.append((status.st_mtime_ns, status.st_size, file))
        self._others.sort(reverse=True)

    def _delete(self, bound: int) -> bool:
        """Whether the entries take no more than ``bound`` after deleting what may be."""
        while self._n_bytes > bound and self._others:
            seen_ns, size, file = self._others.pop()
            try:
                if file.stem in self._own or file.stat().st_mtime_ns != seen_ns:
                    continue
                file.unlink()
            except FileNotFoundError:
                pass  # another run was quicker
            except OSError:
                continue  # another user's, or in use on a system that locks what is in use
            self._n_bytes -= size
        return self._n_bytes <= bound
