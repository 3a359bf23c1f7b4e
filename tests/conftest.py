"""A small but real model bundle, audio whose truth is known, and ways to run the command."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from loev_cli import bundle as bundles
from loev_cli.bundle import Bundle
from loev_cli.cli import main

ROOT = Path(__file__).parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: each has its part of them, and starts no more decoders than that.
    # Tests of several decoders say how many. OMP: read by torch when a test first imports it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if hasattr(os, "sched_setaffinity"):
        worker = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
        cores = sorted(os.sched_getaffinity(0))
        part = cores[worker :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
        os.sched_setaffinity(0, part or cores)

# Defaults of whoever runs the tests; LOEV_STREAM_EXAMPLES is of the tests.
for variable in [v for v in os.environ if v.startswith("LOEV_") and v != "LOEV_STREAM_EXAMPLES"]:
    del os.environ[variable]

RATE_HZ = 8000
WINDOW_N = 4000  # 0.5 s
SUBSPACES = {"invariant": 6, "pitch": 4, "tempo": 3}


def make_bundle(folder: Path, *, seed: int = 0, name: str = "tiny") -> Bundle:
    """Per subspace: a random filter bank over the waveform, rectified, mean over the window."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    weights = {
        subspace: rng.standard_normal((dim, 1, 100)).astype(np.float32) * 0.1
        for subspace, dim in SUBSPACES.items()
    }
    nodes = [helper.make_node("Unsqueeze", ["waveform", "one"], ["channelled"])]
    for subspace in SUBSPACES:
        nodes += [
            helper.make_node(
                "Conv", ["channelled", f"w_{subspace}"], [f"c_{subspace}"], strides=[50]
            ),
            helper.make_node("Relu", [f"c_{subspace}"], [f"r_{subspace}"]),
            helper.make_node("ReduceMean", [f"r_{subspace}", "two"], [subspace], keepdims=0),
        ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["B", WINDOW_N])],
        [
            helper.make_tensor_value_info(subspace, TensorProto.FLOAT, ["B", dim])
            for subspace, dim in SUBSPACES.items()
        ],
        [
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array([2], np.int64), "two"),
            *(numpy_helper.from_array(w, f"w_{subspace}") for subspace, w in weights.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, folder / bundles.ONNX_FILE)
    save_file(weights, folder / bundles.WEIGHTS_FILE)
    (folder / bundles.CARD_FILE).write_text(f"# {name}\n\nRandom filters, for tests.\n")
    write_config(folder, name=name)
    return bundles.load(folder)


def write_config(folder: Path, **changes: Any) -> None:
    """The ``config.json`` that fits the weight files in ``folder``, with ``changes``."""
    config = {
        "format_version": bundles.FORMAT_VERSION,
        "name": "tiny",
        "method": "loev++",
        "encoder": {"name": "filters"},
        "frontend": {},
        "sample_rate_hz": RATE_HZ,
        "window_n_samples": WINDOW_N,
        "pooling": "mean",
        "subspaces": SUBSPACES,
        "augmentations": {},
        "files": {
            name: bundles.file_record(folder / name)
            for name in (bundles.WEIGHTS_FILE, bundles.ONNX_FILE)
        },
    }
    (folder / bundles.CONFIG_FILE).write_text(json.dumps(config | changes))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("model") / "tiny")


def music(seconds: float, *, rate_hz: int = RATE_HZ, seed: int = 0) -> NDArray[np.float32]:
    """(N,): a changing chord and some noise, never silent, never repeating."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    tones = sum(np.sin(2 * np.pi * f * (1 + 0.01 * t) * t) for f in rng.uniform(80, 900, 4))
    return (0.1 * tones + 0.02 * rng.standard_normal(len(t))).astype(np.float32)


def write_audio(
    file: Path, seconds: float = 2.0, *, rate_hz: int = RATE_HZ, seed: int = 0, **options: Any
) -> Path:
    """Write :func:`music` to ``file``; WAV is float, so that nothing is lost."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".wav":
        options.setdefault("subtype", "FLOAT")
    soundfile.write(file, music(seconds, rate_hz=rate_hz, seed=seed), rate_hz, **options)
    return file


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Five good files: same names in two folders, unicode, a space, shorter than a window."""
    root = tmp_path / "library"
    for seed, (name, seconds) in enumerate(
        [
            ("b/same.wav", 2.3),
            ("a/same.wav", 1.0),
            ("ü é/日本 🎵.wav", 3.1),
            ("short.WAV", 0.2),
            ("long one.flac", 5.7),
        ]
    ):
        write_audio(root / name, seconds, seed=seed)
    return root


def add_bad_files(root: Path) -> None:
    """A text that calls itself MP3, and nothing that calls itself WAV."""
    (root / "bad.mp3").write_text("this is no music\n" * 50)
    (root / "empty.wav").touch()


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


Loev = Callable[..., Outcome]


@pytest.fixture
def loev(capsys: pytest.CaptureFixture[str]) -> Loev:
    """Run a command line in this process."""

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = exit_info.value.code
        assert isinstance(code, int)
        return Outcome(code, captured.out, captured.err)

    return run


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """What :func:`loev` finds on standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def command(*arguments: str | Path, python: Sequence[str] = ()) -> list[str]:
    """The command line that runs loev in a process of its own."""
    return [sys.executable, *python, "-m", "loev_cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def foreground() -> None:
    """``preexec_fn`` of a child that is to be sent SIGINT: a job in the background ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def in_process_of_its_own(
    *arguments: str | Path, stdin: bytes = b"", timeout_s: float = 60
) -> Outcome:
    done = subprocess.run(
        command(*arguments), input=stdin, capture_output=True, env=environment(), timeout=timeout_s
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())
