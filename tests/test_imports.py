"""The walls of the house: DESIGN section 4 as a test."""

from __future__ import annotations

import ast
import graphlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loev_cli.bundle import Bundle
from tests.conftest import ROOT, environment, write_audio

PACKAGE = ROOT / "loev_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Rows from the bottom up; a module imports from rows below its own, or from its own part.
ROWS = [
    ["defaults", "errors", "interrupts"],
    ["storage"],
    ["bundle", "manifest", "windows", "track_lists", "result_tables"],
    ["annotations"],
    ["model", "audio", "segments"],
    ["backends", "formats"],
    ["embed"],
    ["api"],
    ["evaluate", "search", "export", "train", "hear", "tagging", "datasets"],
    ["experiments"],
    ["ab"],
    ["explore"],
    ["cli"],
]
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}

TORCH = {"torch", "torchaudio", "tensorboard", "onnx", "matplotlib"}
MAY_IMPORT_TORCH = (
    *("model/", "train/", "evaluate/", "experiments/", "ab/"),
    *("export.py", "hear.py", "backends/pytorch.py"),
)


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def part_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(module: Path) -> Iterator[str]:
    """Dotted names a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_imports_point_down(module: Path) -> None:
    part = part_of(module)
    if part.startswith("__"):
        return
    for name in imports(module):
        parts = name.split(".")
        if parts[0] != "loev_cli" or len(parts) == 1 or parts[1] not in ROW_OF:
            continue
        below = ROW_OF[parts[1]] < ROW_OF[part]
        assert below or parts[1] == part, f"{name_of(module)} imports {name}"


def test_no_circles() -> None:
    """Of what modules import when they are imported themselves."""
    named = {
        ".".join(m.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): m
        for m in MODULES
    }
    graph = {}
    for name, module in named.items():
        tree = ast.parse(module.read_text(encoding="utf-8"))
        # Inside a "with", which names the extra that is missing, imports are run as well.
        run = [
            n for node in tree.body for n in (node.body if isinstance(node, ast.With) else [node])
        ]
        nodes = [node for node in run if isinstance(node, ast.ImportFrom)]
        found = {n.module or "" for n in nodes}
        found |= {f"{n.module}.{alias.name}" for n in nodes for alias in n.names}
        # A package imports its parts, and a part that imports from it means another part.
        graph[name] = {other for other in found & named.keys() if not name.startswith(other)}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(named)


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda f: f.name)
def test_benchmarks_import_what_is_there(script: Path) -> None:
    """They are run by hand, so a name that has moved would be found too late."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("loev_cli"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_torch_stays_where_it_belongs(module: Path) -> None:
    if not name_of(module).startswith(MAY_IMPORT_TORCH):
        found = {name.split(".")[0] for name in imports(module)} & TORCH
        assert not found, f"{name_of(module)} imports {found}"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_only_the_command_line_prints_or_exits(module: Path) -> None:
    if part_of(module) == "cli":
        return
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        forbidden = {"print", "exit", "quit", "sys.exit", "os._exit", "rich.print"}
        assert called not in forbidden, f"{name_of(module)}:{node.lineno} calls {called}"
        if isinstance(node, ast.Raise) and node.exc is not None:
            assert "SystemExit" not in ast.unparse(node.exc), name_of(module)


def modules_after(code: str) -> set[str]:
    """Top-level packages loaded in a fresh interpreter that ran ``code``."""
    tail = "\nimport sys; print('\\n'.join({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    return set(done.stdout.split())


RUN = """
from loev_cli.cli import main
try:
    main({arguments!r})
except SystemExit as exit:
    assert exit.code == 0, exit.code
"""


def test_help_imports_nothing_heavy() -> None:
    loaded = modules_after(RUN.format(arguments=["--help"]))
    assert not loaded & {"torch", "onnxruntime", "numpy", "soundfile", "av", "pyarrow", "scipy"}


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = modules_after("import loev_cli; dir(loev_cli); loev_cli.LoevError")
    assert not loaded & {"torch", "onnxruntime", "numpy", "soundfile", "av", "pyarrow", "typer"}


def test_a_waveform_is_embedded_without_torch(bundle: Bundle) -> None:
    code = f"import loev_cli; loev_cli.load({str(bundle.path)!r})([0.1] * 8000, 8000)"
    loaded = modules_after(code)
    assert "onnxruntime" in loaded
    assert not loaded & (TORCH | {"scipy", "sklearn", "pandas", "av", "pyarrow"})


def test_an_onnx_embed_imports_no_torch(bundle: Bundle, tmp_path: Path) -> None:
    audio = write_audio(tmp_path / "x.wav")
    arguments = ["embed", str(audio), "--out", str(tmp_path / "x.npz"), "--model", str(bundle.path)]
    loaded = modules_after(RUN.format(arguments=arguments))
    assert "onnxruntime" in loaded
    assert not loaded & (TORCH | {"scipy", "sklearn", "pandas", "av", "pyarrow"})
