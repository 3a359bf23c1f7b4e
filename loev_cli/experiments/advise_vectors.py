"""Embeddings of the labeled tracks: by the reference model, also augmented, and by trained ones.

Views are made by training's own code: the same augmentations, the same ranges, on features where
training works on features. What a model is to become blind to is what is embedded here.

They are cached in a folder, under a key of all that they depend on, so that other labels of the
same tracks need no re-embedding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from loev_cli import bundle as bundles
from loev_cli import windows
from loev_cli.backends.machine import usable_cpus
from loev_cli.bundle import Bundle
from loev_cli.errors import InputError, UsageError
from loev_cli.evaluate.job import Event, Skipped, Stage, track_events
from loev_cli.evaluate.manifest import Manifest
from loev_cli.evaluate.vectors import CONCATENATION, with_concatenation
from loev_cli.experiments.advise_evidence import Vectors, compact
from loev_cli.experiments.cache import ArrayCache
from loev_cli.model import LoevModel, load_model
from loev_cli.model.frontend import Features, FrontendConfig
from loev_cli.train.augment import Augmentation, AugmentationsConfig
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Cache, Content, Listed, Track, default_cache, load_tracks
from loev_cli.train.music import FeatureViews, ViewMaker, WaveformViews, rate
from loev_cli.train.views import PlannedView

MAX_N_WINDOWS = 4  # of a track, evenly spread; more tell little more and cost as much again
_N_ROWS_AT_ONCE = 48
_N_TRIES = 200

Subspaces = windows.Vectors


@dataclass(frozen=True)
class Draw:
    """One way an augmentation can change any track.

    Attributes:
        params: (P,), as the augmentation draws them.
        seed: of its noise, the same in every track.
    """

    augmentation: str
    params: NDArray[np.float64]
    seed: int


def draw_changes(
    augmentations: AugmentationsConfig, name: str, n: int, *, seed: int = 0
) -> list[Draw]:
    """``n`` draws of an augmentation that can be told from each other, as far as it has so many."""
    augmentation = augmentations[name]
    rng = np.random.default_rng([seed, *name.encode()])
    drawn: list[Draw] = []
    while len(drawn) < n:
        params = _another(augmentation, [draw.params for draw in drawn], rng)
        drawn.append(Draw(name, params, int(rng.integers(2**32))))
    return drawn


def _another(
    augmentation: Augmentation, taken: Sequence[NDArray[np.float64]], rng: np.random.Generator
) -> NDArray[np.float64]:
    params = augmentation.draw(rng)
    for _ in range(_N_TRIES):
        if all(augmentation.differ(params, other) for other in taken):
            break
        params = augmentation.draw(rng)
    return params


class AugmentedEmbedder:
    """A model with the augmented views that it embeds.

    Args:
        config: of training; its augmentations change the views.
        on_features: whether views are changed on features or on waveforms.
        plain: give, beside the subspaces, what the model's input says without it: ``bands``,
            mean and deviation of every band over time. Needs log-frequency features.
    """

    def __init__(
        self,
        model: LoevModel,
        config: TrainConfig,
        *,
        on_features: bool,
        device: torch.device,
        plain: bool = False,
    ) -> None:
        self._model = model.to(device).eval()
        kind = FeatureViews if on_features else WaveformViews
        self._make: ViewMaker = kind(config, model.spec, device)
        self._window_s = model.spec.window_s
        self._augmentations = config.augmentations
        self._plain = plain

    @property
    def content(self) -> Content:
        """What must be read of every track."""
        return self._make.content

    def embed(
        self,
        tracks: Sequence[Track],
        draws: Sequence[Draw | None],
        *,
        on_track: Callable[[int, InputError | None], None] = lambda place, error: None,
    ) -> tuple[Subspaces, NDArray[np.int64]]:
        """Every track under every draw (None: as it is), each the mean of its windows.

        Returns:
            name -> (len(draws), N, D), and the N places in ``tracks`` that could be read.
        """
        vectors: list[Subspaces] = []
        rows: list[int] = []
        for place, track in enumerate(tracks):
            try:
                vectors.append(self._embed(track, draws))
                rows.append(place)
            except InputError as error:
                on_track(place, error)
            else:
                on_track(place, None)
        names = vectors[0] if vectors else {}
        return (
            {name: np.stack([one[name] for one in vectors], axis=1) for name in names},
            np.array(rows, np.int64),
        )

    def _embed(self, track: Track, draws: Sequence[Draw | None]) -> Subspaces:
        """name -> (len(draws), D) of one track."""
        views = [view for draw in draws for view in self._views(track, draw)]
        n_windows = len(views) // len(draws)

        def encode(part: Sequence[PlannedView]) -> Subspaces:
            return self._encode([(track, view) for view in part])

        x = windows.encode_in_batches(views, encode, _N_ROWS_AT_ONCE)
        by_draw = {name: rows.reshape(len(draws), n_windows, -1) for name, rows in x.items()}
        return windows.mean(by_draw, axis=1)

    def _encode(self, views: Sequence[tuple[Track, PlannedView]]) -> Subspaces:
        with torch.inference_mode():
            features = self._make(views)
            vectors = self._model.encode(features)
            if self._plain and isinstance(features, Features):
                bands = features.bands
                vectors["bands"] = torch.cat([bands.mean(dim=2), bands.std(dim=2)], dim=1)
            return {name: x.float().cpu().numpy() for name, x in vectors.items()}

    def _views(self, track: Track, draw: Draw | None) -> Iterator[PlannedView]:
        """Windows of the whole track, under one draw."""
        view = self._unchanged()
        if draw is not None:
            view.params[draw.augmentation] = draw.params
            view.applied[draw.augmentation] = True
            view.seeds[draw.augmentation] = draw.seed
        n_windows = max(1, min(MAX_N_WINDOWS, math.ceil(track.duration_s / self._window_s)))
        room_s = max(0.0, track.duration_s - rate(view) * self._window_s)
        for start_s in np.linspace(0, room_s, n_windows).tolist():
            yield replace(view, start=start_s)

    def _unchanged(self) -> PlannedView:
        # Draws of what is not applied only fill their places.
        rng = np.random.default_rng(0)
        names = list(vars(self._augmentations))
        return PlannedView(
            start=0.0,
            params={name: self._augmentations[name].draw(rng) for name in names},
            applied=dict.fromkeys(names, False),
            draws={},
            seeds=dict.fromkeys(names, 0),
        )


class LabelledEmbedder:
    """Embeds labeled tracks with one model after the other.

    Args:
        config: of training; its augmentations change the tracks.
        cache: folder of decoded tracks; None for the usual one.
        kept: folder of the cached embeddings.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        device: torch.device,
        cache: Path | None,
        kept: Path,
        on_event: Callable[[Event], None],
    ) -> None:
        self._config = config
        self._device = device
        self._cache = Cache(cache or default_cache())
        self._kept = ArrayCache(kept)
        self._tell = on_event

    def reference(
        self,
        bundle: Bundle,
        manifest: Manifest,
        draws: Mapping[str, Sequence[Draw]],
        *,
        on_features: bool,
    ) -> tuple[Vectors, dict[str, Vectors], Manifest]:
        """Unchanged (N, D); augmentation -> (M, N, D); the manifest without unreadable tracks.

        Raises:
            UsageError: no track can be read.
        """
        every = [None, *(draw for drawn in draws.values() for draw in drawn)]
        vectors, rows = self._embed(
            bundle,
            manifest,
            every,
            "embedding augmentations",
            on_features=on_features,
            plain=True,
        )
        if not len(rows):
            raise UsageError("none of the labeled files can be used")
        n_tracks = len(rows)
        flat = {name: x.reshape(len(every) * n_tracks, -1) for name, x in vectors.items()}
        x = _whole(flat).reshape(len(every), n_tracks, -1)
        changed: dict[str, Vectors] = {}
        first = 1
        for name, drawn in draws.items():
            changed[name] = x[first : first + len(drawn)]
            first += len(drawn)
        return x[0], changed, manifest.select(rows.tolist())

    def trained(self, folder: Path, manifest: Manifest, name: str) -> Vectors:
        """Unchanged tracks (N, D) by a trained model.

        Raises:
            UsageError: a track that could be read before cannot be any more.
        """
        vectors, rows = self._embed(bundles.load(folder), manifest, [None], f"embedding by {name}")
        if len(rows) < len(manifest):
            raise UsageError(
                f"{len(manifest) - len(rows)} labeled files were changed or removed during the run",
                hint="run the command again",
            )
        return _whole({subspace: x[0] for subspace, x in vectors.items()})

    def _embed(
        self,
        bundle: Bundle,
        manifest: Manifest,
        draws: Sequence[Draw | None],
        stage: str,
        *,
        on_features: bool | None = None,
        plain: bool = False,
    ) -> tuple[Subspaces, NDArray[np.int64]]:
        """name -> (draws, N, D), and the N rows of the manifest."""
        model = load_model(bundle)
        if on_features is None:
            on_features = isinstance(model.spec.frontend, FrontendConfig)
        embedder = AugmentedEmbedder(
            model, self._config, on_features=on_features, device=self._device, plain=plain
        )
        tracks = self._tracks(embedder, manifest)
        key = (
            bundle.sha256,
            [track.digest for track in tracks.values()],
            [draw and [draw.augmentation, draw.params.tolist(), draw.seed] for draw in draws],
            dataclasses.asdict(self._config.augmentations),
            [self._config.max_track_s, on_features, plain],
        )
        found = self._kept.find(*key)
        if found is None:
            vectors, places = embedder.embed(
                list(tracks.values()), draws, on_track=track_events(stage, len(tracks), self._tell)
            )
            if len(places) == len(tracks):
                self._kept.keep({**vectors, "places": places}, *key)
        else:
            vectors = {name: x for name, x in found.items() if name != "places"}
            places = found["places"]
        return vectors, np.array(list(tracks), np.int64)[places]

    def _tracks(self, embedder: AugmentedEmbedder, manifest: Manifest) -> dict[int, Track]:
        """Row of the manifest -> track, of the files that can be read."""
        tracks, skipped = load_tracks(
            [Listed(file) for file in manifest.files],
            embedder.content,
            self._cache,
            max_track_s=self._config.max_track_s,
            n_workers=usable_cpus(),
            on_progress=lambda done, total: self._tell(Stage("reading", done, total)),
        )
        for one in skipped:
            self._tell(Skipped(f"{one.path}: {one.error}"))
        row_of = {file: row for row, file in enumerate(manifest.files)}
        return {row_of[track.path]: track for track in tracks}


def _whole(subspaces: Mapping[str, Vectors]) -> Vectors:
    """All subspaces (n, D) side by side, in as many dimensions as a probe can use."""
    together = with_concatenation(subspaces)
    return compact(together.get(CONCATENATION, next(iter(together.values()))))
