"""Two real processes under torchrun: the same losses as one, and no hang when one is gone."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from loev_cli import bundle as bundles
from loev_cli.errors import UsageError
from loev_cli.train import distributed, pipeline
from loev_cli.train.checkpoint import load_checkpoint
from loev_cli.train.config import TrainConfig, from_mapping
from loev_cli.train.data import Cache
from loev_cli.train.distributed import check_batch
from tests.conftest import ROOT, Loev, command
from tests.train.conftest import TINY_OPTIONS

TOGETHER = [
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--standalone", "--nproc-per-node", "2", "-m", "loev_cli"),
]
# One thread per process: sums are then taken in the same order, and CI has two cores.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def options(music: Path, cache: Path, out: Path, *more: str) -> list[str]:
    return [
        *("train", str(music), "--steps", "4", "--batch-size", "4", "--seed", "5"),
        *("--set", "warmup_steps=1", "--set", "val_fraction=0.3", "--set", "validate_every=2"),
        *("--cache", str(cache), "--out", str(out), *TINY_OPTIONS, *more),
    ]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT, timeout=300
    )


def losses(out: Path) -> list[dict[str, float]]:
    with (out / "metrics.csv").open() as stream:
        return [
            {k: float(v) for k, v in row.items() if k.startswith("loss")}
            for row in csv.DictReader(stream)
        ]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums are then taken in the order of the processes' own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--micro-batch-size", "1", "--method", "loev"],
    ],
)
def test_two_processes_compute_what_one_does(
    music: Path, cache: Path, tmp_path: Path, more: list[str]
) -> None:
    two = run(TOGETHER + options(music, cache, tmp_path / "two", *more))
    assert two.returncode == 0, two.stderr
    assert two.stderr.count("4 steps in") == 1  # only the main process talks
    assert f"embed with it: loev embed FOLDER --model {tmp_path / 'two' / 'bundle'}" in two.stderr
    config = from_mapping(
        TrainConfig, tomllib.loads((tmp_path / "two" / "config.toml").read_text())
    )
    pipeline.run(config, tmp_path / "one", cache=Cache(cache))
    expected, found = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(expected) == len(found) == 4
    # The first step starts from equal weights. AdamW's first steps are as long for a gradient of
    # rounding errors as for any other, so from there on agreement is only close.
    for head, loss in expected[0].items():
        assert found[0][head] == pytest.approx(loss, abs=1e-5), head
    for head, loss in expected[-1].items():
        assert found[-1][head] == pytest.approx(loss, abs=1e-3), head
    a, b = (load_checkpoint(tmp_path / n / "checkpoints" / "last.pt") for n in ("one", "two"))
    for name, weight in a["model"].items():
        apart = (weight.float() - b["model"][name].float()).norm()
        assert apart <= 0.01 * weight.float().norm() + 1e-3, name
    assert b["facts"]["processes"] == 2
    assert bundles.load(tmp_path / "two" / "bundle").subspaces


def ranks_of(parent: int) -> dict[str, int]:
    """RANK -> process, of the children of torchrun."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
            if f"\nPPid:\t{parent}\n" not in text:
                continue
            variables = (status.parent / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for variable in variables:
            if variable.startswith(b"RANK="):
                found[variable[5:].decode()] = int(status.parent.name)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_a_killed_process_ends_the_other(music: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = TOGETHER + options(music, cache, out, "--steps", "100000")
    process = subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=ROOT
    )
    try:
        deadline = time.monotonic() + 120
        metrics = out / "metrics.csv"
        while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(ranks_of(process.pid)["1"], signal.SIGKILL)
        _, stderr = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode != 0
    said = ("another training process of this run has stopped", "interrupted (SIGTERM)")
    assert any(f"loev: {'error: ' * (i == 0)}{text}" in stderr for i, text in enumerate(said)), (
        stderr
    )


def test_bad_use_ends_all_processes_with_its_line(
    loev: Loev, music: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started as torchrun does it, which itself takes seconds to start; this process is rank 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in (together | {"RANK": "0", "LOCAL_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_WAIT_FOR_STEP", timedelta(seconds=100))
    arguments = options(music, cache, tmp_path / "run", "--batch-size", "3")
    other = subprocess.Popen(
        command(*arguments),
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | together | {"RANK": "1", "LOCAL_RANK": "1"},
        cwd=ROOT,
    )
    done = loev(*arguments)
    _, stderr = other.communicate(timeout=100)
    for code, text in ((done.code, done.err), (other.returncode, stderr)):
        assert code == 2
        assert "3 tracks is not divisible by 2 processes (use --batch-size 2)" in text
        assert "loev_cli/" not in text  # no traceback of ours


def test_a_batch_must_be_shared_evenly() -> None:
    check_batch(6, 3)
    with pytest.raises(UsageError, match="use --batch-size 4"):
        check_batch(4 + 1, 4)
