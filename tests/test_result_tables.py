"""Tables for papers, of the results that are in the documentation and of such as break."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Loev

LAB = ROOT / "docs" / "lab" / "results"
PROBES = LAB / "loevpp-small" / "probes.json"
COMPARED = LAB / "compare-pop909" / "results.json"


def lines_of(text: str) -> list[list[str]]:
    """The cells of a table in Markdown or LaTeX."""
    lines = [line.removesuffix(r" \\").strip("| ") for line in text.splitlines()]
    cells = [re.split(r" [|&] ", line) for line in lines]
    return [row for row in cells if len(row) > 1 and set(row[0]) != {"-"}]


def test_a_cell_is_a_score_of_the_file(loev: Loev) -> None:
    done = loev("table", PROBES, "--digits", "3")
    header, *rows = lines_of(done.out)
    records = json.loads(PROBES.read_text())["probes"]
    assert header[0] == "subspace"
    assert "key, weighted score" in header
    n_checked = 0
    for record in records:
        column = f"{record['label']}, {record['metric']}"
        if column not in header:
            continue
        row = next(row for row in rows if row[0] == record["subspace"])
        interval = f"[{record['low']:.3f}, {record['high']:.3f}]"
        value = f"{record['value']:.3f}"
        assert row[header.index(column)].replace("*", "") == f"{value} {interval}"
        n_checked += 1
    assert n_checked == (len(rows) - 1) * (len(header) - 1)
    assert rows[-1][0] == "chance"
    for column in range(1, len(header)):
        values = [float(row[column].replace("*", "").split()[0]) for row in rows[:-1]]
        bold = [i for i, row in enumerate(rows[:-1]) if row[column].startswith("**")]
        assert bold and all(values[i] == max(values) for i in bold)


@pytest.mark.parametrize("file", [PROBES, COMPARED])
def test_latex_has_the_cells_of_markdown(loev: Loev, file: Path) -> None:
    markdown = lines_of(loev("table", file).out)
    done = loev("table", file, "--format", "latex")
    assert done.out.startswith(r"\begin{tabular}{l" + "c" * (len(markdown[0]) - 1) + "}")
    assert done.out.rstrip().endswith(r"\end{tabular}")
    plain = re.sub(r"\\textbf\{([^}]*)\}", r"**\1**", done.out).replace(r"\_", "_")
    plain = re.sub(r"\{\\scriptsize ([^}]*)\}", r"\1", plain).replace("--", "–")
    assert lines_of(plain) == markdown
    assert r"\_" in done.out  # no bare underscore
    assert done.out.count("{") == done.out.count("}")
    n_columns = {line.count(" & ") for line in done.out.splitlines() if line.endswith(r"\\")}
    assert n_columns == {len(markdown[0]) - 1}
    assert not re.search(r"(?<!\\)[_#%]", done.out)


def test_a_comparison_is_that_of_its_report(loev: Loev) -> None:
    header, *rows = lines_of(loev("table", COMPARED).out)
    assert header[0] == "method"
    report = (COMPARED.parent / "compare.md").read_text(encoding="utf-8")
    for name, *cells in rows[:-1]:
        line = next(line for line in report.splitlines() if line.startswith(f"| {name} ("))
        for cell in cells:
            assert cell.replace("*", "") in line


def test_models_stand_in_one_table(loev: Loev, tmp_path: Path) -> None:
    results = json.loads(PROBES.read_text())
    results["model"]["name"] = "a_b & c"
    other = tmp_path / "results.json"
    other.write_text(json.dumps(results))
    done = loev("table", PROBES, other, "--no-intervals", "--format", "latex")
    assert done.code == 0
    assert "loevpp-small, pitch &" in done.out
    assert r"a\_b \& c, pitch &" in done.out
    assert "[" not in done.out
    assert loev("table", PROBES, PROBES).code == 2


def test_retrieval(loev: Loev) -> None:
    done = loev("table", LAB / "loevpp-small" / "retrieval.json", "--part", "retrieval")
    assert done.code == 0
    assert "same key, recall@1" in done.out


def record(**changes: Any) -> dict[str, Any]:
    base = {"label": "x", "subspace": "s", "probe": "linear", "metric": "R2", "value": -0.5}
    return base | {"low": None, "high": None, "chance": None} | changes


def test_scores_that_are_missing_or_negative(loev: Loev, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    probes = [record(), record(subspace="t", value=None), record(subspace="t", label="y|z")]
    file.write_text(json.dumps({"model": {"name": "m"}, "probes": probes, "retrieval": []}))
    done = loev("table", file)
    assert done.out.splitlines() == [
        r"| subspace | x, R2 | y\|z, R2 |",
        "| --- | --- | --- |",
        "| s | **-0.50** | – |",
        "| t | – | **-0.50** |",
    ]
    assert "$-0.50$" in loev("table", file, "--format", "latex").out


@pytest.mark.parametrize(
    ("content", "options", "named"),
    [
        (None, [], "results.json"),
        ("{", [], "results.json"),
        ("[]", [], "results.json"),
        ('{"verdicts": []}', [], "loev evaluate"),
        ('{"probes": [{}], "model": {"name": "m"}}', [], "results.json"),
        ('{"probes": [3], "model": {"name": "m"}}', [], "results.json"),
        ('{"probes": 3, "model": {"name": "m"}}', [], "results.json"),
        ('{"probes": [], "model": {"name": "m"}}', [], "no probes"),
        (json.dumps({"probes": [record()], "model": {"name": "m"}}),
         ["--probe", "liner"], "linear"),
        (json.dumps({"probes": [], "retrieval": [], "model": {"name": "m"}}),
         ["--part", "retrieval"], "no retrieval"),
    ],
)  # fmt: skip
def test_misuse_is_one_line(
    loev: Loev, tmp_path: Path, content: str | None, options: list[str], named: str
) -> None:
    file = tmp_path / "results.json"
    if content is not None:
        file.write_text(content)
    done = loev("table", file, *options)
    assert done.code == 2
    assert done.out == ""
    (line,) = done.lines
    assert named in line
    assert str(file) in line
