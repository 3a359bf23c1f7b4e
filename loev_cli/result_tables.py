"""``results.json`` of evaluate and compare -> a table for a paper, in Markdown or LaTeX.

what it is of     a row is                    a column is
loev evaluate     a subspace of a model       a label and its main metric, or --part retrieval: a
                                              question and recall@1
loev compare      a method                    a question, by the subspace that was chosen for it on
                                              the validation tracks

The highest value of a column is bold: that does not make it significantly higher (the intervals,
and the tests in the report, say that).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loev_cli.errors import UsageError, known_names
from loev_cli.storage.bounded import DATA_ERRORS, in_one_line, parse_json, read_bytes

PARTS = ("probes", "retrieval")
FORMATS = ("markdown", "latex")
_MAX_N_BYTES = 256 << 20
_RULES = ("chosen", "invariant")  # of compare: how the reported subspace of a question was selected
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


@dataclass(frozen=True)
class Score:
    """A figure with its 95 % interval, None where there is none."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Table:
    """Rows by columns of scores.

    Attributes:
        stub: title of the first column.
        columns: titles.
        rows: title -> a score per column, None where there is none.
        chance: per column, None where it is unknown.
    """

    stub: str
    columns: list[str]
    rows: dict[str, list[Score | None]]
    chance: list[float | None]


def table_of(files: Sequence[Path], *, part: str = "probes", probe: str | None = None) -> Table:
    """The table of one ``results.json``, or of several of ``loev evaluate`` as one.

    Args:
        part: of ``loev evaluate``: ``probes`` or ``retrieval``.
        probe: which; default the first.

    Raises:
        UsageError: a file is not a ``results.json`` of these commands, or has no such part or
            probe.
    """
    cells: dict[tuple[str, str], dict[str, Any]] = {}  # (row, column) -> record
    read = [_read(file) for file in files]
    compared = ["contestants" in results for results in read]
    if any(compared) and len(read) > 1:
        raise UsageError(
            "several files, one of them of 'loev compare'", hint="give each comparison alone"
        )
    for file, results in zip(files, read, strict=True):
        try:
            found = _of_compare(results, probe) if compared[0] else _of(results, part, probe)
            several = len(files) > 1
            name = "" if compared[0] else str(results["model"]["name"])
            for row, column, record in found:
                title = f"{name}, {row}" if several else row
                if (title, column) in cells:
                    raise UsageError(f"{file} and an earlier file are both of {name}")
                cells[title, column] = record
        except DATA_ERRORS as error:
            raise UsageError(f"{file} is not a results.json: {in_one_line(error)}") from error
        if not found:
            records = results.get("probes", results.get("scores", []))
            known = sorted({str(r["probe"]) for r in records if r.get("probe")})
            what = f"no {part}" if probe is None else f"no {part} of probe '{probe}'"
            hint = known_names(probe or "", known, "probes are")
            raise UsageError(f"{file} has {what}", hint=hint if known else None)
    return _table("method" if compared[0] else "subspace", cells)


def _read(file: Path) -> dict[str, Any]:
    results: Any = None
    try:
        results = parse_json(read_bytes(file, _MAX_N_BYTES))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or in_one_line(error)}") from error
    except DATA_ERRORS:  # no JSON, which the next lines say
        pass
    if not isinstance(results, dict) or not {"probes", "contestants"} & set(results):
        raise UsageError(
            f"{file} is not a results.json of 'loev evaluate' or 'loev compare'",
            hint="they write it into the folder of the report",
        )
    return results


_Found = list[tuple[str, str, dict[str, Any]]]


def _of(results: dict[str, Any], part: str, probe: str | None) -> _Found:
    if part == "retrieval":
        return [
            (r["subspace"], f"{r['question']}, {r['metric']}", r)
            for r in results["retrieval"]
            if r["metric"] == "recall@1"
        ]
    records = results["probes"]
    wanted = probe or next((r["probe"] for r in records), None)
    main: dict[str, str] = {}  # the main metric of a label is the first
    return [
        (r["subspace"], f"{r['label']}, {r['metric']}", r)
        for r in records
        if r["probe"] == wanted and main.setdefault(r["label"], r["metric"]) == r["metric"]
    ]


def _of_compare(results: dict[str, Any], probe: str | None) -> _Found:
    main: dict[str, str] = {d["question"]: d["metric"] for d in results["differences"]}
    wanted = probe or next((r["probe"] for r in results["scores"] if r["probe"]), None)
    return [
        (r["contestant"], f"{r['question']}, {r['metric']}", r)
        for r in results["scores"]
        if r["rule"] in _RULES
        and main.get(r["question"]) == r["metric"]
        and r["probe"] in (wanted, "")
    ]


def _table(stub: str, cells: dict[tuple[str, str], dict[str, Any]]) -> Table:
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = list(dict.fromkeys(column for _, column in cells))

    def score(row: str, column: str) -> Score | None:
        record = cells.get((row, column))
        if record is None or record["value"] is None:
            return None
        return Score(record["value"], record.get("low"), record.get("high"))

    def chance(column: str) -> float | None:
        found = (cells[row, column]["chance"] for row in rows if (row, column) in cells)
        return next((value for value in found if value is not None), None)

    return Table(
        stub,
        columns,
        {row: [score(row, column) for column in columns] for row in rows},
        [chance(column) for column in columns],
    )


def rendered(table: Table, form: str, *, n_digits: int = 2, intervals: bool = True) -> str:
    """The table as ``markdown`` or ``latex`` (with package booktabs), without a caption."""
    best = [
        max((row[i].value for row in table.rows.values() if row[i] is not None), default=None)  # type: ignore[union-attr]
        for i in range(len(table.columns))
    ]
    is_latex = form == "latex"
    bold = "\\textbf{{{}}}" if is_latex else "**{}**"
    small = " {{\\scriptsize [{}, {}]}}" if is_latex else " [{}, {}]"

    def number(value: float) -> str:
        text = f"{value:.{n_digits}f}"
        return f"${text}$" if is_latex and value < 0 else text

    def cell(score: Score | None, highest: float | None) -> str:
        if score is None:
            return "--" if is_latex else "–"
        text = number(score.value)
        # As printed: what rounds to the highest is not shown to be lower.
        if highest is not None and text == number(highest):
            text = bold.format(text)
        if intervals and score.low is not None and score.high is not None:
            text += small.format(number(score.low), number(score.high))
        return text

    lines = [
        [row, *(cell(score, highest) for score, highest in zip(scores, best, strict=True))]
        for row, scores in table.rows.items()
    ]
    if any(value is not None for value in table.chance):
        missing = "--" if is_latex else "–"
        lines.append(["chance", *(missing if x is None else number(x) for x in table.chance)])
    return _latex(table, lines) if is_latex else _markdown(table, lines)


def _markdown(table: Table, lines: list[list[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    titles = [_cell(title) for title in (table.stub, *table.columns)]
    body = [line([_cell(first), *rest]) for first, *rest in lines]
    return "\n".join([line(titles), line(["---"] * len(titles)), *body])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _latex(table: Table, lines: list[list[str]]) -> str:
    titles = [_escaped(title) for title in (table.stub, *table.columns)]
    body = [" & ".join([_escaped(first), *rest]) + r" \\" for first, *rest in lines]
    if lines[-1][0] == "chance":
        body.insert(-1, r"\midrule")
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'c' * len(table.columns)}}}",
            r"\toprule",
            " & ".join(titles) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _escaped(text: str) -> str:
    return re.sub(r"[\\~^–−&%$#_{}]", lambda found: _LATEX[found[0]], " ".join(text.split()))
