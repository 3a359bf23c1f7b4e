"""The documentation is run: its Python as it stands, its commands as far as their options go."""

from __future__ import annotations

import doctest
import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
import yaml

import loev_cli
from loev_cli.cli import build_app
from loev_cli.embed import Request, embed
from tests.conftest import ROOT, Loev
from tests.test_imports import ROWS
from tests.test_segments import write_medley

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "node_modules" not in p.parts),
    ROOT / "corpus" / "README.md",
    *sorted((ROOT / "models").glob("*/README.md")),
]
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


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the embeddings that the pages read."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("emb.npz", "emb.parquet"):
        embed(Request([str(ROOT / "examples" / "music")], str(folder / name)))
    return folder


# tests/search/test_vectors.py runs the recipes, which belong together.
PYTHON = [(page, text) for page, text in blocks("python") if page != "databases.md"]


@pytest.mark.parametrize(("page", "text"), PYTHON)
def test_python_runs(
    page: str, text: str, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(examples, tmp_path, dirs_exist_ok=True)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
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


def test_the_shapes_the_readme_promises(examples: Path) -> None:
    with np.load(examples / "emb.npz", allow_pickle=False) as emb:
        shapes = {name: emb[name].shape for name in ("path", "pitch", "tempo", "invariant")}
    expected = {"path": (13,), "pitch": (13, 240), "tempo": (13, 256), "invariant": (13, 256)}
    assert shapes == expected


@pytest.fixture(scope="module")
def app() -> Any:
    return typer.main.get_command(build_app())


@pytest.mark.parametrize("words", loev_commands(), ids=" ".join)
def test_commands_have_the_options_they_are_shown_with(app: Any, words: list[str]) -> None:
    command = app.commands[words[0]]
    if hasattr(command, "commands") and words[1] in command.commands:
        command = command.commands[words[1]]
    known = {option for parameter in command.params for option in parameter.opts}
    used = {word for word in words if word.startswith("--")}
    assert used <= known


CONSOLE = sorted({page for page, _ in blocks("console")})


def words(text: str) -> list[Any]:
    """Its words; numbers, which differ a little between machines, about as large."""
    found: list[Any] = text.split()
    for i, word in enumerate(found):
        if re.fullmatch(r"-?\d+\.\d+", word):
            found[i] = pytest.approx(float(word), rel=0.02, abs=0.02)
    return found


@pytest.mark.parametrize("page", CONSOLE)
def test_consoles_show_what_commands_print(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loev: Loev
) -> None:
    """A page's commands, one after the other, in a folder with the examples as ``Music`` and three
    of them in a row as ``medley.flac``."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples" / "music", "Music")
    write_medley(Path("medley.flac"))
    for _, text in (block for block in blocks("console") if block[0] == page):
        for block in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, shown = block.replace("\\\n", " ").partition("\n")
            name, *arguments = shlex.split(command)
            assert name == "loev"
            done = loev(*arguments)
            assert words(shown) == [
                float(word) if re.fullmatch(r"-?\d+\.\d+", word) else word
                for word in (done.out + done.err).split()
            ], command


def test_there_is_something_to_check() -> None:
    assert len(loev_commands()) >= 10
    assert CONSOLE
    assert len(list(blocks("python"))) >= 2


def anchors(page: Path) -> set[str]:
    """What links to headings of a page end with, as forges and mkdocs make it of their text."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in plain}


def test_every_term_of_the_glossary_is_used_elsewhere() -> None:
    """A term that has been renamed in the text, the options or the code is renamed there too."""
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"^\*\*(.+?)\*\*\n(.*)$", glossary, re.MULTILINE)
    assert len(entries) >= 40
    assert len({term for term, _ in entries}) == len(entries)
    files = [f for f in PAGES if f.name != "glossary.md"]
    files += (ROOT / "loev_cli").rglob("*.py")
    text = "\n".join(f.read_text(encoding="utf-8") for f in files).lower()
    for term, definition in entries:
        assert definition.startswith(": "), term
        for name in re.sub(r"\(.*?\)|`", "", term).lower().split(","):
            assert name.strip() in text, f"the glossary's {name!r} is used nowhere"


def test_the_picture_of_the_architecture_is_that_of_the_imports() -> None:
    architecture = runpy.run_path(str(ROOT / ".ci" / "architecture.py"))
    picture = architecture["OUT"].read_text(encoding="utf-8")
    assert picture == architecture["draw"](), "run .venv/bin/python .ci/architecture.py"
    edges = architecture["edges"]([part for row in ROWS for part in row])
    assert "embed" in edges["api"]
    assert "errors" not in edges["cli"]  # others import it


def test_links_lead_somewhere() -> None:
    n_anchors = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]+)?\)", text):
            if re.match(r"\w+:", target):
                continue
            there = page.parent / target if target else page
            assert there.exists(), f"{page.name}: {target}"
            if anchor and there.suffix == ".md":
                assert anchor[1:] in anchors(there), f"{page.name}: {target}{anchor}"
                n_anchors += 1
    assert n_anchors >= 10


def test_pages_of_the_demo_lead_somewhere() -> None:
    """Its links and imports: to its own files, or those that its build adds."""
    demo = ROOT / "docs" / "demo"
    build = (demo / "build.py").read_text(encoding="utf-8")
    for file in [*demo.glob("*.html"), *demo.glob("*.js")]:
        text = file.read_text(encoding="utf-8")
        named = re.findall(r'(?:href|src)="([^"#:]+)"|from "\./([^"]+)"|new URL\("([^"]+)"', text)
        for name in ("".join(each) for each in named):
            assert (demo / name).exists() or f'"{name}"' in build, f"{file.name}: {name}"


def test_nothing_names_a_folder_of_one_machine() -> None:
    """Commands in documentation, cards and reports can be followed on another machine."""
    folders = re.compile(r"(?<![\w.])/(?:tmp|work|root|home)/\S*")
    texts = [
        *PAGES,
        *(f for f in (ROOT / "docs" / "lab").rglob("*") if f.suffix in (".html", ".json")),
        *(ROOT / "corpus").glob("*.py"),
        *(ROOT / "benchmarks").glob("*.py"),
    ]
    for text in texts:
        found = folders.findall(text.read_text(encoding="utf-8"))
        assert not found, f"{text.relative_to(ROOT)}: {found[:3]}"


def test_hooks_and_workflow_run_what_the_ci_script_runs() -> None:
    """One list of checks: the script calls the hooks, the workflow calls the script."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"] for repo in hooks for hook in repo["hooks"]]
    assert entries == [
        ".venv/bin/ruff check .",
        ".venv/bin/ruff format --check .",
        ".venv/bin/mypy",
    ]
    assert all(repo["repo"] == "local" for repo in hooks)  # nothing is downloaded
    assert ".venv/bin/pre-commit run --all-files" in (ROOT / ".ci" / "run").read_text()
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert {"run": ".ci/run"} in jobs["full"]["steps"]
    assert jobs["fast"]["strategy"]["matrix"]["python"] == ["3.12", "3.13"]


def test_the_citation_names_the_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == loev_cli.__version__
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == [
        "Guinot",
        "Quinton",
        "Fazekas",
    ]
    assert paper["url"].endswith("2412.18955")
