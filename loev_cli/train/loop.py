"""The training loop: steps, schedule, validation, checkpoints.

    batch --encoder, heads--> projections --loss per head--> gradients --> optimizer
          \\___________________ objective.py ______________________/

The batch of step n depends on the seed and n alone, and so does what is random in the encoder, so
a resumed run is identical to one that never stopped.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loev_cli.errors import InputError, LoevError, UsageError
from loev_cli.interrupts import Interrupts
from loev_cli.model import LoevModel, ModelSpec, load_weights
from loev_cli.train.batches import Batch, BatchMaker, Prefetcher
from loev_cli.train.checkpoint import BEST, FOLDER, LAST, load_checkpoint, write_checkpoint
from loev_cli.train.config import TrainConfig, from_mapping
from loev_cli.train.distributed import Group, check_batch
from loev_cli.train.items import Item
from loev_cli.train.metrics import (
    METRICS_FILE,
    VALIDATION_FILE,
    MetricsFile,
    Progress,
    TensorBoard,
    mean_losses,
)
from loev_cli.train.objective import Objective, StepResult
from loev_cli.train.validation import Validation, Validator

FAILED_BATCH_FILE = "failed-batch.pt"
_N_RECENT = 50  # steps over which a reported loss is averaged
_FINAL_LR = 0.01  # share of the peak at the end of the cosine
_MAX_WARMUP = 0.1  # a short run has warmed up after this share of it, whatever `warmup_steps` says
# What may change between sessions of one run: none of it changes what a step computes.
_MAY_CHANGE = ("steps", "minutes", "checkpoint_every_s", "validate_every", "micro_batch_size")


def model_spec(config: TrainConfig) -> ModelSpec:
    """The model that ``config`` trains."""
    return ModelSpec.of(
        config.encoder,
        method=config.method,
        augs=config.augs,
        window_n_samples=config.window_n_samples,
        encoder_options=config.encoder_options,
        head_dims=config.head_dims,
        head_final_relu=config.head_final_relu,
    )


class Trainer:
    """One run: model, optimizer, checkpoints, metrics.

    Everything that ``config`` can get wrong shows here, before a file is decoded.

    Args:
        out: the run's folder; checkpoints, metrics and events are written there by rank 0.
        init: start from these weights instead of random ones.
        group: the processes that train together.

    Raises:
        UsageError: a config that cannot be trained.
    """

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        *,
        device: torch.device | None = None,
        init: LoevModel | None = None,
        group: Group | None = None,
    ) -> None:
        if config.steps is None and config.minutes is None:
            raise UsageError("missing option: --steps or --minutes")
        self.config = config
        self.out = out
        self.device = device or torch.device("cpu")
        self.group = group or Group()
        check_batch(config.batch_size, self.group.world_size)
        spec = model_spec(config)
        self.make_batch = BatchMaker(
            config,
            spec,
            device=self.device,
            rank=self.group.rank,
            world_size=self.group.world_size,
        )
        torch.manual_seed(config.seed)
        self.model = LoevModel(spec)
        if init is not None:
            self.model.extend(init)
        # Convolutions of few channels run up to twice as fast with channels last.
        self.model.to(self.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.train_only(config.train_only)
        self.average = copy.deepcopy(self.model).eval() if config.ema_decay else None
        micro = config.micro_batch_size
        self.objective = Objective(
            config,
            self.group,
            n_rows_at_once=micro * self.make_batch.n_views if micro else None,
            autocast=partial(_autocast, config, self.device),
        )
        self.n_tracks = 0
        self.step = 0
        self.elapsed_s = 0.0
        self.reserved_s = 0.0  # of the minutes, for what comes after the last step
        self.recent_losses: deque[dict[str, float]] = deque(maxlen=_N_RECENT)
        self.validation: Validation | None = None
        self.best_loss = math.inf
        self.tracks_digest: str | None = None

    def run(
        self,
        tracks: Sequence[Item],
        val_tracks: Sequence[Item] = (),
        *,
        on_step: Callable[[Progress], None] = lambda progress: None,
        on_validation: Callable[[int, Validation], None] = lambda step, validation: None,
    ) -> None:
        """Train until the steps or minutes are done. Interrupted, it saves a checkpoint first.

        Raises:
            LoevError: the loss stopped being a number, or another process failed.
            OutputError: a checkpoint or the metrics cannot be written.
        """
        self.n_tracks = len(tracks)
        self._check_tracks(tracks)
        saved_at = time.monotonic()
        validate = self._validator(val_tracks)
        try:
            with ExitStack() as stack:
                log = _Log(self.out, self.step, stack) if self.group.is_main else None
                make = partial(self.make_batch, tracks)
                batches = stack.enter_context(Prefetcher(make, self.step))
                interrupts = stack.enter_context(Interrupts())
                while self.share_done() < 1:
                    progress = self._train_step(batches)
                    self.recent_losses.append(progress.losses)
                    if log:
                        log.step(progress)
                    on_step(progress)
                    is_due = self.step % self.config.validate_every == 0
                    if validate and log and (is_due or self.share_done() >= 1):
                        self._validate(validate, log, on_validation)
                    if time.monotonic() - saved_at > self.config.checkpoint_every_s:
                        self.save()
                        saved_at = time.monotonic()
                    interrupts.check()
        except BaseException as error:
            # A checkpoint that cannot be written, or a loss gone bad, must not cause another save.
            if isinstance(error, InputError) or not isinstance(error, LoevError):
                self.save()
            raise
        self.save()

    def share_done(self) -> float:
        """0 to 1 of the steps or minutes asked for, whichever ends first."""
        shares = [0.0]
        if self.config.steps is not None:
            shares.append(self.step / self.config.steps)
        if self.config.minutes is not None:
            # One step is always taken.
            shares.append(self.elapsed_s / max(60 * self.config.minutes - self.reserved_s, 1e-9))
        return min(1.0, max(shares))

    @cached_property
    def optimizer(self) -> torch.optim.AdamW:
        # Made when first used: torch imports its compiler for it, a second that a dry run saves.
        return torch.optim.AdamW(_decay_groups(self.model, self.config.weight_decay), lr=0.0)

    @property
    def result(self) -> LoevModel:
        """The model that is validated and given away: the average of the weights if one is kept."""
        model = self.average or self.model
        model.settle(self.config.train_only)
        return model

    def _train_step(self, batches: Prefetcher) -> Progress:
        began = time.monotonic()
        batch = batches.next()
        waited_s = time.monotonic() - began
        lr = self._lr()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        found = self.objective.backward(self.model, batch, self.step)
        if not torch.isfinite(found.loss):
            self._give_up(batch, found)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if not torch.isfinite(norm):
            self._give_up(batch, found)
        losses = {head: float(loss) for head, loss in found.losses.items()}
        # All processes must agree on when the minutes are over.
        took_s = self.group.from_main(time.monotonic() - began)
        self.optimizer.step()
        self.model.track(found.embeddings, found.tracks)
        self._follow()
        self.step += 1
        self.elapsed_s += took_s
        n_views = self.config.batch_size * self.make_batch.n_views
        view_s = self.make_batch.domain.view_s
        return Progress(
            step=self.step,
            share_done=self.share_done(),
            elapsed_s=self.elapsed_s,
            lr=lr,
            loss=float(found.loss),
            losses=losses,
            audio_s_per_s=view_s and n_views * view_s / took_s,
            data_wait_share=waited_s / took_s,
        )

    def _follow(self) -> None:
        """EMA update of the weights; buffers are copied."""
        if self.average is None:
            return
        with torch.no_grad():
            # While there is little to average, as many steps count as there have been.
            decay = min(self.config.ema_decay, (self.step + 1) / (self.step + 10))
            for average, weight in zip(
                self.average.parameters(), self.model.parameters(), strict=True
            ):
                average.lerp_(weight, 1 - decay)
            for kept, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
                kept.copy_(buffer)

    def _give_up(self, batch: Batch, found: StepResult) -> None:
        """Raises LoevError; the offending batch is saved for debugging."""
        kept = ""
        if self.group.is_main:
            file = self.out / FAILED_BATCH_FILE
            features = batch.features
            tensors = [features] if isinstance(features, torch.Tensor) else list(features)
            state = {
                "step": self.step,
                "losses": {head: float(loss) for head, loss in found.losses.items()},
                "paths": list(batch.paths),
                "features": [x.cpu() for x in tensors],
                "tracks": batch.labels.track.cpu(),
                "draws": {aug: draws.cpu() for aug, draws in batch.labels.draws.items()},
            }
            write_checkpoint(file, state)
            kept = f"; the batch is saved in {file}"
        what = f"loss is {float(found.loss):g}"
        if torch.isfinite(found.loss):
            what = "gradient is not finite"
        raise LoevError(
            f"the {what} at step {self.step}{kept}",
            hint="lower the learning rate, or --resume from the last checkpoint",
        )

    def _lr(self) -> float:
        warm_up = min(
            1.0,
            max(
                (self.step + 1) / max(1, self.config.warmup_steps),
                self.share_done() / _MAX_WARMUP,
            ),
        )
        cosine = 0.5 * (1 + math.cos(math.pi * self.share_done()))
        return self.config.lr * warm_up * (_FINAL_LR + (1 - _FINAL_LR) * cosine)

    def _check_tracks(self, tracks: Sequence[Item]) -> None:
        """Raises UsageError where a resumed run would go on with other tracks: other batches."""
        digests = "".join(file.digest for track in tracks for file in track.files)
        digest = hashlib.blake2b(digests.encode(), digest_size=16).hexdigest()
        if self.tracks_digest not in (None, digest):
            raise UsageError(
                f"the training tracks differ from those of the run in {self.out}",
                hint="restore them, or start a new run from its weights with --init",
            )
        self.tracks_digest = digest

    def _validator(self, tracks: Sequence[Item]) -> Validator | None:
        if not tracks or not self.group.is_main:
            return None
        alone = Objective(
            self.config,
            Group(),
            n_rows_at_once=self.objective.n_rows_at_once,
            autocast=self.objective.autocast,
        )
        return Validator(self.config, self.model.spec, tracks, alone, self.device)

    def _validate(
        self, validate: Validator, log: _Log, report: Callable[[int, Validation], None]
    ) -> None:
        self.validation = validate(self.result)
        log.validation(self.step, self.validation)
        report(self.step, self.validation)
        if self.validation.loss < self.best_loss:
            self.best_loss = self.validation.loss
            self.save(BEST)

    def save(self, name: str = LAST) -> None:
        """Write ``checkpoints/last.pt``, or `best.pt`, which holds no optimizer.

        Raises:
            OutputError: no space, no permission.
        """
        if not self.group.is_main:
            return
        state: dict[str, Any] = {
            "config": dataclasses.asdict(self.config),
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "best_loss": self.best_loss,
            "tracks_digest": self.tracks_digest,
            "validation": dataclasses.asdict(self.validation) if self.validation else None,
            "facts": self.facts(),
        }
        if name == LAST:
            state["optimiser"] = self.optimizer.state_dict()
        write_checkpoint(self.out / FOLDER / name, state)

    def facts(self) -> dict[str, Any]:
        """Training provenance, for the bundle and its model card."""
        is_cuda = self.device.type == "cuda"
        n_processes = self.group.world_size
        return {
            "data": Path(self.config.data).name,  # bundles are given away, folders are not
            "n_tracks": self.n_tracks,
            "steps": self.step,
            "minutes": round(self.elapsed_s / 60, 1),
            "batch_size": self.config.batch_size,
            "seed": self.config.seed,
            "hardware": torch.cuda.get_device_name(self.device)
            if is_cuda
            else f"{platform.machine()} CPU, {os.cpu_count()} cores",
            **({"processes": n_processes} if n_processes > 1 else {}),
            "torch": str(torch.__version__),
            **{f"loss_{head}": round(v, 4) for head, v in mean_losses(self.recent_losses).items()},
        }

    def restore(self, file: Path) -> None:
        """Resume from a checkpoint of the same run.

        Raises:
            UsageError: it is of a run with another config, or cannot be resumed.
        """
        state = load_checkpoint(file)
        config = from_mapping(TrainConfig, state["config"])
        saved, now = (_what_must_agree(c) for c in (config, self.config))
        if saved != now:
            differing = sorted(key for key in now if saved[key] != now[key])
            raise UsageError(
                f"{file} was trained with different settings: {', '.join(differing)}",
                hint="use the settings in its config.toml, or another --out",
            )
        if "optimiser" not in state:
            raise UsageError(f"{file} has no optimizer state, cannot resume", hint=f"use {LAST}")
        load_weights(self.model, state["model"], file)
        if self.average is not None:
            load_weights(self.average, state["average"], file)
        self.optimizer.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.elapsed_s = state["elapsed_s"]
        self.best_loss = state["best_loss"]
        self.tracks_digest = state["tracks_digest"]
        if state["validation"]:
            self.validation = Validation(**state["validation"])


class _Log:
    """The files that keep what happened; closed with the ``stack``."""

    def __init__(self, out: Path, step: int, stack: ExitStack) -> None:
        self.metrics = stack.enter_context(closing(MetricsFile(out / METRICS_FILE, step)))
        self.validations = stack.enter_context(closing(MetricsFile(out / VALIDATION_FILE, step)))
        self.board = stack.enter_context(closing(TensorBoard(out, step)))

    def step(self, progress: Progress) -> None:
        self.metrics.write(progress.step, progress.values())
        self.board.write(progress.step, progress.values(), prefix="train")

    def validation(self, step: int, validation: Validation) -> None:
        self.validations.write(step, validation.values())
        self.board.write(step, validation.values(), prefix="validation")


def _autocast(config: TrainConfig, device: torch.device) -> Any:
    wanted = config.precision
    if wanted == "auto":
        wanted = "bf16" if device.type == "cuda" else "fp32"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted == "bf16")


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels, none for biases and gains."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.squeeze().ndim > 1]
    others = [p for p in trained if p.squeeze().ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _what_must_agree(config: TrainConfig) -> dict[str, Any]:
    """A config without what may change between sessions of one run."""
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in _MAY_CHANGE}
