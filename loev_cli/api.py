"""The Python interface: a model is a function of a waveform.

    import loev_cli as loev

    model = loev.load()                                # a shipped model, or a bundle folder
    model(waveform, sample_rate_hz)                    # {"invariant": (D,), "pitch": (D,), ...}
    model(waveform, sample_rate_hz, per_window=True)   # the same of every window, and their times
    model.embed_file("song.mp3")
    model.annotate(waveform, sample_rate_hz)           # {"bpm": 120.0, "key": "A minor", ...}

Everything in loev that embeds audio does it here, or with the pipeline below it, which is that of
``loev embed``. Imports no torch unless the torch backend is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loev_cli import bundle as bundles
from loev_cli.annotations import Annotator, Answer, BpmRange, open_annotator
from loev_cli.audio import ArrayDecoding, Source, as_waveform, checked_rate, find
from loev_cli.backends import Encoder
from loev_cli.backends.machine import usable_cpus
from loev_cli.bundle import Bundle
from loev_cli.embed.pipeline import Batching, Settings, encoded, open_fast, outcomes
from loev_cli.embed.reader import ArrayReader
from loev_cli.embed.report import Stats
from loev_cli.errors import InputError, UsageError
from loev_cli.formats import Row
from loev_cli.storage.remote import is_url
from loev_cli.windows import Vectors

# The vectors of M windows, and where in the audio each window starts, (M,) in seconds.
Windows = tuple[Vectors, NDArray[np.float32]]


@dataclass(frozen=True)
class _Named:
    """A waveform, as errors call it."""

    path: str

    @property
    def place(self) -> str:
        return self.path


class Model:
    """A model, ready to run; :func:`load` makes one.

    Its numbers are those of ``loev embed``. It may be called from several threads.

    Args:
        encoder: the open model.
        batching: how many windows it is given at a time.
    """

    def __init__(self, encoder: Encoder, batching: Batching | None = None) -> None:
        self._encoder = encoder
        self._batching = batching or Batching()

    @property
    def bundle(self) -> Bundle:
        """The model's folder and what its ``config.json`` says."""
        return self._encoder.bundle

    @property
    def name(self) -> str:
        return self.bundle.name

    @property
    def subspaces(self) -> dict[str, int]:
        """Name -> dimension D of the vectors that it gives, in the model's order."""
        return dict(self._encoder.subspaces)

    @property
    def sample_rate_hz(self) -> int:
        """To which all audio is resampled."""
        return self.bundle.sample_rate_hz

    @property
    def window_n_samples(self) -> int:
        """Length of a window at :attr:`sample_rate_hz`."""
        return self.bundle.window_n_samples

    @property
    def window_s(self) -> float:
        return self.bundle.window_s

    def __repr__(self) -> str:
        dims = ", ".join(f"{name} {dim}" for name, dim in self.subspaces.items())
        return f"<loev Model {self.name}: {dims}; {self._encoder.backend}, {self._encoder.device}>"

    @overload
    def __call__(
        self,
        waveform: ArrayLike,
        sample_rate_hz: float,
        *,
        per_window: Literal[False] = False,
        hop_s: float | None = None,
    ) -> Vectors: ...

    @overload
    def __call__(
        self,
        waveform: ArrayLike,
        sample_rate_hz: float,
        *,
        per_window: Literal[True],
        hop_s: float | None = None,
    ) -> Windows: ...

    def __call__(
        self,
        waveform: ArrayLike,
        sample_rate_hz: float,
        *,
        per_window: bool = False,
        hop_s: float | None = None,
    ) -> Vectors | Windows:
        """Embed a waveform.

        Channels are averaged, other rates are resampled (soxr HQ), shorter audio is repeated until
        it fills a window, all as for a file.

        Args:
            waveform: (n,) or (channels, n), floats, full scale 1, of any length.
            sample_rate_hz: its rate.
            per_window: keep the vector of every window instead of their mean.
            hop_s: seconds from one window's start to the next; default the model's own.

        Returns:
            Subspace -> (D,) float32. With ``per_window`` subspace -> (M, D), and the M starts in
            seconds.

        Raises:
            UsageError: NaN, no samples, another shape or type, or an impossible rate or hop.
            InputError: the model output contains NaN or Inf.
            LoevError: the backend failed.
        """
        row = self._rows([(waveform, sample_rate_hz, "the waveform")], per_window, hop_s)[0]
        return _result(row)

    @overload
    def embed_batch(
        self,
        waveforms: Iterable[ArrayLike],
        sample_rate_hz: float | Sequence[float],
        *,
        per_window: Literal[False] = False,
        hop_s: float | None = None,
    ) -> list[Vectors]: ...

    @overload
    def embed_batch(
        self,
        waveforms: Iterable[ArrayLike],
        sample_rate_hz: float | Sequence[float],
        *,
        per_window: Literal[True],
        hop_s: float | None = None,
    ) -> list[Windows]: ...

    def embed_batch(
        self,
        waveforms: Iterable[ArrayLike],
        sample_rate_hz: float | Sequence[float],
        *,
        per_window: bool = False,
        hop_s: float | None = None,
    ) -> list[Vectors] | list[Windows]:
        """Embed many waveforms, of any lengths, as fast as ``loev embed``: windows of several
        share batches, and all cores are at work.

        Args:
            sample_rate_hz: of all, or one for each.
            waveforms, per_window, hop_s: as of :meth:`__call__`.

        Returns:
            What :meth:`__call__` gives for each, in order.

        Raises: as :meth:`__call__`, naming the waveform by its index.
        """
        waves = list(waveforms)
        one_rate = np.ndim(sample_rate_hz) == 0
        rates: list[Any] = [sample_rate_hz] * len(waves) if one_rate else list(sample_rate_hz)  # type: ignore[arg-type]
        if len(rates) != len(waves):
            raise UsageError(f"{len(rates)} sample rates for {len(waves)} waveforms")
        named = [
            (wave, rate, f"waveform {i}")
            for i, (wave, rate) in enumerate(zip(waves, rates, strict=True))
        ]
        results: list[Any] = [_result(row) for row in self._rows(named, per_window, hop_s)]
        return results

    @overload
    def embed_file(
        self,
        file: str | os.PathLike[str],
        *,
        per_window: Literal[False] = False,
        hop_s: float | None = None,
        speed: float = 1.0,
    ) -> Vectors: ...

    @overload
    def embed_file(
        self,
        file: str | os.PathLike[str],
        *,
        per_window: Literal[True],
        hop_s: float | None = None,
        speed: float = 1.0,
    ) -> Windows: ...

    def embed_file(
        self,
        file: str | os.PathLike[str],
        *,
        per_window: bool = False,
        hop_s: float | None = None,
        speed: float = 1.0,
    ) -> Vectors | Windows:
        """Embed an audio file of any length, in bounded memory.

        It is decoded in a process of its own, where a damaged file can do no harm. For many files
        ``loev_cli.embed`` is faster, and keeps what is done.

        Args:
            file: a path, or a URL (``s3://``, ``https://``, ...).
            speed: plays it so much faster, and higher, as a tape would be.
            per_window, hop_s: as of :meth:`__call__`, which says what comes back too.

        Raises:
            UsageError: an impossible hop or speed.
            InputError: there is no such file, it is not audio, or damaged.
            LoevError: the backend failed.
        """
        if not 0.01 <= speed <= 100:  # false for NaN too
            raise UsageError(f"speed {speed!r} is out of range", hint="expected 0.01 to 100")
        location = os.path.expanduser(os.fspath(file))  # noqa: PTH111 (it may be a URL)
        source = Source(location, location)
        if is_url(location):
            sources = find([location])
            if len(sources) != 1:
                raise UsageError(f"{location} is not one file", hint="loev_cli.embed takes folders")
            source = sources[0]
        return _result(self._file_row(source, per_window, hop_s, speed))

    def annotate(
        self,
        waveform: ArrayLike,
        sample_rate_hz: float,
        *,
        bpm_range: BpmRange | None = None,
    ) -> Answer:
        """Tempo and key of a waveform, as ``loev annotate`` has them.

        Args:
            waveform, sample_rate_hz: as of :meth:`__call__`.
            bpm_range: fold tempi by octaves into this range, such as (80, 160) BPM.

        Returns:
            ``bpm``, ``bpm_confidence``, ``bpm_alt``, ``bpm_alt_confidence``, ``key`` ("A minor"),
            ``mode`` and ``key_confidence``, as far as the model has readouts. NaN, and empty text,
            for silence.

        Raises:
            UsageError: the model has no readouts, the range is impossible, or the waveform is
                not one.
        """
        annotator = self._annotator(None if bpm_range is None else (bpm_range[0], bpm_range[1]))
        has_all = set(annotator.subspaces) <= set(self.subspaces)
        model = self if has_all else self._with_all_subspaces
        row = model._rows([(waveform, sample_rate_hz, "the waveform")], False, None)[0]
        return annotator.answer(row.vectors, silent=row.silent)

    @cached_property
    def _annotator(self) -> Callable[[BpmRange | None], Annotator]:
        """The readouts for a range of tempi, whose weights are read from disk only once."""
        return cache(partial(open_annotator, self.bundle))

    @cached_property
    def _with_all_subspaces(self) -> Model:
        encoder = self._encoder
        return Model(
            *open_fast(
                encoder.bundle,
                backend=encoder.backend,
                device=encoder.device,
                precision=encoder.precision,
            )
        )

    def _rows(
        self,
        waveforms: Sequence[tuple[ArrayLike, float, str]],
        per_window: bool,
        hop_s: float | None,
    ) -> list[Row]:
        """Of every waveform, with its rate and its name."""
        settings = self._settings(per_window, hop_s)
        decodings = [
            ArrayDecoding(
                as_waveform(_one(waveform, name), name=name),
                checked_rate(rate_hz, name=name),
                self.sample_rate_hz,
                name=name,
            )
            for waveform, rate_hz, name in waveforms
        ]
        reader = ArrayReader(
            decodings,
            window_n_samples=self.window_n_samples,
            hop_n_samples=settings.hop_n_samples,
            pad_short=self.bundle.pads_short,
            n_threads=usable_cpus(),
        )
        names = [_Named(name) for _, _, name in waveforms]
        stats = Stats(0, settings.n_encoders)
        return self._collected(encoded(reader, names, self._encoder, settings, stats))

    def _file_row(self, source: Source, per_window: bool, hop_s: float | None, speed: float) -> Row:
        settings = self._settings(per_window, hop_s)
        stats = Stats(1, settings.n_encoders)
        return self._collected(outcomes([source], self._encoder, settings, stats, speed=speed))[0]

    def _settings(self, per_window: bool, hop_s: float | None) -> Settings:
        return Settings(
            hop_n_samples=self.bundle.hop_n_samples(hop_s),
            per_window=per_window,
            in_order=True,
            batch_size=self._batching.size,
            n_encoders=self._batching.n_encoders,
        )

    def _collected(self, results: Iterable[tuple[int, Row | InputError]]) -> list[Row]:
        """The rows, all of them.

        Raises:
            InputError: there is one that could not be made.
        """
        rows = []
        try:
            for _, outcome in results:
                if isinstance(outcome, InputError):
                    raise outcome
                rows.append(outcome)
        except BaseException:
            self._encoder.restart()  # an interrupted cell of a notebook leaves the model usable
            raise
        return rows


def load(
    model: str | os.PathLike[str] = bundles.DEFAULT_MODEL,
    *,
    subspaces: Sequence[str] | None = None,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "auto",
) -> Model:
    """Open a model.

    Args:
        model: the name of a shipped one (``loev models`` lists them), a bundle's folder, or
            ``hf://OWNER/NAME@REVISION``, on the Hugging Face Hub.
        subspaces: which to compute; default all.
        device: ``auto`` (a CUDA device if it really opens, else the CPU), ``cpu``, ``cuda``,
            ``cuda:N`` or ``cuda:all``.
        backend: ``auto`` (onnx), ``onnx`` or ``torch``.
        precision: ``auto`` (fp32), ``fp32``, ``fp16`` or ``bf16``.

    Raises:
        UsageError: no such model or subspace, or a device or precision that cannot be had here.
        BundleError: the bundle is missing a part, or damaged.
        MissingExtraError: the torch backend without torch.
    """
    folder = os.path.expanduser(os.fspath(model))  # noqa: PTH111 (it may be a name)
    return Model(
        *open_fast(
            bundles.find(folder),
            backend=backend,
            device=device,
            precision=precision,
            subspaces=subspaces,
        )
    )


def _result(row: Row) -> Vectors | Windows:
    return row.vectors if row.start_s is None else (row.vectors, row.start_s)


def _one(waveform: ArrayLike, name: str) -> ArrayLike:
    """Raises UsageError for a list of arrays, which could be channels as well as tracks."""
    if isinstance(waveform, list | tuple) and any(np.ndim(part) for part in waveform[:1]):
        raise UsageError(
            f"{name} is a {type(waveform).__name__} of arrays",
            hint="embed_batch takes several waveforms; numpy.stack makes channels one",
        )
    return waveform
