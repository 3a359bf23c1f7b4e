"""The training loop: steps, schedule, checkpoints.

    batch --model--> projections --loss per head--> optimiser

The batch of step n depends on the seed and n alone, so a resumed run goes on exactly as if it had
never stopped.
"""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loev_cli.errors import LoevError, OutputError, UsageError
from loev_cli.model.frontend import Features
from loev_cli.model.loev import LoevModel, ModelSpec
from loev_cli.train.batches import BatchMaker, Prefetcher
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Track
from loev_cli.train.losses import ViewLabels, loev_losses, mean_loss
from loev_cli.train.metrics import METRICS_FILE, MetricsFile, Progress, mean_losses

_N_RECENT = 50  # steps over which a reported loss is averaged
_FINAL_LR = 0.01  # share of the peak at the end of the cosine
_MAX_WARMUP = 0.1  # a short run has warmed up after this share of it, whatever `warmup_steps` says
LAST_CHECKPOINT = "last.pt"


def model_spec(config: TrainConfig) -> ModelSpec:
    """The model that ``config`` trains."""
    return ModelSpec(
        method=config.method,
        augs=config.augs,
        encoder=config.encoder,
        window_n_samples=config.window_n_samples,
        encoder_options=config.encoder_options,
        head_dims=config.head_dims,
    )


class Trainer:
    """One run: model, optimiser, checkpoints, metrics.

    Everything that ``config`` can get wrong shows here, before a file is decoded.

    Args:
        out: the run's folder; ``checkpoints/`` and ``metrics.csv`` are written there.
        init: start from these weights instead of random ones.

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
    ) -> None:
        if config.steps is None and config.minutes is None:
            raise UsageError("how long to train? give --steps or --minutes")
        self.config = config
        self.out = out
        self.device = device or torch.device("cpu")
        torch.manual_seed(config.seed)
        spec = model_spec(config)
        if init is not None and init.spec != spec:
            raise UsageError(
                "the weights to start from are of a model of another shape",
                hint="take encoder, augs and dimensions from its config",
            )
        self.model = LoevModel(spec)
        if init is not None:
            self.model.load_state_dict(init.state_dict())
        # Convolutions of few channels run up to twice as fast with channels last.
        self.model.to(self.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.train()
        self.optimiser = torch.optim.AdamW(_decay_groups(self.model, config.weight_decay), lr=0.0)
        self.make_batch = BatchMaker(config, spec)
        self.n_tracks = 0
        self.step = 0
        self.elapsed_s = 0.0
        self.recent_losses: deque[dict[str, float]] = deque(maxlen=_N_RECENT)
        self._updating = False

    def run(
        self,
        tracks: Sequence[Track],
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        """Train until the steps or minutes are done. Interrupted, it saves a checkpoint.

        Raises:
            LoevError: the loss stopped being a number.
            OutputError: a checkpoint or the metrics cannot be written.
        """
        (self.out / "checkpoints").mkdir(parents=True, exist_ok=True)
        self.n_tracks = len(tracks)
        saved_at = time.monotonic()
        try:
            with (
                Prefetcher(partial(self.make_batch, tracks), self.step) as batches,
                MetricsFile(self.out / METRICS_FILE, self.step) as metrics,
            ):
                while self.share_done() < 1:
                    progress = self._train_step(batches)
                    self.recent_losses.append(progress.losses)
                    metrics.write(progress)
                    report(progress)
                    if time.monotonic() - saved_at > self.config.checkpoint_every_s:
                        self.save()
                        saved_at = time.monotonic()
        except BaseException as error:
            # An interrupt may fall anywhere; what is saved must be the state after a whole step.
            if not isinstance(error, Exception) and not self._updating:
                self.save()
            raise
        self.save()

    def share_done(self) -> float:
        """0 to 1 of the steps or minutes asked for, whichever ends first."""
        shares = [0.0]
        if self.config.steps is not None:
            shares.append(self.step / self.config.steps)
        if self.config.minutes is not None:
            shares.append(self.elapsed_s / (60 * self.config.minutes))
        return min(1.0, max(shares))

    def _train_step(self, batches: Prefetcher) -> Progress:
        began = time.monotonic()
        batch = batches.next()
        waited_s = time.monotonic() - began
        lr = self._lr()
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        features = Features(*(x.to(self.device) for x in batch.features))
        losses = self._losses(features, batch.labels)
        loss = mean_loss(losses)
        if not torch.isfinite(loss):
            raise LoevError(
                f"the loss is {loss.item()} at step {self.step}",
                hint="lower the learning rate, or --resume from the last checkpoint",
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        took_s = time.monotonic() - began
        self._updating = True
        self.optimiser.step()
        self.step += 1
        self.elapsed_s += took_s
        self._updating = False
        window_s = self.config.window_n_samples / self.model.spec.frontend.sample_rate_hz
        return Progress(
            step=self.step,
            share_done=self.share_done(),
            elapsed_s=self.elapsed_s,
            lr=lr,
            loss=loss.item(),
            losses={head: value.item() for head, value in losses.items()},
            audio_s_per_s=len(batch.labels.track) * window_s / took_s,
            data_wait_share=waited_s / took_s,
        )

    def _losses(self, features: Features, labels: ViewLabels) -> dict[str, Tensor]:
        labels = ViewLabels(
            labels.track.to(self.device),
            {aug: draws.to(self.device) for aug, draws in labels.draws.items()},
        )
        return loev_losses(
            self.model.project(features),
            labels,
            method=self.config.method,
            scheme=self.config.view_scheme,
            temperature=self.config.temperature,
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

    def save(self) -> Path:
        """Write ``checkpoints/last.pt``; the one before stays whole until this one is.

        Raises:
            OutputError: no space, no permission.
        """
        file = self.out / "checkpoints" / LAST_CHECKPOINT
        draft = file.with_name(f".{file.name}.tmp")
        state = {
            "config": dataclasses.asdict(self.config),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "facts": self.facts(),
        }
        try:
            torch.save(state, draft)
            with draft.open("rb") as stream:
                os.fsync(stream.fileno())
            draft.replace(file)
        except (OSError, RuntimeError) as error:
            draft.unlink(missing_ok=True)
            raise OutputError(f"cannot write checkpoint {file}: {error}") from error
        return file

    def facts(self) -> dict[str, Any]:
        """How the weights came about: what a bundle records and its card tells."""
        is_cuda = self.device.type == "cuda"
        return {
            "data": self.config.data,
            "n_tracks": self.n_tracks,
            "steps": self.step,
            "minutes": round(self.elapsed_s / 60, 1),
            "batch_size": self.config.batch_size,
            "seed": self.config.seed,
            "hardware": torch.cuda.get_device_name(self.device)
            if is_cuda
            else f"{platform.machine()} CPU, {os.cpu_count()} cores",
            "torch": str(torch.__version__),
            **{f"loss_{head}": round(v, 4) for head, v in mean_losses(self.recent_losses).items()},
        }

    def restore(self, file: Path) -> None:
        """Go on from a checkpoint of the same run.

        Raises:
            UsageError: it is of a run with another config.
        """
        state = load_checkpoint(file)
        saved, now = (_what_must_agree(c) for c in (state["config"], self.config))
        if saved != now:
            differing = sorted(key for key in now if saved.get(key) != now[key])
            raise UsageError(
                f"{file} was trained with other settings: {', '.join(differing)}",
                hint="use the settings in its config.toml, or another --out",
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.elapsed_s = state["elapsed_s"]


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels, none for biases and gains."""
    matrices = [p for p in model.parameters() if p.squeeze().ndim > 1]
    others = [p for p in model.parameters() if p.squeeze().ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _what_must_agree(config: TrainConfig | dict[str, Any]) -> dict[str, Any]:
    """A config without what may change between sessions of one run."""
    values = config if isinstance(config, dict) else dataclasses.asdict(config)
    return {k: v for k, v in values.items() if k not in ("steps", "minutes", "checkpoint_every_s")}


def load_checkpoint(file: Path) -> dict[str, Any]:
    """A training checkpoint, read without unpickling anything but tensors and plain values.

    Raises:
        UsageError: no such file, or not a checkpoint of ours.
    """
    if not file.is_file():
        raise UsageError(f"no checkpoint {file}")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever a foreign file provokes in it
        raise UsageError(f"{file} is not a checkpoint, or a damaged one") from error
    if not isinstance(state, dict) or not {"config", "model", "step", "facts"} <= state.keys():
        raise UsageError(f"{file} is not a checkpoint of loev")
    return state
