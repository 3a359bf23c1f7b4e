"""Batches of views, made ahead of the training loop.

    tracks --plan, cut--> views --base chain--> features and labels

Every random draw of step n comes from a generator seeded by (seed, n), so batches do not depend on
when or where they are made.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from loev_cli.model.frontend import Features
from loev_cli.model.loev import ModelSpec
from loev_cli.train.augment.features import base_chain, cut_view
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Track
from loev_cli.train.losses import ViewLabels
from loev_cli.train.views import SharedViewPlanner, n_views

_N_BATCHES_AHEAD = 3


@dataclass(frozen=True)
class Batch:
    """B x V views, row = track * V + view."""

    features: Features
    labels: ViewLabels


class BatchMaker:
    """Makes the batch of step n from the tracks and (seed, n) alone."""

    def __init__(self, config: TrainConfig, spec: ModelSpec) -> None:
        self.config = config
        self.spec = spec
        self.planner = SharedViewPlanner(config.augs, config.augmentations, spec.frontend)
        self.chain = base_chain(config.augmentations, spec.frontend)

    def __call__(self, tracks: Sequence[Track], step: int) -> Batch:
        rng = np.random.default_rng([self.config.seed, step])
        chosen = [tracks[i] for i in self._tracks_of_step(len(tracks), step)]
        plans = [self.planner.plan(t.n_frames, self.spec.n_frames, rng) for t in chosen]
        cuts = [
            cut_view(track.features, view.cut, self.spec.n_frames, self.spec.frontend)
            for track, plan in zip(chosen, plans, strict=True)
            for view in plan
        ]
        features = Features(
            torch.from_numpy(np.stack([spectrum for spectrum, _ in cuts])),
            torch.from_numpy(np.stack([bands for _, bands in cuts])),
        )
        for augmentation in self.chain:
            features = augmentation(features, rng)
        draws = {
            aug: torch.tensor([view.draws[aug] for plan in plans for view in plan])
            for aug in self.config.augs
        }
        track = torch.arange(len(chosen)).repeat_interleave(n_views(self.config.augs))
        return Batch(features, ViewLabels(track, draws))

    def _tracks_of_step(self, n_tracks: int, step: int) -> list[int]:
        """Without replacement through the whole set, in an order that is new every epoch."""
        size = self.config.batch_size
        per_epoch = n_tracks // size
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([self.config.seed, epoch, 1]).permutation(n_tracks)
        return [int(i) for i in order[place * size : (place + 1) * size]]


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
