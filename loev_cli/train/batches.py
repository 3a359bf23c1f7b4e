"""Batches of views, made ahead of the training loop.

    items --plan--> views --domain: place, make--> features and labels

Every random draw for place i of step n's batch comes from a generator seeded by (seed, n, i), so
batches do not depend on when, where, or by how many processes they are made.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from loev_cli.model import ModelSpec
from loev_cli.train.config import TrainConfig
from loev_cli.train.domains import domain_kind
from loev_cli.train.items import Item
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
            n_views=config.n_views,
        )
        self.device = device or torch.device("cpu")
        self.domain = domain_kind(config.domain).make(config, spec, self.device)
        size = config.batch_size // world_size
        self.places = range(rank * size, (rank + 1) * size)

    @property
    def n_views(self) -> int:
        """V, views per track."""
        return self.planner.n_views

    def __call__(self, tracks: Sequence[Item], step: int) -> Batch:
        order = self._tracks_of_step(len(tracks), step)
        return self.of_tracks({place: tracks[order[place]] for place in self.places}, step)

    def of_tracks(self, tracks: dict[int, Item], step: int) -> Batch:
        """Views of the given tracks, by their place in the batch."""
        views: list[tuple[Item, PlannedView]] = []
        for place, track in tracks.items():
            rng = np.random.default_rng([self.config.seed, step, place, _VIEWS])
            takes = track.files if self.config.variants else ()
            planned = self.domain.place(self.planner.plan(rng, takes), track, rng)
            views += [(track.files[view.take], view) for view in planned]
        draws = {
            aug: torch.tensor([view.draws[aug] for _, view in views], device=self.device)
            for aug in self.heads
        }
        places = torch.tensor(list(tracks), device=self.device)
        labels = ViewLabels(
            places.repeat_interleave(self.n_views), draws, self.config.across_tracks
        )
        return Batch(
            self.domain.make_views(views), labels, tuple(str(t.path) for t in tracks.values())
        )

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
