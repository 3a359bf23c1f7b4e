"""What a user asks for, and the part of a library that one job of an array does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loev_cli import bundle as bundles
from loev_cli.annotations import BpmRange
from loev_cli.audio import DEFAULT_TIMEOUT_S, Source
from loev_cli.errors import UsageError
from loev_cli.storage.remote import DEFAULT_LIMITS, Limits

AUTO = "auto"
_SPELLED = re.compile(r"([1-9]\d*)/([1-9]\d*)")


@dataclass(frozen=True)
class Shard:
    """The ``index``-th of ``count`` parts, from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, path: str) -> bool:
        """Whether the track of that row name is in this part. The same on every machine."""
        digest = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index - 1

    def of(self, sources: Sequence[Source]) -> list[Source]:
        """The sources in this part."""
        return [source for source in sources if self.holds(source.path)]


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """``3/8``, or ``auto``: from what the scheduler of an array job says in the environment.

    Raises:
        UsageError: it is neither, or there is no such scheduler.
    """
    if text == AUTO:
        return _from_scheduler(environment)
    match = _SPELLED.fullmatch(text)
    if not match or int(match[1]) > int(match[2]):
        raise UsageError(
            f"invalid --shard '{text}'", hint="I/N with 1 <= I <= N, as in 3/8, or auto"
        )
    return Shard(int(match[1]), int(match[2]))


def _from_scheduler(environment: Mapping[str, str]) -> Shard:
    def number(name: str, default: int | None = None) -> int:
        value = environment.get(name)
        if value is None and default is not None:
            return default
        if value is None or not re.fullmatch(r"\d+", value):
            raise UsageError(f"--shard auto: {name} is '{value or ''}', not a number")
        return int(value)

    if "SLURM_ARRAY_TASK_ID" in environment:
        first = number("SLURM_ARRAY_TASK_MIN", 0)
        step = max(1, number("SLURM_ARRAY_TASK_STEP", 1))
        count = number("SLURM_ARRAY_TASK_COUNT")
        return _of_task(number("SLURM_ARRAY_TASK_ID"), first, step, count)
    # SGE sets "undefined" outside array jobs.
    if environment.get("SGE_TASK_ID", "undefined") != "undefined":
        first, step = number("SGE_TASK_FIRST"), max(1, number("SGE_TASK_STEPSIZE", 1))
        count = (number("SGE_TASK_LAST") - first) // step + 1
        return _of_task(number("SGE_TASK_ID"), first, step, count)
    if "PBS_ARRAY_INDEX" in environment or "PBS_ARRAYID" in environment:
        name = "PBS_ARRAY_INDEX" if "PBS_ARRAY_INDEX" in environment else "PBS_ARRAYID"
        if "LOEV_SHARDS" not in environment:
            raise UsageError(
                "--shard auto: PBS does not report the number of tasks in the array",
                hint="set LOEV_SHARDS=N and count from 1, or use --shard $PBS_ARRAY_INDEX/N",
            )
        return _of_task(number(name), 1, 1, number("LOEV_SHARDS"))
    raise UsageError(
        "--shard auto: not running inside a Slurm, SGE or PBS array job", hint="as in --shard 3/8"
    )


def _of_task(task: int, first: int, step: int, count: int) -> Shard:
    index = (task - first) // step + 1
    if (task - first) % step or not 1 <= index <= count:
        raise UsageError(
            f"--shard auto: task {task} is not one of {count} from {first} in steps of {step}",
            hint="name the part: --shard I/N",
        )
    return Shard(index, count)


@dataclass(frozen=True)
class Request:
    """What to embed, with which model, into what; the options of ``loev embed``.

    None means: the default that fits the model or the machine.
    """

    inputs: Sequence[str]
    out: str | None
    model: str = bundles.DEFAULT_MODEL
    subspaces: Sequence[str] | None = None
    per_window: bool = False
    tags: bool = False
    annotate: bool = False
    bpm_range: BpmRange | None = None
    hop_s: float | None = None
    device: str = "auto"
    backend: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    engine: str = "local"
    file_timeout_s: float = DEFAULT_TIMEOUT_S
    download_limits: Limits = DEFAULT_LIMITS
    shard: Shard | None = None
    prune: bool = False
    strict: bool = False
    overwrite: bool = False
    null: bool = False
