"""The same run on Ray (extra cluster): workers on one machine or many take files in batches.

    sources -- batches of files --> actor: model and decoders, open; runner.outcomes --> rows
                                --> actor: ...                                       --> rows

Every actor runs the very stages of the local engine on its files, so that rows are the same, and
windows, which are a hundred times larger than rows, never travel. When an actor dies Ray starts
another and gives it the files again. The journal and the output stay with who started the run.

Every machine needs this version of loev, the model, and the files under the same paths or URLs.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loev_cli import bundle as bundles
from loev_cli.audio import Source
from loev_cli.backends import Encoder, open_encoder
from loev_cli.backends.machine import usable_cpus
from loev_cli.embed.pipeline import Settings, actual, outcomes
from loev_cli.embed.report import Stats
from loev_cli.errors import InputError, LoevError, UsageError, needs_extra
from loev_cli.formats import Meta, Row

# Files that a worker takes at once for each of its decoders, which are started anew for them: what
# is done again if it dies. Fewer if that keeps all workers at work to the end.
_MOST_AT_ONCE = 16
_TURNS = 4
_OBJECT_STORE_N_BYTES = 256 << 20
_TIMES = ("decode_s", "decoders_blocked_s", "encode_s")


@dataclass(frozen=True)
class Workers:
    """What each worker opens, and how many there are.

    Attributes:
        bundle: the model's folder.
        subspaces, backend, device, precision: as for
            :func:`loev_cli.backends.open_encoder`.
        cpu_settings, gpu_settings: how a worker runs that has a core, or a GPU.
        count: how many; None: as many as the cluster has cores for, or GPUs.
    """

    bundle: Path
    subspaces: tuple[str, ...]
    backend: str
    device: str
    precision: str
    cpu_settings: Settings
    gpu_settings: Settings
    count: int | None = None

    @property
    def use_gpus(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def settings(self) -> Settings:
        return self.gpu_settings if self.use_gpus else self.cpu_settings

    def open(self) -> Encoder:
        """The model, on the GPU that Ray lets this process see, or on the CPU."""
        return open_encoder(
            bundles.load(self.bundle),
            backend=self.backend,
            device="cuda" if self.use_gpus else "cpu",
            precision=self.precision,
            subspaces=list(self.subspaces),
            n_threads=1 if self.backend != "torch" else None,
        )


@contextlib.contextmanager
def on_cluster(
    sources: Sequence[Source], workers: Workers
) -> Iterator[tuple[Meta, Stats, Iterator[tuple[int, Row | InputError]]]]:
    """Workers on the cluster that RAY_ADDRESS names, or without one on this machine, embed
    ``sources``.

    Gives what they add to ``meta``, where their time goes, summed up, and for each source its index
    with its row or why there is none. Who stops before the end leaves the context, which ends them.

    Raises:
        MissingExtraError: Ray is not installed.
        LoevError: Ray failed, or the model cannot be opened on a worker.
    """
    with needs_extra("--engine ray", "cluster"):
        ray: Any = importlib.import_module("ray")
        pool: Any = importlib.import_module("ray.util").ActorPool
    with _connected(ray):
        has_gpus = ray.cluster_resources().get("GPU", 0) >= 1
        if workers.device == "auto":
            workers = replace(workers, device="cuda" if has_gpus else "cpu")
        if workers.use_gpus and not has_gpus:  # Ray would wait for one to come
            raise UsageError("--device cuda: no machine of the Ray cluster has a GPU")
        n_places = int(ray.cluster_resources().get("GPU" if workers.use_gpus else "CPU", 1))
        settings = workers.settings
        batches = _batches(sources, n_places, most=_MOST_AT_ONCE * settings.n_workers)
        n_workers = max(1, min(workers.count or n_places, n_places, len(batches)))
        worker = ray.remote(
            num_cpus=1,
            num_gpus=1 if workers.use_gpus else 0,
            max_restarts=-1,
            max_task_retries=-1,
        )(_Worker)
        actors = [worker.remote(workers) for _ in range(n_workers)]
        try:
            try:
                origin: Meta = ray.get(actors[0].origin.remote())
            except ray.exceptions.RayError as error:
                raise _failed(error) from error
            stats = Stats(n_workers * settings.n_workers, n_workers * settings.n_encoders)
            in_order = settings.in_order
            yield origin, stats, _results(ray, pool(actors), batches, stats, in_order=in_order)
        finally:
            for actor in actors:
                ray.kill(actor)


def _batches(
    sources: Sequence[Source], n_places: int, *, most: int
) -> list[tuple[int, Sequence[Source]]]:
    """Index of the first, and the sources."""
    size = max(1, min(most, len(sources) // (_TURNS * n_places)))
    return [(i, sources[i : i + size]) for i in range(0, len(sources), size)]


def _results(
    ray: Any,
    pool: Any,
    batches: Sequence[tuple[int, Sequence[Source]]],
    stats: Stats,
    *,
    in_order: bool,
) -> Iterator[tuple[int, Row | InputError]]:
    began = time.monotonic()
    results = pool.map if in_order else pool.map_unordered
    try:
        for found, times in results(lambda actor, batch: actor.embed.remote(*batch), batches):
            yield from found
            totals = {name: getattr(stats, name) + seconds for name, seconds in times.items()}
            stats.update(wall_s=time.monotonic() - began, **totals)
    except ray.exceptions.RayError as error:
        raise _failed(error) from error


class _Worker:
    """An actor: a model, open, that embeds batches of files."""

    def __init__(self, workers: Workers) -> None:
        self._settings = workers.settings
        self._encoder = workers.open()

    def origin(self) -> Meta:
        return actual(self._encoder)

    def embed(
        self, first: int, sources: Sequence[Source]
    ) -> tuple[list[tuple[int, Row | InputError]], dict[str, float]]:
        """Of sources from the ``first`` on: index and outcome; and where the time went."""
        stats = Stats(self._settings.n_workers, self._settings.n_encoders)
        results = outcomes(sources, self._encoder, self._settings, stats)
        found = [(first + i, _portable(outcome)) for i, outcome in results]
        return found, {name: getattr(stats, name) for name in _TIMES}


def _portable(outcome: Row | InputError) -> Row | InputError:
    """An error keeps the kind of its cause, which does not travel."""
    if isinstance(outcome, InputError):
        outcome.kind = outcome.kind or type(outcome.__cause__ or outcome).__name__
    return outcome


# ---------------------------------------------------------------- Ray itself


@contextlib.contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Ray, connected; what we started ends with us, an existing cluster keeps running."""
    for handler in logging.getLogger("ray").handlers:  # no news to our users
        handler.setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    in_main_thread = threading.current_thread() is threading.main_thread()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    local = {"object_store_memory": _OBJECT_STORE_N_BYTES, "num_cpus": usable_cpus()}
    if os.environ.get("RAY_ADDRESS"):
        local = {}
    try:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="error", **local)
        if in_main_thread:  # Ray puts its own in the place of ours
            signal.signal(signal.SIGTERM, on_sigterm)
        yield
    except (ConnectionError, ray.exceptions.RaySystemError) as error:
        raise LoevError(f"cannot start Ray: {_in_short(error)}") from error
    finally:
        ray.shutdown()


def _failed(error: BaseException) -> LoevError:
    """What a worker raised, if that was ours, or what Ray says."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LoevError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return LoevError(f"Ray: {_in_short(error)}")


def _in_short(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-1].split()) if lines else type(error).__name__
