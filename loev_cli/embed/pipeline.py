"""The pipeline: files or waveforms in, rows out.

Reader --windows--> Mapper --vectors--> Assembler --> (track, row or failure)

Whoever has sources and an encoder can run it: the local job does, and so may an engine that gives
each of its workers some of the files. ``loev_cli.api`` runs it on arrays.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from loev_cli.audio import DEFAULT_TIMEOUT_S, DecoderProcess, Source
from loev_cli.backends import Encoder, open_encoder
from loev_cli.backends.machine import usable_cpus
from loev_cli.bundle import Bundle
from loev_cli.embed.reader import Idle, Item, Reader, TrackEnd, TrackFailed, Window
from loev_cli.embed.report import Stats
from loev_cli.errors import InputError, UsageError, starting
from loev_cli.formats import ONNX_SHA256, Row
from loev_cli.interrupts import Interrupts
from loev_cli.storage.remote import DEFAULT_LIMITS, Limits
from loev_cli.windows import MeanPool

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


class Named(Protocol):
    """A track's row name, and where it lies, for people."""

    @property
    def path(self) -> str: ...

    @property
    def place(self) -> str: ...


class _Track:
    """What has come of one track so far."""

    def __init__(self, per_window: bool) -> None:
        self.end: TrackEnd | None = None
        self.n_encoded = 0
        self.finite = True
        self._per_window = per_window
        self._pool = MeanPool()
        self._starts: list[int] = []
        self._windows: list[dict[str, NDArray[np.float32]]] = []

    def add(self, encoded: Encoded) -> None:
        self.n_encoded += 1
        self.finite &= all(bool(np.isfinite(v).all()) for v in encoded.vectors.values())
        if not self._per_window:
            self._pool.add(encoded.vectors)
            return
        self._starts.append(encoded.start_n)
        self._windows.append({name: v.copy() for name, v in encoded.vectors.items()})

    @property
    def complete(self) -> bool:
        return self.end is not None and self.n_encoded == self.end.n_windows

    def row(self, path: str, sample_rate_hz: int) -> Row:
        assert self.end is not None
        vectors, start_s = self._pool.mean(), None
        if self._per_window:
            vectors = {
                name: np.stack([w[name] for w in self._windows]) for name in self._windows[0]
            }
            start_s = (np.array(self._starts) / sample_rate_hz).astype(np.float32)
        return Row(
            path,
            self.end.duration_s,
            self.end.silent,
            vectors,
            start_s,
            self.end.tags,
            warnings=self.end.warnings,
        )


class Assembler:
    """Keeps the tracks under way, and hands out finished ones.

    Args:
        sources: the tracks; ``track`` is an index here.
        sample_rate_hz: the model's.
        per_window: rows keep their windows.
        in_order: a finished track waits for those before it. What waits is vectors, not audio.

    Attributes:
        n_settled: how many tracks have been handed out; with ``in_order`` these are the first.
    """

    def __init__(
        self,
        sources: Sequence[Named],
        sample_rate_hz: int,
        *,
        per_window: bool = False,
        in_order: bool = False,
    ) -> None:
        self.n_settled = 0
        self._sources = sources
        self._sample_rate_hz = sample_rate_hz
        self._per_window = per_window
        self._in_order = in_order
        self._tracks: dict[int, _Track] = {}
        self._failed: set[int] = set()
        self._settled: dict[int, Row | InputError] = {}

    def add(self, encoded: Encoded) -> None:
        """Take one window's vectors. A track that has failed meanwhile takes no more."""
        if encoded.track not in self._failed:
            self._track(encoded.track).add(encoded)
            self._settle(encoded.track)

    def end(self, end: TrackEnd) -> None:
        """Learn that all windows of a track have been read."""
        self._track(end.track).end = end
        self._settle(end.track)

    def fail(self, track: int, error: InputError) -> None:
        """Give a track up."""
        self._tracks.pop(track, None)
        self._failed.add(track)
        self._settled[track] = error

    def ready(self) -> Iterator[tuple[int, Row | InputError]]:
        """Tracks whose turn it is, each with its row or its failure."""
        while self._settled:
            track = self.n_settled if self._in_order else next(iter(self._settled))
            if track not in self._settled:
                return
            outcome = self._settled.pop(track)
            self.n_settled += 1
            yield track, outcome

    def _track(self, track: int) -> _Track:
        return self._tracks.setdefault(track, _Track(self._per_window))

    def _settle(self, index: int) -> None:
        track = self._tracks[index]
        if not track.complete:
            return
        source = self._sources[index]
        if track.finite:
            self._settled[index] = track.row(source.path, self._sample_rate_hz)
            del self._tracks[index]
        else:
            message = f"{source.place}: the model output contains NaN or Inf"
            self.fail(index, InputError(message, stage="encode"))


# In order, a track must not get further ahead of the slowest than this: its row waits in memory.
_TRACKS_AHEAD = 256


class Items(Protocol):
    """What gives the windows of tracks; a context manager.

    Attributes:
        busy_s: CPU seconds it has taken so far.
        blocked_s: seconds that it waited for the encoder.
    """

    busy_s: float
    blocked_s: float

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def __iter__(self) -> Iterator[Item]: ...

    def settled(self, n_tracks: int) -> None:
        """Learn that the first ``n_tracks`` tracks are done with, in order."""
        ...


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        hop_n_samples: from one window's start to the next.
        per_window: keep the windows instead of their mean.
        in_order: give tracks in the order of the sources instead of as they are done.
        batch_size: windows encoded together; changes speed, not results.
        n_workers: decoder processes; changes speed, not results.
        n_encoders: batches encoded at once; changes speed, not results.
        file_timeout_s: how long a decoder may give no audio, or fall behind the playing time.
        tags: keep what the files say about themselves.
        download_limits: for each remote file.
    """

    hop_n_samples: int
    per_window: bool = False
    in_order: bool = False
    batch_size: int = 8
    n_workers: int = 1
    n_encoders: int = 1
    file_timeout_s: float = DEFAULT_TIMEOUT_S
    tags: bool = False
    download_limits: Limits = DEFAULT_LIMITS


def decoders_for(
    sources: Sequence[Source], n_workers: int, file_timeout_s: float
) -> list[DecoderProcess]:
    """As many as can be at work on ``sources``."""
    return [DecoderProcess(timeout_s=file_timeout_s) for _ in range(min(n_workers, len(sources)))]


def actual(encoder: Encoder) -> dict[str, str]:
    """What the open model adds to the ``meta`` of rows that it makes."""
    meta = {"backend": encoder.backend, "device": encoder.device, "precision": encoder.precision}
    if encoder.backend == "onnx":
        meta[ONNX_SHA256] = encoder.bundle.onnx_sha256
    return meta


def outcomes(
    sources: Sequence[Source],
    encoder: Encoder,
    settings: Settings,
    stats: Stats,
    *,
    decoders: Sequence[DecoderProcess] = (),
    speed: float = 1.0,
) -> Generator[tuple[int, Row | InputError], None, None]:
    """Embed ``sources``: for each its index, with its row or why there is none.

    Who stops before the end closes the generator, which ends the decoders.

    Args:
        stats: is kept up to date with where the time goes.
        decoders: perhaps launched already; default those of :func:`decoders_for`.
        speed: plays the audio so much faster, and higher, as a tape would be.

    Raises:
        LoevError: the backend failed.
    """
    if not sources:
        return
    model = encoder.bundle
    reader = Reader(
        sources,
        # What is taken slower than the model thinks is embedded as faster audio.
        sample_rate_hz=round(model.sample_rate_hz / speed),
        window_n_samples=model.window_n_samples,
        hop_n_samples=settings.hop_n_samples,
        pad_short=model.pads_short,
        decoders=decoders or decoders_for(sources, settings.n_workers, settings.file_timeout_s),
        n_ahead=(settings.n_encoders + 1) * settings.batch_size,
        n_tracks_ahead=_TRACKS_AHEAD if settings.in_order else None,
        tags=settings.tags,
        download_limits=settings.download_limits,
    )
    yield from encoded(reader, sources, encoder, settings, stats)


def encoded(
    reader: Items, sources: Sequence[Named], encoder: Encoder, settings: Settings, stats: Stats
) -> Generator[tuple[int, Row | InputError], None, None]:
    """The windows that ``reader`` gives of ``sources`` -> rows, as :func:`outcomes`."""
    assembler = Assembler(
        sources,
        encoder.bundle.sample_rate_hz,
        per_window=settings.per_window,
        in_order=settings.in_order,
    )
    interrupts = Interrupts()
    mapper = Mapper(
        encoder, settings.batch_size, settings.n_encoders, while_waiting=interrupts.check
    )
    began = time.monotonic()
    # Signals are handled between two items: between taking a lock and being ready to give it back
    # its exception would leave decoders or encoders waiting forever.
    with interrupts, mapper, reader:
        for item in reader:
            interrupts.check()
            match item:
                case Window():
                    for encoded in mapper.push(item):
                        assembler.add(encoded)
                case TrackEnd():
                    assembler.end(item)
                case TrackFailed():
                    assembler.fail(item.track, item.error)
                case Idle():
                    mapper.send_waiting()
                    for encoded in mapper.ready():
                        assembler.add(encoded)
            yield from assembler.ready()
            reader.settled(assembler.n_settled)
            stats.update(
                wall_s=time.monotonic() - began,
                decode_s=reader.busy_s,
                decoders_blocked_s=reader.blocked_s,
                encode_s=mapper.busy_s,
            )
        for encoded in mapper.flush():
            assembler.add(encoded)
            yield from assembler.ready()
        yield from assembler.ready()
        interrupts.check()
    stats.update(
        wall_s=time.monotonic() - began,
        decode_s=reader.busy_s,
        decoders_blocked_s=reader.blocked_s,
        encode_s=mapper.busy_s,
    )
