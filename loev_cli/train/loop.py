"""The training loop, all of it: batches, steps, checkpoints.

    tracks --plan, cut--> views --base chain--> features --model--> projections --> loss per head

Every random draw of step n comes from a generator seeded by (seed, n), so a resumed run goes on
exactly as if it had never stopped, and batches can be made ahead in a thread.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import platform
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loev_cli.errors import LoevError, OutputError, UsageError
from loev_cli.model.frontend import Features
from loev_cli.model.loev import LoevModel, ModelSpec
from loev_cli.train.augment.features import base_chain, cut_view
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Track
from loev_cli.train.losses import ViewLabels, loev_losses, mean_loss
from loev_cli.train.views import SharedViewPlanner, n_views

_N_BATCHES_AHEAD = 3
_N_RECENT = 50  # steps over which a reported loss is averaged
_FINAL_LR = 0.01  # share of the peak at the end of the cosine
_MAX_WARMUP = 0.1  # a short run has warmed up after this share of it, whatever `warmup_steps` says
LAST_CHECKPOINT = "last.pt"


@dataclass(frozen=True)
class Progress:
    """State after one step, for a display and for ``metrics.csv``.

    Attributes:
        losses: per head.
        share_done: 0 to 1 of the steps or minutes asked for.
        elapsed_s: training time, all sessions of the run together.
        audio_s_per_s: seconds of views seen per second.
        data_wait_share: share of the last step's time spent waiting for its batch.
    """

    step: int
    share_done: float
    elapsed_s: float
    lr: float
    loss: float
    losses: dict[str, float]
    audio_s_per_s: float
    data_wait_share: float

    @property
    def remaining_s(self) -> float:
        """Training time left, if it goes on at this pace."""
        return self.elapsed_s * (1 - self.share_done) / max(self.share_done, 1e-9)


@dataclass(frozen=True)
class Batch:
    """B x V views, row = track * V + view."""

    features: Features
    labels: ViewLabels


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
                MetricsFile(self.out / "metrics.csv", self.step) as metrics,
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
        losses = {
            f"loss_{head}": round(sum(row[head] for row in self.recent_losses) / n, 4)
            for n in [len(self.recent_losses)]
            for head in (self.recent_losses[0] if n else ())
        }
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
            **losses,
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


class MetricsFile:
    """``metrics.csv``, one row per step; rows past the step a run resumes from are dropped."""

    def __init__(self, file: Path, step: int) -> None:
        self.file = file
        kept = list(self._rows_up_to(step)) if step and file.exists() else []
        self._stream = file.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._stream)
        self._writer.writerows(kept)
        self._has_header = bool(kept)

    def _rows_up_to(self, step: int) -> Iterator[list[str]]:
        with self.file.open(newline="", encoding="utf-8") as stream:
            for row in csv.reader(stream):
                if not row[0].isdigit() or int(row[0]) <= step:
                    yield row

    def write(self, progress: Progress) -> None:
        values = {
            "step": progress.step,
            "elapsed_s": f"{progress.elapsed_s:.3f}",
            "lr": f"{progress.lr:.6g}",
            "loss": f"{progress.loss:.6g}",
            **{f"loss_{head}": f"{value:.6g}" for head, value in progress.losses.items()},
            "audio_s_per_s": f"{progress.audio_s_per_s:.1f}",
            "data_wait_share": f"{progress.data_wait_share:.4f}",
        }
        if not self._has_header:
            self._writer.writerow(values)
            self._has_header = True
        self._writer.writerow(values.values())
        self._stream.flush()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
