"""Running a bundle."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from loev_cli import bundle as bundles
from loev_cli.backends import EncoderPool, machine, open_encoder, ort, select_subspaces
from loev_cli.backends.machine import CudaDriver
from loev_cli.bundle import Bundle
from loev_cli.errors import BundleError, LoevError, UsageError
from tests.conftest import RATE_HZ, SUBSPACES, WINDOW_N, environment, music, write_config


def windows(n: int) -> NDArray[np.float32]:
    return music(n * WINDOW_N / RATE_HZ).reshape(n, WINDOW_N)


def expected(bundle: Bundle, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """The tiny model written out in numpy."""
    from safetensors.numpy import load_file

    vectors = {}
    for name, weights in load_file(bundle.path / bundles.WEIGHTS_FILE).items():
        frames = np.lib.stride_tricks.sliding_window_view(batch, 100, axis=1)[:, ::50]
        vectors[name] = np.maximum(frames.astype(np.float64) @ weights[:, 0].T, 0).mean(axis=1)
    return vectors


def test_onnx_gives_a_vector_per_window_and_subspace(bundle: Bundle) -> None:
    encoder = open_encoder(bundle, device="cpu")
    assert (encoder.backend, encoder.device, encoder.precision) == ("onnx", "cpu", "fp32")
    assert encoder.subspaces == SUBSPACES
    batch = windows(5)
    vectors = encoder.encode(batch)
    assert list(vectors) == list(SUBSPACES)
    for name, values in expected(bundle, batch).items():
        assert vectors[name].dtype == np.float32
        np.testing.assert_allclose(vectors[name], values, atol=1e-6)


def test_a_vector_does_not_depend_on_its_batch(bundle: Bundle) -> None:
    encoder = open_encoder(bundle)
    batch = windows(9)
    together = encoder.encode(batch)
    backwards = encoder.encode(batch[::-1].copy())
    for i in range(9):
        alone = encoder.encode(batch[i : i + 1])
        for name in SUBSPACES:
            np.testing.assert_allclose(alone[name][0], together[name][i], atol=1e-6)
            np.testing.assert_allclose(backwards[name][8 - i], together[name][i], atol=1e-6)


def test_only_the_asked_for_subspaces_in_the_models_order(bundle: Bundle) -> None:
    encoder = open_encoder(bundle, subspaces=["tempo", "invariant"])
    assert list(encoder.encode(windows(1))) == ["invariant", "tempo"]


def test_an_unknown_subspace_names_the_nearest(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'pitch'.*invariant, pitch, tempo"):
        select_subspaces(bundle, ["pich"])
    with pytest.raises(UsageError, match=r"'zzz' \(it has invariant"):
        select_subspaces(bundle, ["zzz"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "jax"}, "unknown backend 'jax'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "cuda:x"}, "unknown device 'cuda:x'"),
        ({"device": "cuda:"}, "unknown device 'cuda:'"),
        ({"precision": "int8"}, "unknown precision 'int8'"),
        ({"precision": "fp16"}, "fp16 runs with --backend torch on a CUDA device"),
        ({"device": "cuda:99"}, "device cuda:99 is not available with ONNX: "),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(
    bundle: Bundle, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        open_encoder(bundle, **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_auto_falls_back_to_the_cpu_and_tells_the_log(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ort, "cuda_driver", lambda: machine.CudaDriver(0, "no driver here"))
    with caplog.at_level("DEBUG", logger="loev_cli"):
        assert open_encoder(bundle, device="auto").device == "cpu"
    if "CUDAExecutionProvider" in ort.ort.get_available_providers():
        assert "not using CUDA: no driver here" in caplog.text


def test_onnx_runtime_prints_nothing(bundle: Bundle) -> None:
    code = (
        "from loev_cli import bundle, backends; from pathlib import Path; "
        f"backends.open_encoder(bundle.load(Path({str(bundle.path)!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment(), check=True
    )
    assert done.stdout + done.stderr == b""


def test_the_machine_has_a_core() -> None:
    assert machine.usable_cpus() >= 1


# ---------------------------------------------------------------- damaged bundles


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


def test_a_changed_byte_is_found(copy: Path) -> None:
    file = copy / bundles.ONNX_FILE
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match="damaged: its checksum"):
        open_encoder(bundles.load(copy))


def test_a_file_that_is_no_model_is_found(copy: Path) -> None:
    (copy / bundles.ONNX_FILE).write_bytes(b"junk" * 100)
    write_config(copy)
    with pytest.raises(BundleError, match="cannot open"):
        open_encoder(bundles.load(copy), device="cpu")


def test_a_model_that_is_not_its_configs_is_found(copy: Path) -> None:
    for changes, problem in (
        ({"subspaces": {**SUBSPACES, "timbre": 8}}, "it has no timbre"),
        ({"subspaces": {"pitch": 7}}, "pitch has 4 values, not 7"),
        ({"window_n_samples": 77}, "waveform has 4000 values, not 77"),
    ):
        write_config(copy, **changes)
        with pytest.raises(BundleError, match=problem):
            open_encoder(bundles.load(copy))


def test_a_model_file_that_cannot_be_read(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Path) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(bundles, "file_record", refuse)
    with pytest.raises(BundleError, match=r"cannot read .*model\.onnx: Permission denied"):
        open_encoder(bundle)


def test_a_backend_failure_is_no_traceback(bundle: Bundle) -> None:
    encoder = open_encoder(bundle, device="cpu")
    with pytest.raises(LoevError, match="the ONNX backend failed on cpu with 2 windows"):
        encoder.encode(np.zeros((2, WINDOW_N + 1), np.float32))


# ---------------------------------------------------------------- torch


@pytest.fixture(scope="module")
def torch_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The real architecture with random weights, without its ONNX graph."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from loev_cli.model import LoevModel, ModelSpec

    torch.manual_seed(0)
    model = LoevModel(ModelSpec())
    folder = tmp_path_factory.mktemp("torch")
    save_file(model.state_dict(), folder / bundles.WEIGHTS_FILE)
    (folder / bundles.ONNX_FILE).touch()
    write_config(folder, **model.spec.to_config(), subspaces=model.subspaces)
    return bundles.load(folder)


def test_torch_gives_the_same_shapes_and_no_dependence_on_the_batch(torch_bundle: Bundle) -> None:
    encoder = open_encoder(torch_bundle, backend="torch", device="cpu", subspaces=["tempo"])
    assert (encoder.backend, encoder.device, encoder.precision) == ("torch", "cpu", "fp32")
    seconds = 2 * torch_bundle.window_s
    batch = music(seconds, rate_hz=torch_bundle.sample_rate_hz)
    batch = batch.reshape(2, torch_bundle.window_n_samples)
    together = encoder.encode(batch)
    assert list(together) == ["tempo"]
    assert together["tempo"].shape == (2, torch_bundle.subspaces["tempo"])
    alone = encoder.encode(batch[1:])
    np.testing.assert_allclose(alone["tempo"][0], together["tempo"][1], atol=1e-5)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_needs_cuda(torch_bundle: Bundle, precision: str) -> None:
    with pytest.raises(UsageError, match=f"{precision} runs with --backend torch on a CUDA device"):
        open_encoder(torch_bundle, backend="torch", device="cpu", precision=precision)


def test_a_cuda_device_that_is_not_there_on_torch(torch_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="cuda:99 is not available with torch"):
        open_encoder(torch_bundle, backend="torch", device="cuda:99")


def test_without_torch_the_extra_is_named(bundle: Bundle) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\nfrom loev_cli import bundle, backends, errors\n"
        f"model = bundle.load(Path({str(bundle.path)!r}))\n"
        "try: backends.open_encoder(model, backend='torch')\n"
        "except errors.MissingExtraError as error: print(error, error.exit_code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert "pip install 'loev-cli[train]'" in done.stdout
    assert done.stdout.strip().endswith("2")


def test_the_tiny_model_is_valid_onnx(bundle: Bundle) -> None:
    onnx.checker.check_model(str(bundle.path / bundles.ONNX_FILE))


def test_a_pool_gives_each_batch_to_who_has_least_to_do(bundle: Bundle) -> None:
    encoders = [open_encoder(bundle, device="cpu", n_threads=1) for _ in range(3)]
    pool = EncoderPool(encoders, "cuda:all")
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((2, WINDOW_N)).astype(np.float32) for _ in range(12)]
    with ThreadPoolExecutor(6) as threads:
        for batch, vectors in zip(batches, threads.map(pool.encode, batches), strict=True):
            for name, expected in encoders[0].encode(batch).items():
                np.testing.assert_array_equal(vectors[name], expected)
    assert (pool.device, pool.n_devices) == ("cuda:all", 3)
    assert pool._n_under_way == [0, 0, 0]


def test_all_gpus_without_a_gpu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loev_cli.backends.cuda_driver", lambda: CudaDriver(0, "no driver"))
    with pytest.raises(UsageError, match="device cuda:all is not available: no driver"):
        open_encoder(bundle, device="cuda:all")
