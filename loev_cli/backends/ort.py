"""Run a bundle's ``model.onnx`` with ONNX Runtime, on the CPU or with CUDA. Needs no torch."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from loev_cli.backends.machine import cuda_driver, usable_cpus
from loev_cli.bundle import CONFIG_FILE, ONNX_FILE, Bundle
from loev_cli.errors import BundleError, LoevError, UsageError

_log = logging.getLogger(__name__)

# ONNX Runtime's exceptions, one per status code, have no common base but Exception.
_ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(c for c in vars(ort_state).values() if isinstance(c, type) and issubclass(c, Exception)),
)
_FATAL_ONLY = 4
_INPUT = "waveform"


class OnnxEncoder:
    """An :class:`~loev_cli.backends.Encoder` on an ONNX Runtime session."""

    backend = "onnx"
    precision = "fp32"
    n_devices = 1
    unused_gpu: str | None = None

    def __init__(
        self,
        bundle: Bundle,
        session: ort.InferenceSession,
        device: str,
        subspaces: dict[str, int],
    ) -> None:
        self.bundle = bundle
        self.device = device
        self.subspaces = subspaces
        self._session = session
        self._options = _run_options()

    def encode(self, windows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        names = list(self.subspaces)
        try:
            vectors = self._run(names, windows)
        except _ORT_ERRORS as error:
            raise LoevError(
                f"the ONNX backend failed on {self.device} with {len(windows)} windows: "
                f"{_first_line(error)}",
                hint="try a smaller --batch-size, or --device cpu",
            ) from error
        return dict(zip(names, vectors, strict=True))

    def stop(self) -> None:
        self._options.terminate = True

    def restart(self) -> None:
        self._options = _run_options()

    def _run(self, names: list[str], windows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Run the graph, which may be one that never ends: a signal must be able to end it.

        Python handles signals in the main thread only, and not while that is in native code.
        """
        if threading.current_thread() is not threading.main_thread():
            return list(self._session.run(names, {_INPUT: windows}, self._options))
        with ThreadPoolExecutor(1, thread_name_prefix="encoder") as thread:
            run = thread.submit(self._session.run, names, {_INPUT: windows}, self._options)
            try:
                return list(run.result())
            except BaseException:
                if not run.done():
                    self.stop()
                raise


def open_encoder(
    bundle: Bundle,
    *,
    device: str,
    precision: str,
    n_threads: int | None,
    subspaces: dict[str, int],
) -> OnnxEncoder:
    """See :func:`loev_cli.backends.open_encoder`; ``device`` is ``auto``, ``cpu`` or ``cuda:N``.

    Raises:
        UsageError: CUDA was asked for and cannot be had, or a precision other than fp32.
        BundleError: ``model.onnx`` is missing, damaged, or not the model its config describes.
    """
    if precision != "fp32":
        raise UsageError(
            f"{precision} is not available with ONNX",
            hint=f"{precision} runs with --backend torch on a CUDA device",
        )
    file = bundle.verified(ONNX_FILE)
    ort.set_default_logger_severity(_FATAL_ONLY)
    session: ort.InferenceSession | None = None
    problem: str | None = None
    opened = "cpu"
    if device != "cpu":
        wanted = "cuda:0" if device == "auto" else device
        session, problem = _open_cuda(file, int(wanted.partition(":")[2]), n_threads)
        if session is not None:
            opened = wanted
        elif device == "auto":
            _log.debug("not using CUDA: %s", problem)
        else:
            raise UsageError(
                f"device {device} is not available with ONNX: {problem}",
                hint="--device cpu runs anywhere; see 'loev doctor'",
            )
    if session is None:
        session = _open_session(file, ["CPUExecutionProvider"], n_threads)
    _check_contract(bundle, session)
    encoder = OnnxEncoder(bundle, session, opened, subspaces)
    if problem is not None and cuda_driver().problem is None:
        encoder.unused_gpu = problem
    return encoder


def cuda_problem(bundle: Bundle) -> str | None:
    """Why ONNX Runtime cannot run this bundle with CUDA here; None if it can. For diagnosis."""
    return _open_cuda(bundle.verified(ONNX_FILE), 0, None)[1]


def _open_cuda(
    file: Path, index: int, n_threads: int | None
) -> tuple[ort.InferenceSession | None, str | None]:
    """A session on CUDA device ``index``, or the reason why there is none."""
    available = ort.get_available_providers()
    if "CUDAExecutionProvider" not in available:
        return None, f"this onnxruntime has no CUDA provider, only {', '.join(available)}"
    driver = cuda_driver()
    if driver.problem is not None:
        return None, driver.problem
    if index >= driver.n_devices:
        return None, f"no device {index}, the driver lists {driver.n_devices}"
    # CUDA and cuDNN as pip packages are found by this; it prints what it does not find.
    with contextlib.redirect_stdout(io.StringIO()) as messages:
        ort.preload_dlls()
    options: dict[str, Any] = {
        "device_id": index,
        "use_tf32": 0,  # fp32 means fp32: TF32 would differ from the CPU in the third digit
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    try:
        session = _open_session(
            file, [("CUDAExecutionProvider", options), "CPUExecutionProvider"], n_threads
        )
    except BundleError as error:
        return None, f"the CUDA provider cannot be opened: {error.message}"
    # A provider whose libraries are missing is dropped silently; the session tells.
    if "CUDAExecutionProvider" not in session.get_providers():
        detail = " ".join(messages.getvalue().split())
        return None, f"the CUDA provider cannot be loaded; are CUDA and cuDNN installed? {detail}"
    return session, None


def _open_session(file: Path, providers: list[Any], n_threads: int | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = n_threads or usable_cpus()
    options.inter_op_num_threads = 1
    # By its name, whatever its content says: only an ONNX file has been looked into.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Spinning threads would take the cores that decode the next files.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(file, options, providers=providers, enable_fallback=0)
    except _ORT_ERRORS as error:
        raise BundleError(
            f"ONNX Runtime cannot open {file}: {_first_line(error)}", hint="export the model again"
        ) from error


def _check_contract(bundle: Bundle, session: ort.InferenceSession) -> None:
    """Compare the graph's names and sizes with the config; a size it leaves open is trusted."""
    nodes = {node.name: node.shape for node in (*session.get_inputs(), *session.get_outputs())}
    for name, size in {_INPUT: bundle.window_n_samples, **bundle.subspaces}.items():
        shape = nodes.get(name)
        if shape is None:
            problem = f"it has no {name}"
        elif shape and isinstance(shape[-1], int) and shape[-1] != size:
            problem = f"{name} has {shape[-1]} values, not {size}"
        else:
            continue
        raise BundleError(
            f"{bundle.path / ONNX_FILE} does not match {CONFIG_FILE}: {problem}",
            hint="export the model again",
        )


def _run_options() -> ort.RunOptions:
    options = ort.RunOptions()
    options.log_severity_level = _FATAL_ONLY
    # Meant to leave out what nobody asked for; builds for inference (1.31) take no notice.
    options.only_execute_path_to_fetches = True
    return options


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
