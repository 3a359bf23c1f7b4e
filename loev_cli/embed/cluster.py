"""The same run on Ray (extra cluster): workers on one machine or many take files in batches.

    sources -- Ray Data: batches of files --> actor: open the model once, runner.outcomes --> rows
                                           --> actor: ...                                  --> rows

Every actor runs the very stages of the local engine on its files, so that rows are the same, and
windows, which are a hundred times larger than rows, never travel. When an actor dies Ray starts
another and gives it the files again. The journal and the output stay with who started the run.

Every machine needs this version of loev, the model, and the files under the same paths or URLs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli import bundle as bundles
from loev_cli.audio import Source
from loev_cli.backends import Encoder, open_encoder
from loev_cli.backends.machine import usable_cpus
from loev_cli.embed.pipeline import Settings, actual, outcomes
from loev_cli.embed.report import Stats
from loev_cli.errors import InputError, LoevError, UsageError, needs_extra
from loev_cli.formats import Meta, Row
from loev_cli.storage.remote import RemoteFile

# Files that a worker takes at once: what is done again if it dies.
_HANDFUL = 8
_OBJECT_STORE_N_BYTES = 256 << 20
_NO_TRACK = -1
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
        importlib.import_module("ray.data")
    with _connected(ray):
        has_gpus = ray.cluster_resources().get("GPU", 0) >= 1
        if workers.device == "auto":
            workers = replace(workers, device="cuda" if has_gpus else "cpu")
        if workers.use_gpus and not has_gpus:  # Ray would wait for one to come
            raise UsageError("--device cuda: no machine of the Ray cluster has a GPU")
        resources = {"num_cpus": 1, "num_gpus": 1 if workers.use_gpus else 0}
        n_places = int(ray.cluster_resources().get("GPU" if workers.use_gpus else "CPU", 1))
        n_workers = max(1, min(workers.count or n_places, n_places, -(-len(sources) // _HANDFUL)))
        try:
            opened = ray.remote(**resources)(_describe).remote(workers)
            origin: Meta = ray.get(opened)
        except ray.exceptions.RayError as error:
            raise _failed(error) from error
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = workers.settings.in_order
        items = [
            {"track": i, "source": json.dumps(asdict(source))} for i, source in enumerate(sources)
        ]
        # A block is a small batch of files, repeated as a whole if its worker dies.
        dataset = ray.data.from_items(items, override_num_blocks=-(-len(items) // _HANDFUL))
        embedded = dataset.map_batches(
            _Embedder,
            fn_constructor_args=(workers,),
            batch_size=_HANDFUL,
            compute=ray.data.ActorPoolStrategy(size=n_workers),
            **resources,
        )
        settings = workers.settings
        stats = Stats(n_workers * settings.n_workers, n_workers * settings.n_encoders)
        yield origin, stats, _results(ray, embedded, sources, stats)


def _results(
    ray: Any, embedded: Any, sources: Sequence[Source], stats: Stats
) -> Iterator[tuple[int, Row | InputError]]:
    began = time.monotonic()
    try:
        for record in embedded.iter_rows():
            head, track = json.loads(record["head"]), int(record["track"])
            if track != _NO_TRACK:
                yield track, _unpacked(head, record["values"], sources[track].path)
                continue
            times = {name: getattr(stats, name) + seconds for name, seconds in head.items()}
            stats.update(wall_s=time.monotonic() - began, **times)
    except ray.exceptions.RayError as error:
        raise _failed(error) from error


def _describe(workers: Workers) -> Meta:
    return actual(workers.open())


class _Embedder:
    """An actor: a model, open, that embeds batches of files."""

    def __init__(self, workers: Workers) -> None:
        self._settings = workers.settings
        self._encoder = workers.open()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        sources = [_source(text) for text in batch["source"]]
        stats = Stats(self._settings.n_workers, self._settings.n_encoders)
        records: dict[str, list[Any]] = {"track": [], "head": [], "values": []}

        def add(track: int, head: dict[str, Any], values: bytes = b"") -> None:
            records["track"].append(track)
            records["head"].append(json.dumps(head))
            records["values"].append(values)

        for i, outcome in outcomes(sources, self._encoder, self._settings, stats):
            add(int(batch["track"][i]), *_packed(outcome))
        add(_NO_TRACK, {name: getattr(stats, name) for name in _TIMES})
        return records


# ---------------------------------------------------------------- what travels


def _source(text: str) -> Source:
    content = json.loads(text)
    elsewhere = content["remote"]
    remote = None if elsewhere is None else RemoteFile(**elsewhere)
    return Source(content["path"], content["location"], remote)


def _packed(outcome: Row | InputError) -> tuple[dict[str, Any], bytes]:
    if isinstance(outcome, InputError):
        kind = outcome.kind or type(outcome.__cause__ or outcome).__name__
        error = {"message": outcome.message, "stage": outcome.stage, "hint": outcome.hint}
        return {"error": error | {"kind": kind}}, b""
    arrays = list(outcome.vectors.values())
    if outcome.start_s is not None:
        arrays.append(outcome.start_s)
    head = {
        "duration_s": outcome.duration_s,
        "silent": outcome.silent,
        "shapes": {name: vector.shape for name, vector in outcome.vectors.items()},
        "tags": dict(outcome.tags),
        "per_window": outcome.start_s is not None,
        "warnings": list(outcome.warnings),
    }
    return head, b"".join(np.ascontiguousarray(a, "<f4").tobytes() for a in arrays)


def _unpacked(head: dict[str, Any], values: bytes, path: str) -> Row | InputError:
    if "error" in head:
        error = head["error"]
        return InputError(
            error["message"], stage=error["stage"], kind=error["kind"], hint=error["hint"]
        )
    flat: NDArray[np.float32] = np.frombuffer(values, "<f4").astype(np.float32, copy=False)
    vectors, at = {}, 0
    for name, shape in head["shapes"].items():
        n = int(np.prod(shape))
        vectors[name] = flat[at : at + n].reshape(shape)
        at += n
    start_s = flat[at:] if head["per_window"] else None
    return Row(
        path,
        head["duration_s"],
        head["silent"],
        vectors,
        start_s,
        head["tags"],
        warnings=head["warnings"],
    )


# ---------------------------------------------------------------- Ray itself


@contextlib.contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Ray, connected; what we started ends with us, an existing cluster keeps running."""
    for name in ("ray", "ray.data"):  # what it tells of itself is no news to our users
        for handler in logging.getLogger(name).handlers:
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
