"""The stages of one run, joined. It knows neither how files are read nor what a model is.

Reader --windows--> Mapper --vectors--> Assembler --> (track, row or failure)

Whoever has sources and an encoder can run it: the local job does, and so may an engine that gives
each of its workers some of the files. ``loev_cli.api`` runs it on arrays.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from loev_cli.audio import DEFAULT_TIMEOUT_S, Source
from loev_cli.backends import Encoder
from loev_cli.embed.assembler import Assembler, Named
from loev_cli.embed.mapper import Mapper
from loev_cli.embed.reader import Idle, Item, Reader, TrackEnd, TrackFailed, Window
from loev_cli.embed.stats import Stats
from loev_cli.errors import InputError
from loev_cli.interrupts import Interrupts
from loev_cli.remote import DEFAULT_LIMITS, Limits
from loev_cli.writers import ONNX_SHA256, Row

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
    speed: float = 1.0,
) -> Generator[tuple[int, Row | InputError], None, None]:
    """Embed ``sources``: for each its index, with its row or why there is none.

    Who stops before the end closes the generator, which ends the decoders.

    Args:
        stats: is kept up to date with where the time goes.
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
        n_workers=settings.n_workers,
        n_ahead=(settings.n_encoders + 1) * settings.batch_size,
        n_tracks_ahead=_TRACKS_AHEAD if settings.in_order else None,
        file_timeout_s=settings.file_timeout_s,
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
        annotator=encoder.annotator,
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
