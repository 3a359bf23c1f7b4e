"""Batches of views, made ahead of the training loop.

    tracks --plan--> views --cut, shift, stretch--> --base chain--> features and labels

    on features      cached features: slice, interpolate; chain on features
    on waveforms     cached samples: retime; chain on waveforms; the model's frontend

Every random draw for place i of step n's batch comes from a generator seeded by (seed, n, i), so
batches do not depend on when, where, or by how many processes they are made.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from loev_cli.errors import UsageError
from loev_cli.model import ModelSpec
from loev_cli.model.encoders import encoder_kind
from loev_cli.model.frontend import AnyFrontendConfig, Features, FrontendConfig
from loev_cli.train.augment.base import Augmentation, Views, apply_chain
from loev_cli.train.augment.pitch_tempo import cut_view
from loev_cli.train.augment.retime import retime
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import FULL_SCALE, Content, FeatureContent, Track, WaveformContent
from loev_cli.train.losses import ViewLabels
from loev_cli.train.views import PlannedView, ViewPlanner

_N_BATCHES_AHEAD = 3
_ORDER, _VIEWS = 0, 1  # streams of random numbers that must not meet


@dataclass(frozen=True)
class Batch:
    """Rows of views, row = track * V + view.

    Attributes:
        features: what the encoder reads, on the training device.
        labels: on the training device; tracks are numbered by their place in the whole batch.
        paths: of the tracks, in order.
    """

    features: Any
    labels: ViewLabels
    paths: tuple[str, ...]


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
        self.device = device

    def __call__(self, views: Sequence[tuple[Track, PlannedView]]) -> Features:
        """-> (R, F, T) and (R, S, 4 T)."""
        cuts = [self._cut(track, view) for track, view in views]
        features = Features(
            torch.from_numpy(np.stack([spectrum for spectrum, _ in cuts])).to(self.device),
            torch.from_numpy(np.stack([bands for _, bands in cuts])).to(self.device),
        )
        return _run_chain(self.chain, features, [view for _, view in views], self.frontend)

    def _cut(self, track: Track, view: PlannedView) -> tuple[np.ndarray, np.ndarray]:
        start = view.start_s * self.content.frames_per_s
        first = int(start)
        # One more frame than is read: the right neighbor of the last interpolation.
        n_rows = int(start - first + view.rate * self.n_frames) + 2
        return cut_view(
            track.read(first, first + n_rows),
            self.n_frames,
            self.frontend,
            start_frame=start - first,
            rate=view.rate,
            shift_bins=view.semitones * self.frontend.bins_per_semitone,
        )


class WaveformViews:
    """Views by shifting and stretching samples, then the model's frontend."""

    def __init__(self, config: TrainConfig, spec: ModelSpec, device: torch.device) -> None:
        self.content = WaveformContent(spec.frontend.sample_rate_hz)
        self.window_n_samples = spec.window_n_samples
        self.chain = config.augmentations.base_chain
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
            np.array([view.rate for view in planned]),
            np.array([view.semitones for view in planned]),
            self.window_n_samples,
            self.content.sample_rate_hz,
        )
        return _run_chain(self.chain, waveforms, planned, self.frontend.config)

    def _segment(self, track: Track, view: PlannedView) -> np.ndarray:
        first = int(view.start_s * self.content.sample_rate_hz)
        n_samples = round(view.rate * self.window_n_samples)
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


class BatchMaker:
    """Makes the batch of step n, or this process's part of it, from the tracks and (seed, n).

    Args:
        rank, world_size: which part: places ``rank * B / world_size`` and on.
    """

    def __init__(
        self,
        config: TrainConfig,
        spec: ModelSpec,
        *,
        device: torch.device | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.config = config
        self.heads = spec.heads[1:]
        self.planner = ViewPlanner(
            config.augmentations,
            self.heads,
            scheme=config.view_scheme,
            positives=config.positives,
            n_views=config.n_views,
            window_s=spec.window_s,
        )
        self.device = device or torch.device("cpu")
        self.path = "features" if views_are_on_features(config, spec) else "waveforms"
        kind = FeatureViews if self.path == "features" else WaveformViews
        self.make_views: ViewMaker = kind(config, spec, self.device)
        size = config.batch_size // world_size
        self.places = range(rank * size, (rank + 1) * size)

    @property
    def content(self) -> Content:
        """What must be read of every track."""
        return self.make_views.content

    @property
    def n_views(self) -> int:
        """V, views per track."""
        return self.planner.n_views

    def __call__(self, tracks: Sequence[Track], step: int) -> Batch:
        order = self._tracks_of_step(len(tracks), step)
        return self.of_tracks({place: tracks[order[place]] for place in self.places}, step)

    def of_tracks(self, tracks: dict[int, Track], step: int) -> Batch:
        """Views of the given tracks, by their place in the batch."""
        views: list[tuple[Track, PlannedView]] = []
        for place, track in tracks.items():
            rng = np.random.default_rng([self.config.seed, step, place, _VIEWS])
            takes = track.files if self.config.variants else ()
            planned = self.planner.plan(track.duration_s, rng, takes)
            views += [(track.files[view.take], view) for view in planned]
        draws = {
            aug: torch.tensor([view.draws[aug] for _, view in views], device=self.device)
            for aug in self.heads
        }
        places = torch.tensor(list(tracks), device=self.device)
        labels = ViewLabels(
            places.repeat_interleave(self.n_views), draws, self.config.across_tracks
        )
        return Batch(self.make_views(views), labels, tuple(str(t.path) for t in tracks.values()))

    def _tracks_of_step(self, n_tracks: int, step: int) -> np.ndarray:
        """Without replacement through the whole set, in an order that is new every epoch."""
        size = self.config.batch_size
        epoch, place = divmod(step, n_tracks // size)
        order = np.random.default_rng([self.config.seed, epoch, 0, _ORDER]).permutation(n_tracks)
        return order[place * size : (place + 1) * size]


class Prefetcher:
    """Makes batches in a thread, a few steps ahead; a context that ends the thread."""

    def __init__(self, make: Callable[[int], Batch], first_step: int) -> None:
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(_N_BATCHES_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(make, first_step), daemon=True)
        self._thread.start()

    def _work(self, make: Callable[[int], Batch], step: int) -> None:
        while not self._stop.is_set():
            item: Batch | BaseException
            try:
                item = make(step)
            except BaseException as error:  # handed to the main thread, which raises it
                item = error
            step += 1
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue

    def next(self) -> Batch:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
