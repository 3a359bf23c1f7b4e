"""Run a bundle's ``model.safetensors`` with torch, on the CPU or with CUDA. Needs ``[train]``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from loev_cli.backends.machine import cuda_driver, usable_cpus
from loev_cli.bundle import Bundle
from loev_cli.errors import LoevError, UsageError, needs_extra

with needs_extra("the torch backend", "train"):
    import torch

    from loev_cli.model import load_model
    from loev_cli.model.layers import fold_weights

_log = logging.getLogger(__name__)

_AUTOCAST_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class TorchEncoder:
    """An :class:`~loev_cli.backends.Encoder` on a torch module."""

    backend = "torch"
    n_devices = 1
    unused_gpu: str | None = None

    def __init__(
        self,
        bundle: Bundle,
        module: torch.nn.Module,
        device: str,
        precision: str,
        subspaces: dict[str, int],
    ) -> None:
        self.bundle = bundle
        self.device = device
        self.precision = precision
        self.subspaces = subspaces
        self._module = module

    def encode(self, windows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        try:
            with torch.inference_mode(), self._numerics():
                waveform = torch.from_numpy(windows).to(self.device)
                vectors = self._module(waveform)
                return {name: vectors[name].float().cpu().numpy() for name in self.subspaces}
        except RuntimeError as error:  # out of memory is one of them
            reason = str(error).strip().splitlines()[0]
            raise LoevError(
                f"the torch backend failed on {self.device} with {len(windows)} windows: {reason}",
                hint="try a smaller --batch-size, or --device cpu",
            ) from error

    def stop(self) -> None:
        """Nothing to do: the module is our own code, which ends."""

    def restart(self) -> None:
        """Nothing to do: it was not stopped."""

    @contextlib.contextmanager
    def _numerics(self) -> Iterator[None]:
        """fp32 means fp32 (no TF32 in convolutions); fp16 and bf16 are autocast."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
            if self.precision != "fp32":
                stack.enter_context(torch.autocast("cuda", dtype=_AUTOCAST_TYPES[self.precision]))
            yield


def open_encoder(
    bundle: Bundle,
    *,
    device: str,
    precision: str,
    n_threads: int | None,
    subspaces: dict[str, int],
) -> TorchEncoder:
    """See :func:`loev_cli.backends.open_encoder`; ``device`` is ``auto``, ``cpu`` or ``cuda:N``.

    Raises:
        UsageError: CUDA was asked for and cannot be had, or fp16 or bf16 on the CPU.
        BundleError: ``model.safetensors`` is missing or damaged.
    """
    problem = cuda_problem(0 if device == "auto" else int(device.partition(":")[2] or 0))
    if device == "auto":
        if problem:
            _log.debug("not using CUDA: %s", problem)
        device = "cpu" if problem else "cuda:0"
    elif device != "cpu" and problem:
        raise UsageError(
            f"device {device} is not available with torch: {problem}",
            hint="--device cpu runs anywhere; see 'loev doctor'",
        )
    if precision != "fp32" and device == "cpu":
        raise UsageError(
            f"{precision} is not available on the CPU",
            hint=f"{precision} runs with --backend torch on a CUDA device",
        )
    # By itself torch knows the affinity, and nothing of quotas.
    torch.set_num_threads(n_threads or min(torch.get_num_threads(), usable_cpus()))
    module = load_model(bundle)
    fold_weights(module)
    encoder = TorchEncoder(bundle, module.to(device), device, precision, subspaces)
    if problem is not None and cuda_driver().problem is None:
        encoder.unused_gpu = problem
    return encoder


def cuda_problem(index: int = 0) -> str | None:
    """Why torch cannot use CUDA device ``index`` here; None if it can."""
    if not torch.cuda.is_available():
        built = torch.version.cuda
        return "torch finds no CUDA device" if built else "this torch is built without CUDA"
    if index >= torch.cuda.device_count():
        return f"no device {index}, torch lists {torch.cuda.device_count()}"
    return None
