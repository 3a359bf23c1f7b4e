"""Music: tracks that are decoded once, and views that are cut, shifted and stretched.

    on features      cached features: slice, interpolate; chain on features
    on waveforms     cached samples: retime; chain on waveforms; the model's frontend

Crops: `random` takes every view from a place of its own in the track, `same` all from one place,
`adjacent` one right behind the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from loev_cli import audio, windows
from loev_cli.errors import InputError, UsageError
from loev_cli.manifest import TRACK, Listed
from loev_cli.model import ModelSpec
from loev_cli.model.encoders import encoder_kind
from loev_cli.model.frontend import EPSILON_POWER, AnyFrontendConfig, Features, FrontendConfig
from loev_cli.train.augment.base import Augmentation, Views, apply_chain
from loev_cli.train.augment.pitch_tempo import cut_view
from loev_cli.train.augment.retime import retime
from loev_cli.train.data import (
    FULL_SCALE,
    Cache,
    Content,
    FeatureContent,
    Skipped,
    Track,
    WaveformContent,
    listing,
    load_tracks,
)
from loev_cli.train.items import Changes, Item, Look
from loev_cli.train.views import PlannedView

if TYPE_CHECKING:
    from loev_cli.train.config import Positives, TrainConfig

_N_PROBES_AT_ONCE = 8
_VALIDATION_STREAM = 2**31 - 1  # a step that no training has


def rate(view: PlannedView) -> float:
    """Seconds of the track per second of the view."""
    return float(view.params["tempo"][0]) if view.applied["tempo"] else 1.0


def semitones(view: PlannedView) -> float:
    """How much higher than the track the view is."""
    return float(view.params["pitch"][0]) if view.applied["pitch"] else 0.0


class Music:
    """The domain of music; see :class:`loev_cli.train.domains.Domain`.

    Raises:
        UsageError: views that cannot be made for this encoder, see :func:`views_are_on_features`.
    """

    def __init__(self, config: TrainConfig, spec: ModelSpec, device: torch.device) -> None:
        self.config = config
        self.spec = spec
        on_features = views_are_on_features(config, spec)
        self.made_on = "features" if on_features else "waveforms"
        self.view_s: float | None = spec.window_s
        kind = FeatureViews if on_features else WaveformViews
        self.make_views: ViewMaker = kind(config, spec, device)
        self.crops = Crops(config.positives, spec.window_s, pad_short=spec.pads_short)

    def listing(self) -> list[Listed]:
        """See :func:`loev_cli.train.data.listing`."""
        return listing(self.config.data, self.config.variants)

    def load(
        self,
        listed: Sequence[Listed],
        cache: Cache | None,
        *,
        n_workers: int,
        on_progress: Callable[[int, int], None],
    ) -> tuple[list[Track], list[Skipped]]:
        """See :func:`loev_cli.train.data.load_tracks`."""
        return load_tracks(
            listed,
            self.make_views.content,
            cache,
            max_track_s=self.config.max_track_s,
            n_workers=n_workers,
            variants=self.config.variants,
            on_progress=on_progress,
        )

    def look(self, listed: Sequence[Listed]) -> Look:
        """Read the headers, eight at a time."""
        with ThreadPoolExecutor(_N_PROBES_AT_ONCE) as pool:
            length_s = partial(_length_s, max_track_s=self.config.max_track_s)
            lengths = list(pool.map(length_s, listed))
        known = [length for length in lengths if isinstance(length, float)]
        # A header that does not say how long its file is counts like the others.
        seconds = sum(known) / max(1, len(known)) * sum(not isinstance(x, str) for x in lengths)
        items = [
            Item(
                path=item.path,
                digest=str(item.path),  # copies show when they are read
                split=item.split,
                group=item.group,
                work=item.labels.get(TRACK) or None,
            )
            for item, length in zip(listed, lengths, strict=True)
            if not isinstance(length, str)
        ]
        return Look(
            items,
            tuple(x for x in lengths if isinstance(x, str)),
            seconds / 3600,
            int(seconds * _bytes_per_s(self.make_views.content)),
        )

    def place(
        self, views: Sequence[PlannedView], item: Track, rng: np.random.Generator
    ) -> list[PlannedView]:
        """Starts in seconds."""
        return self.crops(views, [item.files[view.take].duration_s for view in views], rng)

    def changes(self, items: Sequence[Track], n: int) -> Changes:
        """The first window of each track, the one after it, and the first one changed.

        Kept as float16; its rounding is 66 dB below the music.
        """
        config, spec = self.config, self.spec
        changed: dict[str, list[Tensor]] = {
            aug: []
            for aug in dict.fromkeys(("pitch", "tempo", *config.augs))
            if aug in config.variants or config.augmentations[aug].on_waveforms_too
        }
        found = Changes(changed=changed)
        for index, track in enumerate(items):
            if len(found.plain) == n:
                break
            if len(track.files) < 2 and config.variants:
                continue
            others = {name: _other_variant(track, name) for name in config.variants}
            try:
                waveform = _beginning(track, spec, config)
                variants = {k: _beginning(take, spec, config) for k, take in others.items()}
            except InputError:
                continue  # gone since it was listed; the other tracks say as much
            rng = np.random.default_rng([config.seed, index, _VALIDATION_STREAM])
            self._add(found, waveform, variants, rng)
        return found

    def _add(
        self,
        found: Changes,
        waveform: np.ndarray,
        variants: dict[str, np.ndarray],
        rng: np.random.Generator,
    ) -> None:
        spec, n = self.spec, self.spec.window_n_samples
        found.plain.append(_cut(waveform, 0, n, spec).half())
        found.other_view.append(_cut(waveform, n, n, spec).half())
        for name, changed in found.changed.items():
            if name in variants:
                changed.append(_cut(variants[name], 0, n, spec).half())
                continue
            augmentation = self.config.augmentations[name]
            changed.append(_change(augmentation, waveform, spec, rng).half())


class Crops:
    """Where the views of a track begin.

    Args:
        window_s: length of a view.
        pad_short: a track shorter than a view begins with it; else a view may begin anywhere in
            it, for it is repeated.
    """

    def __init__(self, positives: Positives, window_s: float, *, pad_short: bool = False) -> None:
        self.positives = positives
        self.window_s = window_s
        self.pad_short = pad_short

    def __call__(
        self, views: Sequence[PlannedView], tracks_s: Sequence[float], rng: np.random.Generator
    ) -> list[PlannedView]:
        """The views with their ``start``, given the length of the file that each is cut from."""
        starts = self._starts(tracks_s, [rate(view) for view in views], rng)
        return [replace(view, start=start) for view, start in zip(views, starts, strict=True)]

    def _starts(
        self, tracks_s: Sequence[float], rates: Sequence[float], rng: np.random.Generator
    ) -> list[float]:
        """Where every view begins in its file. A track too short for them is repeated or padded."""

        def anywhere(length_s: float, track_s: float) -> float:
            room = track_s - length_s
            short = 0.0 if self.pad_short else track_s
            return float(rng.uniform(0, room if room > 0 else short))

        lengths = [rate * self.window_s for rate in rates]
        if self.positives == "random":
            return [anywhere(*each) for each in zip(lengths, tracks_s, strict=True)]
        track_s = min(tracks_s)
        if self.positives == "same":
            return [anywhere(max(lengths), track_s)] * len(lengths)
        start = anywhere(sum(lengths), track_s)
        return [(start + sum(lengths[:i])) % track_s for i in range(len(lengths))]


def views_are_on_features(config: TrainConfig, spec: ModelSpec) -> bool:
    """Which of the two paths a run takes.

    Raises:
        UsageError: features are asked for and cannot be shifted, or not as far as asked, or an
            augmentation with a subspace does not exist on the path taken.
    """
    is_log_frequency = isinstance(spec.frontend, FrontendConfig)
    if config.views_on == "features" and not is_log_frequency:
        raise UsageError(
            f"features of encoder '{config.encoder}' cannot be pitch-shifted: mel frequency axis",
            hint="set views_on to waveforms",
        )
    on_features = is_log_frequency and config.views_on != "waveforms"
    if on_features:
        _check_shifts_fit(config, spec.frontend)
    path, other = ("features", "waveforms") if on_features else ("waveforms", "features")
    for name in spec.heads[1:]:
        if name in config.variants:
            continue
        augmentation = config.augmentations[name]
        if not (augmentation.on_features_too if on_features else augmentation.on_waveforms_too):
            raise UsageError(
                f"augmentation '{name}' is not available on {path}", hint=f"set views_on to {other}"
            )
    return on_features


def _check_shifts_fit(config: TrainConfig, frontend: FrontendConfig) -> None:
    pitch = config.augmentations.pitch
    per_semitone = frontend.bins_per_semitone
    if max(map(abs, pitch.semitones)) * per_semitone > frontend.margin_bins:
        raise UsageError(
            f"augmentations.pitch.semitones {list(pitch.semitones)} exceeds the features' "
            f"margin of {frontend.margin_bins / per_semitone:g} semitones",
            hint="narrow it, or set views_on to waveforms",
        )


class ViewMaker(Protocol):
    """Makes planned views of tracks into what an encoder reads."""

    @property
    def content(self) -> Content: ...

    def __call__(self, views: Sequence[tuple[Track, PlannedView]]) -> Any: ...


class FeatureViews:
    """Views by slicing and interpolating features that were computed once."""

    def __init__(self, config: TrainConfig, spec: ModelSpec, device: torch.device) -> None:
        self.frontend: FrontendConfig = spec.frontend
        self.content = FeatureContent(spec.frontend)
        self.n_frames = spec.window_n_samples // self.frontend.spectrum_hop
        self.chain = config.augmentations.base_chain
        self.pad_short, self.view_s = spec.pads_short, spec.window_s
        self.device = device

    def __call__(self, views: Sequence[tuple[Track, PlannedView]]) -> Features:
        """-> (R, F, T) and (R, S, 4 T)."""
        cuts = [self._cut(track, view) for track, view in views]
        features = Features(
            torch.from_numpy(np.stack([spectrum for spectrum, _ in cuts])).to(self.device),
            torch.from_numpy(np.stack([bands for _, bands in cuts])).to(self.device),
        )
        features = _run_chain(self.chain, features, [view for _, view in views], self.frontend)
        if self.pad_short:
            _end(features.spectrum, views, self.view_s, math.log(EPSILON_POWER))
            _end(features.bands, views, self.view_s, math.log(EPSILON_POWER))
        return features

    def _cut(self, track: Track, view: PlannedView) -> tuple[np.ndarray, np.ndarray]:
        start = view.start * self.content.frames_per_s
        first = int(start)
        # One more frame than is read: the right neighbor of the last interpolation.
        n_rows = int(start - first + rate(view) * self.n_frames) + 2
        return cut_view(
            track.read(first, first + n_rows),
            self.n_frames,
            self.frontend,
            start_frame=start - first,
            rate=rate(view),
            shift_bins=semitones(view) * self.frontend.bins_per_semitone,
        )


class WaveformViews:
    """Views by shifting and stretching samples, then the model's frontend."""

    def __init__(self, config: TrainConfig, spec: ModelSpec, device: torch.device) -> None:
        self.content = WaveformContent(spec.frontend.sample_rate_hz)
        self.window_n_samples = spec.window_n_samples
        self.chain = config.augmentations.base_chain
        self.pad_short, self.view_s = spec.pads_short, spec.window_s
        self.device = device
        # No weight of a frontend is trained, so one of our own gives what the model's would.
        self.frontend = encoder_kind(spec.encoder).frontend(spec.frontend).to(device)

    def __call__(self, views: Sequence[tuple[Track, PlannedView]]) -> Any:
        """-> what the frontend gives for R windows."""
        with torch.no_grad():
            return self.frontend.center(self.frontend(self.waveforms(views)))

    def waveforms(self, views: Sequence[tuple[Track, PlannedView]]) -> torch.Tensor:
        """-> (R, N) float32."""
        segments = [self._segment(track, view) for track, view in views]
        planned = [view for _, view in views]
        waveforms = retime(
            [torch.from_numpy(segment).to(self.device) for segment in segments],
            np.array([rate(view) for view in planned]),
            np.array([semitones(view) for view in planned]),
            self.window_n_samples,
            self.content.sample_rate_hz,
        )
        waveforms = _run_chain(self.chain, waveforms, planned, self.frontend.config)
        if self.pad_short:
            _end(waveforms, views, self.view_s, 0.0)
        return waveforms

    def _segment(self, track: Track, view: PlannedView) -> np.ndarray:
        first = int(view.start * self.content.sample_rate_hz)
        n_samples = round(rate(view) * self.window_n_samples)
        return track.read(first, first + n_samples).astype(np.float32) / FULL_SCALE


def _run_chain(
    chain: Sequence[Augmentation],
    x: Views,
    views: Sequence[PlannedView],
    frontend: AnyFrontendConfig,
) -> Views:
    names = [augmentation.name for augmentation in chain]
    return apply_chain(
        chain,
        x,
        {name: np.stack([view.params[name] for view in views]) for name in names},
        {name: np.array([view.applied[name] for view in views]) for name in names},
        {name: np.array([view.seeds[name] for view in views], np.uint32) for name in names},
        frontend,
    )


def _end(
    x: Tensor, views: Sequence[tuple[Track, PlannedView]], view_s: float, silence: float
) -> None:
    """Rows (R, ..., T) of ``view_s`` each are ``silence`` from where their track ends."""
    for row, (track, view) in zip(x, views, strict=True):
        left_s = (track.duration_s - view.start) / rate(view)
        row[..., max(1, round(left_s / view_s * x.shape[-1])) :] = silence


def _length_s(item: Listed, max_track_s: float) -> float | str | None:
    """Seconds that would be decoded; None if the header does not say; a text if it is broken."""
    try:
        duration_s = audio.probe(item.path).duration_s
    except InputError as error:
        return str(error)
    return None if duration_s is None else min(duration_s, max_track_s)


def _bytes_per_s(content: Content) -> float:
    return content.frames_per_s * math.prod(content.row_shape) * content.dtype.itemsize


def _beginning(track: Track, spec: ModelSpec, config: TrainConfig) -> np.ndarray:
    """The samples that any of the windows needs, mono float32 at the model's rate."""
    rate_hz = spec.frontend.sample_rate_hz
    wanted = int(spec.window_n_samples * max(2.0, config.augmentations.tempo.rate[1])) + 1
    blocks, n_read = [], 0
    for block in audio.decode(track.path, rate_hz):
        blocks.append(block)
        n_read += len(block)
        if n_read >= wanted:
            break
    return np.concatenate(blocks)[:wanted]


def _other_variant(track: Track, name: str) -> Track:
    """The first take of another variant; the track itself where there is none."""
    others = (take for take in track.takes if take.variant[name] != track.variant[name])
    return next(others, track)


def _cut(waveform: np.ndarray, start_n: int, n_samples: int, spec: ModelSpec) -> Tensor:
    if spec.pads_short and start_n + n_samples > len(waveform):
        start_n = max(0, len(waveform) - n_samples)
        waveform = np.pad(waveform, (0, max(0, n_samples - len(waveform))))
    return torch.from_numpy(windows.wrapped(waveform, start_n, n_samples))


def _change(
    augmentation: Augmentation, waveform: np.ndarray, spec: ModelSpec, rng: np.random.Generator
) -> Tensor:
    """The first window, changed as the augmentation draws; pitch and tempo never by nothing."""
    n, rate_hz = spec.window_n_samples, spec.frontend.sample_rate_hz
    neutral = {"pitch": np.zeros(1), "tempo": np.ones(1)}.get(augmentation.name)
    params = augmentation.draw(rng)
    for _ in range(100):
        if neutral is None or augmentation.differ(params, neutral):
            break
        params = augmentation.draw(rng)
    if neutral is not None:
        rate = float(params[0]) if augmentation.name == "tempo" else 1.0
        semitones = float(params[0]) if augmentation.name == "pitch" else 0.0
        segment = _cut(waveform, 0, round(rate * n), spec)
        return retime([segment], np.array([rate]), np.array([semitones]), n, rate_hz)[0]
    name = augmentation.name
    return apply_chain(
        [augmentation],
        _cut(waveform, 0, n, spec)[None],
        {name: params[None]},
        {name: np.array([True])},
        {name: rng.integers(2**32, size=1).astype(np.uint32)},
        spec.frontend,
    )[0]
