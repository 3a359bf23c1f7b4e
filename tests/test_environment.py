"""What surrounds a run: no telemetry in it, and few things of it are needed."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from loev_cli.bundle import Bundle
from tests.conftest import ROOT, command, environment, write_audio

SWITCHES = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def without_switches(**changes: str) -> dict[str, str]:
    """The environment of a user, not of these tests, which have imported loev_cli."""
    return {k: v for k, v in environment().items() if k not in SWITCHES} | changes


def run_embed(bundle: Bundle, folder: Path, *options: str, env: dict[str, str]) -> None:
    audio = write_audio(folder / "x.wav")
    arguments = ["embed", audio, "--out", folder / "x.npz", "--model", bundle.path, *options]
    done = subprocess.run(command(*arguments), env=env, capture_output=True, timeout=180)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("said_before", [{}, {"ORT_DISABLE_TELEMETRY": "0"}], ids=["", "0"])
def test_an_embed_leaves_nothing_in_the_home_folder(
    bundle: Bundle, tmp_path: Path, said_before: dict[str, str]
) -> None:
    """ONNX Runtime 1.29 and later keeps a device id and events for its makers there."""
    home = tmp_path / "home"
    home.mkdir()
    run_embed(bundle, tmp_path, env=without_switches(HOME=str(home), **said_before))
    assert list(home.rglob("*")) == []


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'cluster'")
def test_an_embed_on_ray_leaves_no_device_id(bundle: Bundle, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    env = without_switches(HOME=str(home))
    run_embed(bundle, tmp_path, "--engine", "ray", env=env)
    assert [file for file in home.rglob("*") if "Microsoft" in file.parts] == []


def test_telemetry_is_off_before_the_library_is_imported(bundle: Bundle, tmp_path: Path) -> None:
    """Whatever its version, and whether or not it could have reached its makers."""
    audio = write_audio(tmp_path / "x.wav")
    arguments = ["embed", str(audio), "--out", str(tmp_path / "x.npz"), "--model", str(bundle.path)]
    code = f"""
import os, sys
seen = []
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime":
            seen.append({{key: os.environ.get(key) for key in {list(SWITCHES)!r}}})
sys.meta_path.insert(0, Finder())
from loev_cli.cli import main
try:
    main({arguments!r})
finally:
    print(seen)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=without_switches(), capture_output=True, text=True
    )
    assert ast.literal_eval(done.stdout) == [SWITCHES]


def test_whatever_imports_onnx_runtime_imports_loev_first() -> None:
    """Also the tests (by their conftest) and benchmarks: they run on people's machines."""
    for file in [*ROOT.glob("loev_cli/**/*.py"), *ROOT.glob("benchmarks/*.py")]:
        names = [
            name.split(".")[0]
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in _names(node)
        ]
        if "onnxruntime" in names and not file.is_relative_to(ROOT / "loev_cli"):
            assert names.index("loev_cli") < names.index("onnxruntime"), file


def _names(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""]
