"""A track and where its rows come from: an entry of the cache, or its file decoded anew."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from loev_cli.errors import InputError, OutputError
from loev_cli.train.data.cache import Cache, Stamp, digest_of
from loev_cli.train.data.content import Content, waveform_blocks
from loev_cli.train.items import Item

# A process keeps this many tracks mapped. Every map holds a file descriptor, of which a process
# may have 256 on some systems, and a library has 100,000 tracks; views of one track are cut one
# after the other, so a few do.
_N_RECENT = 32
_RECENT_N_BYTES = 256 * 2**20


class RowSource(Protocol):
    """Gives rows ``start:stop`` of a track, 0 <= start <= stop <= n_frames."""

    def read(self, track: Track, start: int, stop: int) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class Track(Item):
    """One track to train on. Light, and picklable: rows are read when they are asked for.

    Attributes:
        digest: hash of the file's bytes.
        stamp: its size and time when it was listed.
        n_frames: rows there are, at ``frames_per_s``: spectrum frames or samples.
    """

    stamp: Stamp
    n_frames: int
    frames_per_s: float
    rows: RowSource = field(repr=False, compare=False)

    @property
    def duration_s(self) -> float:
        return self.n_frames / self.frames_per_s

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start:stop``, a copy. Beyond its end the track repeats.

        Raises:
            InputError: the rows are not in the cache any more, and the file is not what it was.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"no rows {start}:{stop}")
        parts: list[np.ndarray] = []
        while start < stop or not parts:
            first = start % self.n_frames
            n = min(stop - start, self.n_frames - first)
            parts.append(self.rows.read(self, first, first + n))
            start += n
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class _Recent:
    """The last few arrays by key, bounded in number and bytes; of one process, so never pickled."""

    def __init__(self, max_n: int = _N_RECENT, max_bytes: int = _RECENT_N_BYTES) -> None:
        self._max_n, self._max_bytes = max_n, max_bytes
        self._clear()

    def _clear(self) -> None:
        self._arrays: OrderedDict[Any, np.ndarray] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Any) -> np.ndarray | None:
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
            return self._arrays.get(key)

    def put(self, key: Any, array: np.ndarray) -> None:
        with self._lock:
            if key in self._arrays:
                return
            self._arrays[key] = array
            self._n_bytes += array.nbytes
            while len(self._arrays) > 1 and (
                len(self._arrays) > self._max_n or self._n_bytes > self._max_bytes
            ):
                self._n_bytes -= self._arrays.popitem(last=False)[1].nbytes

    def __getstate__(self) -> tuple[int, int]:
        return self._max_n, self._max_bytes

    def __setstate__(self, state: tuple[int, int]) -> None:
        self._max_n, self._max_bytes = state
        self._clear()


@dataclass(frozen=True)
class CachedRows:
    """Rows of the cache's entries, memory-mapped.

    An entry that is gone (another run needed the room) or damaged is made again from the file.
    """

    cache: Cache
    content: Content
    max_track_s: float
    _maps: _Recent = field(default_factory=_Recent, repr=False, compare=False)

    def key(self, digest: str) -> str:
        """Name of the entry of a file with these bytes."""
        return self.cache.key(digest, self.content, self.max_track_s)

    def read(self, track: Track, start: int, stop: int) -> np.ndarray:
        rows = self._maps.get(track.digest)
        if rows is None:
            rows = self._open(track)
            self._maps.put(track.digest, rows)
        return np.array(rows[start:stop])

    def _open(self, track: Track) -> np.ndarray:
        key = self.key(track.digest)
        rows = self.cache.map(key, self.content)
        if rows is not None and len(rows) == track.n_frames:
            return rows
        rows = self._make_again(track)
        # Training goes on where the entry cannot be kept: the rows are at hand.
        with contextlib.suppress(OutputError), self.cache.drafts() as drafts:
            self.cache.write_draft(rows, drafts / key)
            self.cache.adopt(drafts / key, key)
            mapped = self.cache.map(key, self.content)
            rows = rows if mapped is None else mapped
        return rows

    def _make_again(self, track: Track) -> np.ndarray:
        try:
            unchanged = digest_of(track.path) == track.digest
        except OSError as error:
            raise InputError(f"{track.path}: {error.strerror}", stage="open") from error
        if not unchanged:
            raise _changed(track)
        return make_rows(track.path, self.content, self.max_track_s)


@dataclass(frozen=True)
class DecodedRows:
    """Rows made from the file whenever they are asked for; the last few blocks are remembered.

    Decoding stops behind the last block that is needed.
    """

    content: Content
    max_track_s: float
    _blocks: _Recent = field(default_factory=_Recent, repr=False, compare=False)

    def read(self, track: Track, start: int, stop: int) -> np.ndarray:
        size = self.content.n_frames(self.content.block_n_samples)
        wanted = range(start // size, max(-(-stop // size), start // size + 1))
        blocks = {i: self._blocks.get((track.digest, i)) for i in wanted}
        missing = [i for i, block in blocks.items() if block is None]
        if missing:
            self._check_unchanged(track)
            waveforms = waveform_blocks(track.path, self.content, self.max_track_s)
            for i, waveform in enumerate(islice(waveforms, missing[-1] + 1)):
                if i in missing:
                    block = blocks[i] = self.content.from_waveform(waveform)
                    self._blocks.put((track.digest, i), block)
        rows = np.concatenate([block for block in blocks.values() if block is not None])
        return np.array(rows[start - wanted.start * size : stop - wanted.start * size])

    def _check_unchanged(self, track: Track) -> None:
        try:
            stamp = Stamp.of(track.path)
        except OSError as error:
            raise InputError(f"{track.path}: {error.strerror}", stage="open") from error
        if stamp != track.stamp:
            raise _changed(track)


def make_rows(file: Path, content: Content, max_track_s: float) -> np.ndarray:
    """All rows of a file, up to ``max_track_s``.

    Raises:
        InputError: it cannot be read.
    """
    blocks = waveform_blocks(file, content, max_track_s)
    return np.concatenate([content.from_waveform(block) for block in blocks])


def _changed(track: Track) -> InputError:
    return InputError(f"{track.path}: changed since training started", stage="open")
