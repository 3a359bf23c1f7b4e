"""One job per file in worker processes, which may die without taking the run with them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

from loev_cli.errors import InputError, LoevError

Result = TypeVar("Result")


def run_each(
    job: Callable[[Path], Result], files: Sequence[Path], n_workers: int
) -> Generator[tuple[Path, Result | InputError], None, None]:
    """Each file with what ``job`` gave for it, as it is done; InputErrors are given, not raised.

    A file whose job ends its process (decoders are C code and crash) gives an InputError. A pool
    does not say which of its jobs that was: those that may have been running are tried again,
    one at a time.

    Args:
        job: picklable.
        n_workers: 0 runs the jobs in this process.
    """
    if n_workers == 0:
        for file in files:
            yield file, _attempt(job, file)
        return
    waiting = list(files)
    while waiting:
        done = set()
        for file, result in _together(job, waiting, n_workers):
            done.add(file)
            yield file, result
        # Jobs start in the order given. Unfinished are at most one running per worker, and one
        # more per worker whose result was lost with the pool.
        suspects = [file for file in waiting if file not in done][: 2 * n_workers]
        for file, result in _one_at_a_time(job, suspects):
            done.add(file)
            yield file, result
        waiting = [file for file in waiting if file not in done]


def _attempt(job: Callable[[Path], Result], file: Path) -> Result | InputError:
    try:
        return job(file)
    except InputError as error:
        return error


def _together(
    job: Callable[[Path], Result], files: Sequence[Path], n_workers: int
) -> Generator[tuple[Path, Result | InputError], None, None]:
    """What ``n_workers`` processes give before one of them dies, or all of it."""
    with _pool(min(n_workers, len(files))) as pool:
        jobs: dict[Future[Result | InputError], Path] = {}
        try:
            for file in files:
                jobs[pool.submit(_attempt, job, file)] = file
        except BrokenProcessPool:
            pass  # a worker died already; what was not handed out waits for the next pool
        try:
            for future in as_completed(jobs):
                try:
                    result = future.result()
                except BrokenProcessPool:
                    continue
                yield jobs[future], result
        finally:
            # Stopped early, nothing that still waits is worth waiting for.
            pool.shutdown(wait=True, cancel_futures=True)


def _one_at_a_time(
    job: Callable[[Path], Result], files: Sequence[Path]
) -> Generator[tuple[Path, Result | InputError], None, None]:
    """What one process gives up to the file that ends it, or all of it."""
    if not files:
        return
    with _pool(1) as pool:
        try:
            pool.submit(_ready).result()
        except BrokenProcessPool as error:
            raise LoevError(
                "the decoding processes cannot start",
                hint="wrap the script's main code in `if __name__ == '__main__':`",
            ) from error
        for file in files:
            try:
                result = pool.submit(_attempt, job, file).result()
            except BrokenProcessPool:
                message = f"{file}: the decoding process died"
                yield file, InputError(message, stage="decode")
                return
            yield file, result


def _pool(n_workers: int) -> ProcessPoolExecutor:
    # Fresh processes: forking one that has torch's threads running can hang.
    return ProcessPoolExecutor(
        n_workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )


def _ready() -> None:
    """A worker that does this has started."""
