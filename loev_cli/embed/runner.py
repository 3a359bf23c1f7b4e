"""One run: the stages joined. It knows neither how files are read nor what a model is.

Reader --windows--> Mapper --vectors--> Assembler --rows in order--> RowWriter
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loev_cli.audio import Source
from loev_cli.backends import Encoder
from loev_cli.embed.assembler import Assembler
from loev_cli.embed.failures import Failure, describe
from loev_cli.embed.mapper import Mapper
from loev_cli.embed.reader import Reader, TrackEnd, TrackFailed, Window
from loev_cli.writers import Row, RowWriter

_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        hop_n_samples: from one window's start to the next.
        per_window: keep the windows instead of their mean.
        batch_size: windows encoded together; changes speed, not results.
        n_workers: decoder threads; changes speed, not results.
        strict: stop at the first file that fails.
    """

    hop_n_samples: int
    per_window: bool = False
    batch_size: int = 8
    n_workers: int = 1
    strict: bool = False


@dataclass(frozen=True)
class RunStarted:
    """The inputs are found and the model is open."""

    n_tracks: int


@dataclass(frozen=True)
class TrackDone:
    """A row has been handed to the writer."""

    path: str
    duration_s: float


Event = RunStarted | TrackDone | Failure


@dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
        n_done: rows written.
        failures: the files that gave none, in order.
        audio_s: length of the audio embedded.
        wall_s: time it took.
    """

    n_done: int
    failures: tuple[Failure, ...]
    audio_s: float
    wall_s: float


def run(
    sources: Sequence[Source],
    encoder: Encoder,
    writer: RowWriter,
    settings: Settings,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Report:
    """Embed ``sources``, which are sorted by row name, into ``writer``, without committing it.

    Raises:
        InputError: with ``strict``, the first file that fails.
        LoevError: the backend failed.
        OutputError: the writer failed.
    """
    started = time.monotonic()
    model = encoder.bundle
    mapper = Mapper(encoder, settings.batch_size)
    assembler = Assembler(sources, model.sample_rate_hz, settings.per_window)
    failures: list[Failure] = []
    n_done, audio_s = 0, 0.0

    def release() -> None:
        nonlocal n_done, audio_s
        for source, outcome in assembler.ready():
            if isinstance(outcome, Row):
                writer.add(outcome)
                n_done += 1
                audio_s += outcome.duration_s
                on_event(TrackDone(source.path, outcome.duration_s))
            elif settings.strict:
                raise outcome
            else:
                failures.append(describe(source.path, outcome))
                on_event(failures[-1])

    on_event(RunStarted(len(sources)))
    with Reader(
        sources,
        sample_rate_hz=model.sample_rate_hz,
        window_n_samples=model.window_n_samples,
        hop_n_samples=settings.hop_n_samples,
        n_workers=settings.n_workers,
        n_ahead=_BATCHES_AHEAD * settings.batch_size,
    ) as reader:
        for item in reader:
            match item:
                case Window():
                    for encoded in mapper.push(item):
                        assembler.add(encoded)
                case TrackEnd():
                    assembler.end(item)
                case TrackFailed():
                    assembler.fail(item.track, item.error)
            release()
        for encoded in mapper.flush():
            assembler.add(encoded)
        release()
    return Report(n_done, tuple(failures), audio_s, time.monotonic() - started)
