"""Embed tracks with and without training augmentations.

Views are made by training's own code: the same augmentations, the same ranges, on features where
training works on features. What a model is to become blind to is what is embedded here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from loev_cli import windows
from loev_cli.errors import InputError
from loev_cli.model import LoevModel
from loev_cli.model.frontend import Features
from loev_cli.train.augment import Augmentation, AugmentationsConfig
from loev_cli.train.batches import FeatureViews, ViewMaker, WaveformViews
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Content, Track
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
        on_track: Callable[[int, InputError | None], None] = lambda done, error: None,
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
                on_track(place + 1, error)
            else:
                on_track(place + 1, None)
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
        room_s = max(0.0, track.duration_s - view.rate * self._window_s)
        for start_s in np.linspace(0, room_s, n_windows).tolist():
            yield replace(view, start_s=start_s)

    def _unchanged(self) -> PlannedView:
        # Draws of what is not applied only fill their places.
        rng = np.random.default_rng(0)
        names = list(vars(self._augmentations))
        return PlannedView(
            start_s=0.0,
            params={name: self._augmentations[name].draw(rng) for name in names},
            applied=dict.fromkeys(names, False),
            draws={},
            seeds=dict.fromkeys(names, 0),
        )
