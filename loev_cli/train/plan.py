"""What a run would do and need, without doing it: what ``loev train --dry-run`` shows."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

from loev_cli import audio
from loev_cli.errors import InputError, UsageError
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Content, Listed, listing
from loev_cli.train.loop import Trainer

_N_PROBED_TRACKS = 2  # go through the encoder to see what a track costs
_N_READERS = 8


@dataclass(frozen=True)
class Plan:
    """What a run would do and need.

    Attributes:
        n_files: audio files listed, without a manifest's test rows.
        unreadable: those whose header cannot be read, with the reason.
        hours: of music that would be decoded, as far as headers say.
        n_val_wanted: tracks that would be kept aside to validate on, at most.
        views_on: `features` or `waveforms`.
        subspaces: name -> D.
        n_parameters: of encoder and heads.
        cache_bytes: what the decoded tracks take on disk.
        weight_bytes: weights, gradients, the optimiser's moments, an average of the weights.
        activation_bytes: what the encoder keeps for one backward pass.
        similarity_bytes: of the largest head's comparison of all rows with all.
        step_s: how long a step takes on this device without waiting for data, by a trial.
    """

    n_files: int
    unreadable: tuple[str, ...]
    hours: float
    n_val_wanted: int
    views_on: str
    n_views: int
    subspaces: dict[str, int]
    n_parameters: int
    steps_per_epoch: int
    cache_bytes: int
    weight_bytes: int
    activation_bytes: int
    similarity_bytes: int
    step_s: float

    @property
    def memory_bytes(self) -> int:
        """Of the device that trains, on top of the program itself."""
        return self.weight_bytes + self.activation_bytes + self.similarity_bytes


def make_plan(config: TrainConfig, trainer: Trainer) -> Plan:
    """Look at the files' headers and send a few rows of noise through the encoder.

    Raises:
        UsageError: nothing to train on.
    """
    listed = [item for item in listing(config.data) if item.split != "test"]
    with ThreadPoolExecutor(_N_READERS) as pool:
        lengths = list(pool.map(partial(_length_s, max_track_s=config.max_track_s), listed))
    known = [length for length in lengths if isinstance(length, float)]
    # A header that does not say how long its file is counts like the others.
    seconds = sum(known) / max(1, len(known)) * sum(not isinstance(x, str) for x in lengths)
    n_named = sum(item.split == "val" for item in listed)
    n_val = n_named or round(config.val_fraction * len(listed))
    n_train = len(listed) - n_val - sum(isinstance(x, str) for x in lengths)
    if n_train < config.batch_size:
        raise UsageError(
            f"{max(0, n_train)} usable tracks are fewer than the batch of {config.batch_size}",
            hint="use a smaller --batch-size, or add music",
        )
    parameters = list(trainer.model.parameters())
    n_weights = sum(p.numel() for p in parameters)
    activation_bytes, row_s = _try_rows(trainer)
    n_rows = config.batch_size * trainer.make_batch.n_views
    micro = config.micro_batch_size or config.batch_size
    content = trainer.make_batch.content
    return Plan(
        n_files=len(listed),
        unreadable=tuple(x for x in lengths if isinstance(x, str)),
        hours=seconds / 3600,
        n_val_wanted=n_val,
        views_on=trainer.make_batch.path,
        n_views=trainer.make_batch.n_views,
        subspaces=trainer.model.subspaces,
        n_parameters=n_weights,
        steps_per_epoch=n_train // config.batch_size,
        cache_bytes=int(seconds * _bytes_per_s(content)),
        weight_bytes=4 * n_weights * (5 if config.ema_decay else 4),
        activation_bytes=int(activation_bytes * min(micro, config.batch_size)),
        similarity_bytes=4 * 4 * n_rows**2,
        # Split batches go through the encoder a second time, forward only: a third more.
        step_s=row_s * n_rows * (4 / 3 if micro < config.batch_size else 1),
    )


def _length_s(item: Listed, max_track_s: float) -> float | str | None:
    """Seconds that would be decoded; None if the header does not say; a text if it is broken."""
    try:
        duration_s = audio.probe(item.path).duration_s
    except InputError as error:
        return str(error)
    return None if duration_s is None else min(duration_s, max_track_s)


def _bytes_per_s(content: Content) -> float:
    return content.frames_per_s * math.prod(content.row_shape) * content.dtype.itemsize


def _try_rows(trainer: Trainer) -> tuple[float, float]:
    """Bytes that a track's rows keep for the backward pass, and seconds that a row takes."""
    model, n_views = trainer.model, trainer.make_batch.n_views
    n_rows = _N_PROBED_TRACKS * n_views
    noise = 0.1 * torch.randn(n_rows, model.spec.window_n_samples, device=trainer.device)
    with torch.no_grad():
        features = model.features(noise)
    owned = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.data_ptr() not in owned:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    took_s = 0.0
    for _ in range(2):  # the first time pays for setting up
        kept.clear()
        began = time.perf_counter()
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
            trainer.objective.autocast(),
        ):
            projections = model.project(features).projections
        loss = torch.stack([z.float().square().mean() for z in projections.values()]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)
        took_s = time.perf_counter() - began
    return sum(kept.values()) / _N_PROBED_TRACKS, took_s / n_rows
