"""The documentation is run: its Python as it stands, its commands as far as their options go."""

from __future__ import annotations

import doctest
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer.main

from loev_cli.cli import build_app
from loev_cli.embed import Request, embed
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "corpus" / "README.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """(page, text) of every fenced block."""
    for page in PAGES:
        for found, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if found == language:
                yield page.name, text


def loev_commands() -> list[list[str]]:
    """Every `loev ...` of the shell blocks, split into words."""
    commands = []
    for _, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            for part in re.split(r"\||&&", line):
                words = shlex.split(part, comments=True)
                if words and Path(words[0]).name == "loev":
                    commands.append(words[1:])
    return commands


@pytest.mark.parametrize(("page", "text"), list(blocks("python")))
def test_python_runs(page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for name in ("emb.npz", "emb.parquet"):
        embed(Request([str(ROOT / "examples" / "music")], name))
    exec(compile(text, page, "exec"), {})


def test_sessions_give_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    page = ROOT / "docs" / "api.md"
    session = doctest.DocTestParser().get_doctest(
        page.read_text(encoding="utf-8"), {}, page.name, str(page), 0
    )
    told: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(session, out=told.append)
    assert results.attempted >= 15
    assert not results.failed, "".join(told)


def test_the_notebook_runs_and_gives_what_it_shows(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    shown = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    run = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    resources = {"metadata": {"path": str(ROOT / "examples")}}
    nbclient.NotebookClient(run, timeout=300, resources=resources).execute()
    n_outputs = 0
    for before, after in zip(shown.cells, run.cells, strict=True):
        for old, new in zip(before.get("outputs", []), after.get("outputs", []), strict=True):
            assert new["output_type"] == old["output_type"] == "execute_result"
            # Another machine may differ in the last digits, so numbers stand for all numbers.
            texts = [re.sub(r"[\d.]+|\s+", " ", o["data"]["text/plain"]) for o in (old, new)]
            assert texts[0] == texts[1]
            n_outputs += 1
    assert n_outputs >= 6


def test_the_shapes_the_readme_promises(tmp_path: Path) -> None:
    out = tmp_path / "emb.npz"
    embed(Request([str(ROOT / "examples" / "music")], str(out)))
    with np.load(out, allow_pickle=False) as emb:
        shapes = {name: emb[name].shape for name in ("path", "pitch", "tempo", "invariant")}
    expected = {"path": (13,), "pitch": (13, 240), "tempo": (13, 256), "invariant": (13, 256)}
    assert shapes == expected


@pytest.mark.parametrize("words", loev_commands(), ids=" ".join)
def test_commands_have_the_options_they_are_shown_with(words: list[str]) -> None:
    app = typer.main.get_command(build_app())
    command = app.commands[words[0]]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    used = {word for word in words if word.startswith("--")}
    assert used <= known


def test_there_is_something_to_check() -> None:
    assert len(loev_commands()) >= 10
    assert len(list(blocks("python"))) >= 2


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
