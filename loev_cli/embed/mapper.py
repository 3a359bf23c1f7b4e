"""Windows of many tracks -> full batches -> vectors, in the order the windows came."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from loev_cli.backends import Encoder, open_encoder
from loev_cli.backends.machine import usable_cpus
from loev_cli.bundle import Bundle
from loev_cli.embed.reader import Window
from loev_cli.errors import UsageError, starting

CPU_BATCH_SIZE = 2
CUDA_BATCH_SIZE = 64
CUDA_ENCODERS = 2
MAX_ENCODERS = 16
_POLL_S = 0.1
_Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Batching:
    """``size`` windows encoded together, ``n_encoders`` such batches at once.

    It changes speed, not results. The default fits an encoder that spreads a batch over all cores
    by itself.
    """

    size: int = 8
    n_encoders: int = 1


def open_fast(
    bundle: Bundle,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    subspaces: Sequence[str] | None = None,
    annotate: bool = False,
) -> tuple[Encoder, Batching]:
    """A model, open, and the batches that keep this machine at work on many windows.

    Arguments and errors: as of :func:`loev_cli.backends.open_encoder`.
    """
    encoder = open_encoder(
        bundle,
        backend=backend,
        device=device,
        precision=precision,
        subspaces=subspaces,
        annotate=annotate,
        n_threads=1 if backend != "torch" else None,
    )
    if encoder.device != "cpu":
        return encoder, Batching(CUDA_BATCH_SIZE, CUDA_ENCODERS * encoder.n_devices)
    if encoder.backend == "torch":  # its own threads share one batch
        return encoder, Batching(CPU_BATCH_SIZE, 1)
    return encoder, Batching(CPU_BATCH_SIZE, min(usable_cpus(), MAX_ENCODERS))


@dataclass(frozen=True)
class Encoded:
    """One encoded window: where it comes from, and subspace -> (D,) float32."""

    track: int
    start_n: int
    vectors: _Vectors


@dataclass(frozen=True)
class _Batch:
    """A batch under way: its windows' tracks and starts, its vectors, and how long they took."""

    places: list[tuple[int, int]]
    vectors: Future[tuple[_Vectors, float]]


class Mapper:
    """Collects windows and encodes them ``batch_size`` at a time; a context manager.

    Several batches are encoded at once, each on one thread: on a CPU that keeps every core at work
    without the threads of one batch waiting for each other, on a GPU it fetches and sends while
    the GPU computes. On CUDA a batch that is not full is filled up with zeros, because every new
    shape makes cuDNN choose its algorithms anew; on the CPU that would only be work for nothing.

    Args:
        while_waiting: called now and then while a batch takes long; what it raises ends the wait.

    Attributes:
        busy_s: seconds spent encoding so far, over all threads.
    """

    def __init__(
        self,
        encoder: Encoder,
        batch_size: int,
        n_encoders: int = 1,
        *,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self.busy_s = 0.0
        self._while_waiting = while_waiting
        self._encoder = encoder
        self._n_samples = encoder.bundle.window_n_samples
        self._batch_size = batch_size
        self._batch = self._new_batch()
        self._places: list[tuple[int, int]] = []
        self._pads = encoder.device != "cpu"
        self._under_way: deque[_Batch] = deque()
        # One more than are at work: it begins the moment that another ends.
        self._max_under_way = n_encoders
        self._threads = ThreadPoolExecutor(n_encoders, thread_name_prefix="encoder")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is not None:  # nobody wants what is under way, and it may never end
            self._encoder.stop()
        self._threads.shutdown(cancel_futures=True)

    def push(self, window: Window) -> Iterator[Encoded]:
        """Take a window; the vectors that are ready meanwhile, which may be earlier windows'."""
        self._batch[len(self._places)] = window.cut.samples
        self._places.append((window.track, window.cut.start_n))
        if len(self._places) == self._batch_size:
            self._send()
        yield from self.ready()

    def ready(self) -> Iterator[Encoded]:
        """Vectors that are done; waits only if more batches are under way than should be."""
        while self._under_way and (
            len(self._under_way) > self._max_under_way or self._under_way[0].vectors.done()
        ):
            yield from self._take()

    def flush(self) -> Iterator[Encoded]:
        """The vectors of all windows taken so far."""
        self.send_waiting()
        while self._under_way:
            yield from self._take()

    def send_waiting(self) -> None:
        """Flush the partial batch."""
        if self._places:
            self._send()

    def _send(self) -> None:
        n_real = len(self._places)
        batch, places = self._batch, self._places
        self._batch, self._places = self._new_batch(), []
        windows = batch if self._pads else batch[:n_real]
        with starting("an encoder thread"):
            vectors = self._threads.submit(self._encode, windows)
        self._under_way.append(_Batch(places, vectors))

    def _encode(self, windows: NDArray[np.float32]) -> tuple[_Vectors, float]:
        # One thread on the CPU does all the work itself, so its CPU time is the honest figure.
        clock = time.thread_time if self._encoder.device == "cpu" else time.monotonic
        began = clock()
        vectors = self._encoder.encode(windows)
        return vectors, clock() - began

    def _take(self) -> Iterator[Encoded]:
        batch = self._under_way.popleft()
        while not batch.vectors.done():
            wait([batch.vectors], timeout=_POLL_S)
            self._while_waiting()
        vectors, seconds = batch.vectors.result()
        self.busy_s += seconds
        for i, (track, start_n) in enumerate(batch.places):
            yield Encoded(track, start_n, {name: v[i] for name, v in vectors.items()})

    def _new_batch(self) -> NDArray[np.float32]:
        try:
            return np.zeros((self._batch_size, self._n_samples), np.float32)  # (B, N)
        except MemoryError as error:
            raise UsageError(f"no memory for batches of {self._batch_size} windows") from error
