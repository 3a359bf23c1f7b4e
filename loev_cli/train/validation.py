"""How good is the model so far? Measured on tracks that are not trained on.

    loss          the training loss, on fixed views of validation tracks
    alignment     mean squared distance of two crops of one track      (Wang & Isola, ICML 2020)
    uniformity    log of the mean of exp(-2 d^2) over pairs of tracks   (the same)
    sensitivity   how far an augmentation moves an embedding, over the mean distance between
                  tracks: 1 is as far away as another recording

All but the loss go the way that a user's audio goes: waveform in, standardized subspaces out. A
row per subspace and a column per augmentation makes the sensitivity matrix, whose ideal is large
where the subspace is the augmentation's own and 0 elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from loev_cli import windows
from loev_cli.model import LoevModel, ModelSpec
from loev_cli.train.batches import BatchMaker
from loev_cli.train.config import TrainConfig
from loev_cli.train.items import Changes, Item
from loev_cli.train.objective import Objective

# Enough for a stable figure, few enough to hold their waveforms in memory and to take seconds.
_N_ITEMS = 24
_BATCH_SIZE = 8
_VALIDATION_STREAM = 2**31 - 1  # a step that no training has


@dataclass(frozen=True)
class Validation:
    """What was measured.

    Attributes:
        losses: head -> loss; their mean is what picks the best checkpoint.
        alignment, uniformity: subspace -> value.
        sensitivity: subspace -> augmentation -> value.
    """

    losses: dict[str, float]
    alignment: dict[str, float] = field(default_factory=dict)
    uniformity: dict[str, float] = field(default_factory=dict)
    sensitivity: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Mean over heads."""
        return float(np.mean(list(self.losses.values())))

    def values(self) -> dict[str, float]:
        """By column of ``validation.csv``."""
        return {
            "loss": self.loss,
            **{f"loss_{head}": value for head, value in self.losses.items()},
            **{f"alignment_{name}": value for name, value in self.alignment.items()},
            **{f"uniformity_{name}": value for name, value in self.uniformity.items()},
            **{
                f"sensitivity_{name}_to_{aug}": value
                for name, row in self.sensitivity.items()
                for aug, value in row.items()
            },
        }


class Validator:
    """Measures a model on validation tracks, the same views every time.

    Args:
        tracks: two or more.
        objective: computes the loss.
    """

    def __init__(
        self,
        config: TrainConfig,
        spec: ModelSpec,
        tracks: Sequence[Item],
        objective: Objective,
        device: torch.device,
    ) -> None:
        self.objective = objective
        self.device = device
        chosen = tracks[: config.batch_size]
        maker = BatchMaker(config, spec, device=device)
        self.batch = maker.of_tracks(dict(enumerate(chosen)), _VALIDATION_STREAM)
        self.changes = maker.domain.changes(tracks, _N_ITEMS)

    def __call__(self, model: LoevModel) -> Validation:
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            losses = self.objective.losses(model, self.batch)
            found = {head: float(loss) for head, loss in losses.items()}
            return measure(self.changes, model, found, self.device)
        finally:
            for module in training:
                module.training = True


def measure(
    changes: Changes, model: LoevModel, losses: dict[str, float], device: torch.device
) -> Validation:
    """What is said of ``model``; no more than its ``losses`` for fewer than two items."""
    if len(changes.plain) < 2:
        return Validation(losses)
    plain = _embed(model, changes.plain, device)
    other = _embed(model, changes.other_view, device)
    changed = {aug: _embed(model, x, device) for aug, x in changes.changed.items()}
    alignment, uniformity = {}, {}
    sensitivity: dict[str, dict[str, float]] = {}
    for name, x in plain.items():
        a, b = F.normalize(x, dim=1), F.normalize(other[name], dim=1)
        alignment[name] = float((a - b).square().sum(dim=1).mean())
        uniformity[name] = float(torch.pdist(a).square().mul(-2).exp().mean().log())
        between = float(torch.pdist(x).mean())
        sensitivity[name] = {
            aug: float((vectors[name] - x).norm(dim=1).mean()) / max(between, 1e-12)
            for aug, vectors in changed.items()
        }
    return Validation(losses, alignment, uniformity, sensitivity)


def _embed(
    model: LoevModel, waveforms: Sequence[Tensor], device: torch.device
) -> dict[str, Tensor]:
    """Windows (N,) -> subspace -> (len(waveforms), D), on the CPU."""

    def encode(batch: Sequence[Tensor]) -> windows.Vectors:
        vectors = model(torch.stack(list(batch)).float().to(device))
        return {name: x.float().cpu().numpy() for name, x in vectors.items()}

    with torch.inference_mode():
        vectors = windows.encode_in_batches(waveforms, encode, _BATCH_SIZE)
    return {name: torch.from_numpy(x) for name, x in vectors.items()}
