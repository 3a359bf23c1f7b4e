"""Losses and gradients of one step, over a batch that need not fit the encoder at once.

Contrast needs all rows of a batch together, the encoder does not. With ``micro_batch_size``, rows
go through it in parts, twice (GradCache, Gao et al. 2021):

    part by part, no graph     rows --encoder, heads--> projections z
    all rows, all processes    z --losses--> L, and dL/dz of this process's rows
    part by part, with graph   rows --encoder, heads--> z, backward from dL/dz

The same two halves make data-parallel training exact: L is computed from every process's z, its
derivative by this process's z is this process's share, and the shares of the weights' gradient are
summed. Nothing is averaged: L is already a mean over all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loev_cli.model import LoevModel, Projected
from loev_cli.train.batches import Batch
from loev_cli.train.config import TrainConfig
from loev_cli.train.distributed import Group, gather_all
from loev_cli.train.losses import ViewLabels, loev_losses, mean_loss


@dataclass(frozen=True)
class StepResult:
    """What a step found.

    Attributes:
        loss: mean over heads, a scalar.
        losses: head -> scalar.
        embeddings: subspace -> (all rows, D), of every process.
        tracks: (all rows,), the number of each row's track.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    embeddings: dict[str, Tensor]
    tracks: Tensor


class Objective:
    """Computes a batch's losses and leaves the weights' gradients, summed over processes.

    Args:
        n_rows_at_once: rows through the encoder at once; None for all.
        autocast: a fresh context of the precision the encoder runs in.
    """

    def __init__(
        self,
        config: TrainConfig,
        group: Group,
        *,
        n_rows_at_once: int | None,
        autocast: Callable[[], Any],
    ) -> None:
        self.config = config
        self.heads = config.train_only or None
        self.group = group
        self.n_rows_at_once = n_rows_at_once
        self.autocast = autocast

    def backward(self, model: LoevModel, batch: Batch, step: int) -> StepResult:
        """Gradients are added to what the parameters hold already."""
        n_rows = len(batch.labels.track)
        size = self.n_rows_at_once or n_rows
        parts = [slice(i, min(i + size, n_rows)) for i in range(0, n_rows, size)]
        at_once = len(parts) == 1

        def project(index: int) -> Projected:
            # A part's second pass must drop the same blocks as its first.
            torch.manual_seed(_seed(self.config.seed, step, self.group.rank, index))
            with self.autocast():
                projected = model.project(rows_of(batch.features, parts[index]), self.heads)
            return Projected(
                {name: z.float() for name, z in projected.projections.items()},
                {name: x.float() for name, x in projected.embeddings.items()},
            )

        with torch.set_grad_enabled(at_once), _statistics_kept(model, unless=at_once):
            projected = [project(index) for index in range(len(parts))]
        heads = list(projected[0].projections)
        own = {
            head: torch.cat([p.projections[head].detach() for p in projected]).requires_grad_()
            for head in heads
        }
        labels = self._labels_of_all(batch.labels)
        losses = self._losses(own, labels)
        loss = mean_loss(losses)
        if torch.isfinite(loss):
            loss.backward()  # type: ignore[no-untyped-call]
            for index, part in enumerate(parts):
                z = (projected[0] if at_once else project(index)).projections
                torch.autograd.backward(
                    [z[head] for head in heads], [_gradient(own[head])[part] for head in heads]
                )
            self.group.sum_gradients(model.parameters())
        embeddings = {
            name: torch.cat([p.embeddings[name] for p in projected])
            for name in projected[0].embeddings
        }
        detached = {head: loss.detach() for head, loss in losses.items()}
        return StepResult(
            loss.detach(),
            detached,
            gather_all(self.group, embeddings),
            labels.track,
        )

    def losses(self, model: LoevModel, batch: Batch) -> dict[str, Tensor]:
        """Head -> loss of a batch, without gradients, in the model's present mode."""
        n_rows = len(batch.labels.track)
        size = self.n_rows_at_once or n_rows
        with torch.no_grad(), self.autocast():
            parts = [
                model.project(rows_of(batch.features, slice(i, i + size)), self.heads).projections
                for i in range(0, n_rows, size)
            ]
        projections = {h: torch.cat([part[h].float() for part in parts]) for h in parts[0]}
        return self._of(projections, batch.labels)

    def _labels_of_all(self, own: ViewLabels) -> ViewLabels:
        """Labels of all processes' rows."""
        return ViewLabels(
            self.group.gather(own.track), gather_all(self.group, own.draws), own.across_tracks
        )

    def _losses(self, own: dict[str, Tensor], labels: ViewLabels) -> dict[str, Tensor]:
        """Losses over all processes' rows, which ``labels`` are of; gradients reach ``own``."""
        group = self.group
        if group.world_size == 1:
            return self._of(own, labels)
        n_own = len(labels.track) // group.world_size
        first = group.rank * n_own
        everyone = {
            head: torch.cat([z[:first], own[head], z[first + n_own :]])
            for head, z in gather_all(group, own).items()
        }
        return self._of(everyone, labels)

    def _of(self, projections: dict[str, Tensor], labels: ViewLabels) -> dict[str, Tensor]:
        return loev_losses(
            projections,
            labels,
            method=self.config.method,
            scheme=self.config.view_scheme,
            temperature=self.config.temperature,
        )


def rows_of(features: Any, part: slice) -> Any:
    """The same features of some of the rows."""
    if isinstance(features, Tensor):
        return features[part]
    return type(features)(*(x[part] for x in features))


def _gradient(leaf: Tensor) -> Tensor:
    # A head none of whose rows has a positive has no gradient.
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _seed(*parts: int) -> int:
    """One seed for torch out of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@contextmanager
def _statistics_kept(model: nn.Module, *, unless: bool) -> Iterator[None]:
    """Batch norms do not take the rows of a first pass into their running statistics."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = norm.momentum if unless else 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
