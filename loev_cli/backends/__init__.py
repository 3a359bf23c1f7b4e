"""Run a model bundle: windows of waveform in, one vector per subspace out.

Every backend is one file that defines ``open_encoder``; adding one touches that file and
``BACKENDS``. An encoder's rows do not depend on each other: what else is in a batch, and how
large it is, changes a vector by less than 1e-5 in fp32.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from loev_cli.backends.machine import cuda_driver
from loev_cli.bundle import Bundle
from loev_cli.errors import UsageError, known_names

# Name on the command line -> module that defines open_encoder().
BACKENDS = {"onnx": "loev_cli.backends.ort", "torch": "loev_cli.backends.pytorch"}
_DEFAULT_BACKEND = "onnx"
_ALL_GPUS = "cuda:all"
PRECISIONS = ("fp32", "fp16", "bf16")


class Encoder(Protocol):
    """A model ready to run.

    Attributes:
        bundle: the model.
        backend: ``onnx`` or ``torch``.
        device: where it runs: ``cpu``, ``cuda:N`` or ``cuda:all``.
        n_devices: how many there are of it.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        subspaces: name -> dimension D of what :meth:`encode` gives, in the model's order.
        unused_gpu: why a GPU that is there was not taken by ``auto``; None if none is, or it was.
    """

    bundle: Bundle
    backend: str
    device: str
    n_devices: int
    precision: str
    subspaces: dict[str, int]
    unused_gpu: str | None

    def encode(self, windows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Windows (B, N) -> subspace name -> vectors (B, D), float32.

        ``N`` is the bundle's ``window_n_samples``; full scale is 1.

        Raises:
            LoevError: the backend failed, for instance for lack of memory.
        """
        ...

    def stop(self) -> None:
        """Let what :meth:`encode` computes in other threads end soon, by an error; from then on
        all it is asked for, until :meth:`restart`."""
        ...

    def restart(self) -> None:
        """Compute again after :meth:`stop`, when nothing that was stopped is under way any more."""
        ...


class _BackendModule(Protocol):
    def open_encoder(
        self,
        bundle: Bundle,
        *,
        device: str,
        precision: str,
        n_threads: int | None,
        subspaces: dict[str, int],
    ) -> Encoder: ...


def open_encoder(
    bundle: Bundle,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    n_threads: int | None = None,
    subspaces: Sequence[str] | None = None,
) -> Encoder:
    """Open a bundle for encoding.

    Args:
        bundle: the model.
        backend: ``auto`` (onnx), ``onnx`` or ``torch``.
        device: ``auto`` (a CUDA device if it really opens, else the CPU), ``cpu``, ``cuda``,
            ``cuda:N``, or ``cuda:all``: every CUDA device, each with the model.
        precision: ``auto`` (fp32), ``fp32``, ``fp16`` or ``bf16``.
        n_threads: CPU threads; default all usable cores.
        subspaces: which to compute; default all.

    Raises:
        UsageError: an unknown name, or a device or precision that is not to be had here.
        BundleError: the bundle's files are missing or damaged.
        MissingExtraError: the torch backend without torch.
    """
    chosen = select_subspaces(bundle, subspaces)
    name = _DEFAULT_BACKEND if backend == "auto" else backend
    if name not in BACKENDS:
        raise UsageError(f"unknown backend '{backend}'", hint=f"auto, {', '.join(BACKENDS)}")
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"unknown precision '{precision}'", hint=f"auto, {', '.join(PRECISIONS)}")
    module = cast(_BackendModule, importlib.import_module(BACKENDS[name]))

    def opened(device: str) -> Encoder:
        return module.open_encoder(
            bundle,
            device=device,
            precision="fp32" if precision == "auto" else precision,
            n_threads=n_threads,
            subspaces=chosen,
        )

    if device != _ALL_GPUS:
        return opened(_normal_device(device))
    driver = cuda_driver()
    if driver.problem is not None:
        raise UsageError(
            f"device {device} is not available: {driver.problem}",
            hint="--device cpu runs anywhere; see 'loev doctor'",
        )
    return EncoderPool([opened(f"cuda:{index}") for index in range(driver.n_devices)], device)


class EncoderPool:
    """An :class:`Encoder` made of several: each batch goes to one that has least to do."""

    def __init__(self, encoders: Sequence[Encoder], device: str) -> None:
        first = encoders[0]
        self.bundle = first.bundle
        self.backend = first.backend
        self.device = device
        self.n_devices = len(encoders)
        self.precision = first.precision
        self.subspaces = first.subspaces
        self.unused_gpu: str | None = None
        self._encoders = encoders
        self._n_under_way = [0] * len(encoders)
        self._lock = threading.Lock()

    def encode(self, windows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with self._lock:
            index = self._n_under_way.index(min(self._n_under_way))
            self._n_under_way[index] += 1
        try:
            return self._encoders[index].encode(windows)
        finally:
            with self._lock:
                self._n_under_way[index] -= 1

    def stop(self) -> None:
        for encoder in self._encoders:
            encoder.stop()

    def restart(self) -> None:
        for encoder in self._encoders:
            encoder.restart()


def select_subspaces(bundle: Bundle, names: Sequence[str] | None) -> dict[str, int]:
    """The named subspaces of a model with their dimensions, in the model's order; None: all.

    Raises:
        UsageError: a name the model does not have, saying the nearest one.
    """
    known = bundle.subspaces
    if names is None:
        return known
    for name in names:
        if name not in known:
            raise UsageError(
                f"model {bundle.name} has no subspace '{name}'",
                hint=known_names(name, known, cutoff=0.4),
            )
    if not names:
        raise UsageError("no subspaces requested", hint=f"{bundle.name} has {', '.join(known)}")
    return {name: dim for name, dim in known.items() if name in names}


def _normal_device(device: str) -> str:
    """``auto``, ``cpu`` or ``cuda:N``."""
    if device in ("auto", "cpu"):
        return device
    kind, _, index = device.partition(":")
    if kind == "cuda" and (device == "cuda" or index.isdecimal()):
        return f"cuda:{int(index or 0)}"
    raise UsageError(f"unknown device '{device}'", hint="auto, cpu, cuda, cuda:N or cuda:all")
