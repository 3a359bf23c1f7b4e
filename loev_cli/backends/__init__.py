"""Run a model bundle: windows of waveform in, one vector per subspace out.

Every backend is one file that defines ``open_encoder``; adding one touches that file and
``BACKENDS``. An encoder's rows do not depend on each other: what else is in a batch, and how
large it is, changes a vector by less than 1e-5 in fp32.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from loev_cli.bundle import Bundle
from loev_cli.errors import UsageError, did_you_mean

# Name on the command line -> module that defines open_encoder().
BACKENDS = {"onnx": "loev_cli.backends.ort", "torch": "loev_cli.backends.pytorch"}
_DEFAULT_BACKEND = "onnx"
PRECISIONS = ("fp32", "fp16", "bf16")


class Encoder(Protocol):
    """A model ready to run.

    Attributes:
        bundle: the model.
        backend: ``onnx`` or ``torch``.
        device: where it runs: ``cpu`` or ``cuda:N``.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        subspaces: name -> dimension D of what :meth:`encode` gives, in the model's order.
        unused_gpu: why a GPU that is there was not taken by ``auto``; None if none is, or it was.
    """

    bundle: Bundle
    backend: str
    device: str
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
        device: ``auto`` (a CUDA device if it really opens, else the CPU), ``cpu``, ``cuda`` or
            ``cuda:N``.
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
    return module.open_encoder(
        bundle,
        device=_normal_device(device),
        precision="fp32" if precision == "auto" else precision,
        n_threads=n_threads,
        subspaces=chosen,
    )


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
            meant = did_you_mean(name, known, cutoff=0.4)
            raise UsageError(
                f"model {bundle.name} has no subspace '{name}'",
                hint=f"{meant}it has {', '.join(known)}",
            )
    if not names:
        raise UsageError("no subspace asked for", hint=f"{bundle.name} has {', '.join(known)}")
    return {name: dim for name, dim in known.items() if name in names}


def _normal_device(device: str) -> str:
    """``auto``, ``cpu`` or ``cuda:N``."""
    if device in ("auto", "cpu"):
        return device
    kind, _, index = device.partition(":")
    if kind == "cuda" and (device == "cuda" or index.isdecimal()):
        return f"cuda:{int(index or 0)}"
    raise UsageError(f"unknown device '{device}'", hint="auto, cpu, cuda or cuda:N")
