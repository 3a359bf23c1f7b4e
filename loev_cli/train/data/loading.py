"""Files -> tracks: every file is decoded once, in worker processes, and those that fail are listed.

                 known and cached --------------------------------.
    listed ---<                                                    >--- tracks, skipped
                 else: worker: hash, decode, write draft -- room --'

One process, this one, makes the room and gives drafts their final names; workers only write drafts.
"""

from __future__ import annotations

import contextlib
import queue
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

from loev_cli import audio
from loev_cli.errors import InputError, LoevError, UsageError
from loev_cli.manifest import TRACK, Listed
from loev_cli.train.data.cache import Cache, Room, Stamp, digest_of
from loev_cli.train.data.content import Content, waveform_blocks
from loev_cli.train.data.listing import variant_number
from loev_cli.train.data.rows import CachedRows, DecodedRows, RowSource, Track, make_rows
from loev_cli.train.items import Item

Result = TypeVar("Result")


@dataclass(frozen=True)
class Skipped:
    """A file that gave no training data, and why."""

    path: str
    error: str


@dataclass(frozen=True)
class _Read:
    """What a worker found out about a file. ``draft`` is the entry it wrote, if it had to."""

    digest: str
    stamp: Stamp
    n_frames: int
    draft: Path | None = None


def load_tracks(
    listed: Sequence[Listed],
    content: Content,
    cache: Cache | None,
    *,
    max_track_s: float,
    n_workers: int,
    variants: Sequence[str] = (),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Track], list[Skipped]]:
    """Tracks in the order listed, of the files that can be read; none of the split ``test``.

    Of files with the same bytes one is taken (one to validate on, if there is one) and the others
    are skipped: in contrast with each other they would be wrong negatives. So is a copy of a file
    to test on.

    Args:
        cache: None decodes every file anew whenever it is read.
        max_track_s: what lies behind is not decoded.
        variants: columns that say which variant of its track a file is.
        n_workers: processes that decode; 0 decodes in this one, without shelter from a decoder
            that crashes.

    Raises:
        OutputError: the cache cannot be written, or is too small for these tracks.
    """
    wanted = list({item.path: item for item in listed if item.split != "test"}.values())
    files = [item.path for item in wanted]
    found: dict[Path, _Read | InputError] = {}
    on_progress(0, len(files))
    rows: RowSource
    if cache is None:
        rows = DecodedRows(content, max_track_s)
        job = partial(_look_through, content=content, max_track_s=max_track_s)
        results = run_each(job, files, n_workers)
    else:
        rows = CachedRows(cache, content, max_track_s)
        results = _fill(rows, files, n_workers)
    with contextlib.closing(results):
        for file, result in results:
            found[file] = result
            on_progress(len(found), len(files))
    read = {file: result for file, result in found.items() if isinstance(result, _Read)}
    tests = _digests([item.path for item in listed if item.split == "test"], cache)
    copies = _copies([item for item in wanted if item.path in read], read, tests)
    tracks = [
        Track(
            path=item.path,
            digest=read[item.path].digest,
            split=item.split,
            group=item.group,
            work=item.labels.get(TRACK) or None,
            variant={name: variant_number(name, item) for name in variants},
            stamp=read[item.path].stamp,
            n_frames=read[item.path].n_frames,
            frames_per_s=content.frames_per_s,
            rows=rows,
        )
        for item in wanted
        if item.path in read and item.path not in copies
    ]
    failed = {file: str(error) for file, error in found.items() if isinstance(error, InputError)}
    reasons = failed | copies
    skipped = [Skipped(str(i.path), reasons[i.path]) for i in wanted if i.path in reasons]
    return tracks, skipped


def _fill(
    rows: CachedRows, files: Sequence[Path], n_workers: int
) -> Generator[tuple[Path, _Read | InputError], None, None]:
    """Each file once its entry is in the cache, or with what is wrong with it."""
    cache = rows.cache
    cache.prepare()
    room = Room(cache)
    todo = []
    for file in files:
        known = _known(file, rows)
        if known is None:
            todo.append(file)
        else:
            room.claim(rows.key(known.digest))
            yield file, known
    room.make(0)
    if not todo:
        return
    with cache.drafts() as drafts:
        job = partial(_store, rows=rows, drafts=drafts)
        with contextlib.closing(run_each(job, todo, n_workers)) as results:
            for file, result in results:
                if isinstance(result, _Read):
                    if result.draft:
                        room.adopt(result.draft, rows.key(result.digest))
                    else:
                        room.claim(rows.key(result.digest))
                yield file, result


def _known(file: Path, rows: CachedRows) -> _Read | None:
    """What the cache knows of a file without reading it."""
    cache = rows.cache
    try:
        stamp = Stamp.of(file)
    except OSError:
        return None  # the worker says why
    digest = cache.known_digest(file, stamp)
    if digest is None:
        return None
    n_frames = cache.n_frames(rows.key(digest), rows.content)
    return None if n_frames is None else _Read(digest, stamp, n_frames)


def _store(file: Path, rows: CachedRows, drafts: Path) -> _Read:
    """Worker: see that there is an entry, or a draft of one."""
    cache, content, max_track_s = rows.cache, rows.content, rows.max_track_s
    with _steady(file) as stamp:
        digest = digest_of(file)
        n_frames, draft = cache.n_frames(rows.key(digest), content), None
        if n_frames is None:
            made = make_rows(file, content, max_track_s)
            n_frames = len(made)
            # Two copies of a file may be made at once, so the name is not the key.
            draft = drafts / f"{uuid.uuid4().hex}.npy"
            cache.write_draft(made, draft)
    cache.remember(file, stamp, digest, drafts)
    return _Read(digest, stamp, n_frames, draft)


def _look_through(file: Path, content: Content, max_track_s: float) -> _Read:
    """Worker: decode a file to see that it can be, and how long it is."""
    with _steady(file) as stamp:
        digest = digest_of(file)
        n_samples = sum(map(len, waveform_blocks(file, content, max_track_s)))
    return _Read(digest, stamp, content.n_frames(n_samples))


@contextlib.contextmanager
def _steady(file: Path) -> Iterator[Stamp]:
    """Around reading a file: its stamp, and an error if that is another one afterwards."""
    try:
        stamp = Stamp.of(file)
        audio.probe(file)  # says what is wrong with a folder, a pipe or a text before it is hashed
        yield stamp
        if Stamp.of(file) != stamp:
            raise InputError(f"{file}: changed while being read", stage="decode")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}", stage="open") from error


def _digests(files: Sequence[Path], cache: Cache | None) -> dict[str, Path]:
    """Digest -> file, of those that can be read."""
    found: dict[str, Path] = {}
    for file in files:
        with contextlib.suppress(OSError):
            if not file.is_file():
                continue  # a pipe would be read for ever
            stamp = Stamp.of(file)
            digest = cache.known_digest(file, stamp) if cache else None
            if digest is None:
                digest = digest_of(file)
                if cache:
                    with cache.drafts() as drafts:
                        cache.remember(file, stamp, digest, drafts)
            found.setdefault(digest, file)
    return found


def _copies(
    items: Sequence[Listed], read: dict[Path, _Read], tests: dict[str, Path]
) -> dict[Path, str]:
    """Files whose bytes another one has too, all but one of each; and what they are copies of."""
    first = dict(tests)
    copies: dict[Path, str] = {}
    for item in sorted(items, key=lambda item: item.split != "val"):
        original = first.setdefault(read[item.path].digest, item.path)
        if original != item.path:
            copies[item.path] = f"{item.path}: is a copy of {original}"
    return copies


def require_enough(tracks: Sequence[Item], skipped: Sequence[Skipped], batch_size: int) -> None:
    """Raises LoevError where there are fewer tracks to train on than a batch needs."""
    if not tracks and skipped:
        raise LoevError(
            f"none of {len(skipped)} files could be used", hint=f"first: {skipped[0].error}"
        )
    if len(tracks) < batch_size:
        fits = f"use --batch-size {len(tracks)} or less, or " if tracks else ""
        raise UsageError(
            f"{len(tracks)} usable tracks are fewer than the batch of {batch_size}",
            hint=f"{fits}add music",
        )


def run_each(
    job: Callable[[Path], Result], files: Sequence[Path], n_workers: int
) -> Generator[tuple[Path, Result | InputError], None, None]:
    """Each file with what ``job`` gave for it, as it is done; InputErrors are given, not raised.

    Jobs run in processes of their own. A file whose job ends its process (decoders are C code and
    crash) gives an InputError.

    Args:
        job: picklable.
        n_workers: 0 runs the jobs in this process.
    """
    n_workers = min(n_workers, len(files))
    if n_workers == 0:
        for file in files:
            yield file, _attempt(job, file)
        return
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    with contextlib.ExitStack() as stack:
        for _ in range(n_workers):
            idle.put(stack.enter_context(contextlib.closing(_Worker())))

        def attempt(file: Path) -> Result | InputError:
            worker = idle.get()
            try:
                return worker.run(job, file)
            finally:
                idle.put(worker)

        threads = stack.enter_context(ThreadPoolExecutor(n_workers))
        # Stopped early, nothing that still waits is worth waiting for.
        stack.callback(threads.shutdown, cancel_futures=True)
        waiting = {threads.submit(attempt, file): file for file in files}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


class _Worker:
    """One process that does jobs, replaced when a job has ended it."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def run(self, job: Callable[[Path], Result], file: Path) -> Result | InputError:
        """Raises LoevError where no process can be started."""
        if self._pool is None:
            self._pool = _started()
        try:
            return self._pool.submit(_attempt, job, file).result()
        except BrokenProcessPool:
            self.close()
            return InputError(f"{file}: the decoding process died", stage="decode")

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _started() -> ProcessPoolExecutor:
    # A fresh process: forking one that has torch's threads running can hang.
    pool = ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        pool.submit(_ready).result()
    except BrokenProcessPool as error:
        raise LoevError(
            "the decoding processes cannot start",
            hint="wrap the script's main code in `if __name__ == '__main__':`",
        ) from error
    return pool


def _attempt(job: Callable[[Path], Result], file: Path) -> Result | InputError:
    try:
        return job(file)
    except InputError as error:
        return error


def _ready() -> None:
    """A worker that does this has started."""
