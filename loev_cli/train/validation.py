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

from loev_cli import audio, windows
from loev_cli.errors import InputError
from loev_cli.model import LoevModel, ModelSpec
from loev_cli.train.augment import Augmentation, apply_chain
from loev_cli.train.augment.retime import retime
from loev_cli.train.batches import BatchMaker
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Track
from loev_cli.train.objective import Objective

# Enough for a stable figure, few enough to hold their waveforms in memory and to take seconds.
_N_TRACKS = 24
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
        tracks: Sequence[Track],
        objective: Objective,
        device: torch.device,
    ) -> None:
        self.objective = objective
        self.device = device
        chosen = tracks[: config.batch_size]
        maker = BatchMaker(config, spec, device=device)
        self.batch = maker.of_tracks(dict(enumerate(chosen)), _VALIDATION_STREAM)
        self.windows = ValidationWindows(config, spec, tracks)

    def __call__(self, model: LoevModel) -> Validation:
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            losses = self.objective.losses(model, self.batch)
            return self.windows.measure(
                model, {head: float(loss) for head, loss in losses.items()}, self.device
            )
        finally:
            for module in training:
                module.training = True


class ValidationWindows:
    """Windows of some validation tracks: as they are, another crop, and changed in known ways.

    Kept as float16; its rounding is 66 dB below the music.
    """

    def __init__(self, config: TrainConfig, spec: ModelSpec, tracks: Sequence[Track]) -> None:
        self.plain: list[Tensor] = []
        self.other_crop: list[Tensor] = []
        self.changed: dict[str, list[Tensor]] = {
            aug: []
            for aug in dict.fromkeys(("pitch", "tempo", *config.augs))
            if aug in config.variants or config.augmentations[aug].on_waveforms_too
        }
        for index, track in enumerate(tracks):
            if len(self.plain) == _N_TRACKS:
                break
            if len(track.files) < 2 and config.variants:
                continue
            others = {name: _other_variant(track, name) for name in config.variants}
            try:
                waveform = _beginning(track, spec, config)
                variants = {n: _beginning(take, spec, config) for n, take in others.items()}
            except InputError:
                continue  # gone since it was listed; the other tracks say as much
            rng = np.random.default_rng([config.seed, index, _VALIDATION_STREAM])
            self._add(waveform, variants, config, spec, rng)

    def _add(
        self,
        waveform: np.ndarray,
        variants: dict[str, np.ndarray],
        config: TrainConfig,
        spec: ModelSpec,
        rng: np.random.Generator,
    ) -> None:
        n = spec.window_n_samples
        self.plain.append(_cut(waveform, 0, n).half())
        self.other_crop.append(_cut(waveform, n, n).half())
        for name, changed in self.changed.items():
            if name in variants:
                changed.append(_cut(variants[name], 0, n).half())
                continue
            augmentation = config.augmentations[name]
            changed.append(_change(augmentation, waveform, spec, rng).half())

    def measure(
        self, model: LoevModel, losses: dict[str, float], device: torch.device
    ) -> Validation:
        if len(self.plain) < 2:
            return Validation(losses)
        plain = _embed(model, self.plain, device)
        other = _embed(model, self.other_crop, device)
        changed = {aug: _embed(model, x, device) for aug, x in self.changed.items()}
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


def _cut(waveform: np.ndarray, start_n: int, n_samples: int) -> Tensor:
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
        segment = _cut(waveform, 0, round(rate * n))
        return retime([segment], np.array([rate]), np.array([semitones]), n, rate_hz)[0]
    name = augmentation.name
    return apply_chain(
        [augmentation],
        _cut(waveform, 0, n)[None],
        {name: params[None]},
        {name: np.array([True])},
        {name: rng.integers(2**32, size=1).astype(np.uint32)},
        spec.frontend,
    )[0]


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
