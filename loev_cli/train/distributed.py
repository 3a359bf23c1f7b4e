"""Several processes that train one model, started by ``torchrun``; one process is the simple case.

Every process (rank) makes its part of the batch and its part of the gradient; projections and
labels go to all of them, so that every row has the negatives of the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from loev_cli.errors import LoevError, UsageError

# Reading audio on rank 0 may take hours while the others wait; a step never takes half an hour.
_WAIT_FOR_AUDIO = timedelta(days=7)
_WAIT_FOR_STEP = timedelta(minutes=30)


class Group:
    """The processes of a run. This class is the single-process one (no-op collectives).

    Attributes:
        rank: number of this process, from 0.
        world_size: how many there are.
    """

    rank = 0
    world_size = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files and talks to the user."""
        return self.rank == 0

    def gather(self, x: Tensor) -> Tensor:
        """Rows of all ranks, in order: (R, ...) -> (world_size R, ...), without gradient."""
        return x.detach()

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by the sum over ranks."""

    def from_main(self, value: float) -> float:
        """The number that rank 0 has."""
        return value

    def wait_for_all(self) -> None:
        """Returns when every rank has come here."""


class ProcessGroup(Group):
    """Ranks that talk by gloo (CPU) or NCCL (CUDA)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self._patient = dist.new_group(backend="gloo", timeout=_WAIT_FOR_AUDIO)

    def gather(self, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(self.world_size)]
        with _peers_may_fail():
            dist.all_gather(parts, x.detach().contiguous())
        return torch.cat(parts)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])  # one message instead of hundreds
        with _peers_may_fail():
            dist.all_reduce(flat)
        parts = torch.split(flat, [g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def from_main(self, value: float) -> float:
        box = torch.tensor([value], dtype=torch.float64, device=self.device)
        with _peers_may_fail():
            dist.broadcast(box, src=0)
        return float(box)

    def wait_for_all(self) -> None:
        with _peers_may_fail():
            dist.barrier(group=self._patient)


@contextmanager
def process_group(device: torch.device) -> Iterator[Group]:
    """The group that the environment describes (``torchrun`` sets it); alone without one.

    Raises:
        LoevError: the other processes cannot be reached.
    """
    if not started_by_torchrun():
        yield Group()
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=_WAIT_FOR_STEP)
        group = ProcessGroup(device)
    except (RuntimeError, ValueError) as error:
        raise LoevError(f"cannot join the other training processes: {error}") from error
    try:
        yield group
    finally:
        with suppress(RuntimeError):  # the peer's exit was already reported
            dist.destroy_process_group()


def started_by_torchrun() -> bool:
    """Whether this process is one of several (or of one, in a group all the same)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_main_process() -> bool:
    """Whether this process is the one that shows progress, before there is a group."""
    return os.environ.get("RANK", "0") == "0"


def local_rank() -> int:
    """Number of this process on its machine: which CUDA device it takes."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def check_batch(batch_size: int, world_size: int) -> None:
    """Raises UsageError where a batch cannot be shared out evenly."""
    if batch_size % world_size:
        raise UsageError(
            f"a batch of {batch_size} tracks is not divisible by {world_size} processes",
            hint=f"use --batch-size {batch_size - batch_size % world_size or world_size}",
        )


def gather_all(group: Group, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """:meth:`Group.gather` of every entry."""
    return {name: group.gather(value) for name, value in values.items()}


@contextmanager
def _peers_may_fail() -> Iterator[None]:
    """A dead rank surfaces as an obscure error in the others."""
    try:
        yield
    except RuntimeError as error:
        raise LoevError(
            "another training process of this run has stopped", hint="see its own error"
        ) from error
