"""The report of ``loev compare``: one page, its pictures, ``results.json`` and ``compare.md``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from loev_cli.evaluate import figures
from loev_cli.evaluate import page as pages
from loev_cli.evaluate.page import HTML_FILE, JSON_FILE, Page, document, write_report
from loev_cli.evaluate.statistics import Estimate
from loev_cli.evaluate.words import shown
from loev_cli.experiments import words
from loev_cli.experiments.budget import PLAN_FILE, TRIAL_FOLDER
from loev_cli.experiments.compare import RUNS
from loev_cli.experiments.comparison import CHOSEN, INVARIANT, OWN, Comparison, Entry
from loev_cli.experiments.judging import CHANGES, EMBEDDINGS, EXCERPTS, PROBES
from loev_cli.experiments.pretraining import PRETRAINING_FILE

__all__ = ["HTML_FILE", "MARKDOWN_FILE", "check_out", "write"]

MARKDOWN_FILE = "compare.md"
_RULES = {
    CHOSEN: "chosen on validation tracks",
    OWN: "the label's own subspace",
    "all": "all concatenated",
}
_MOST_SKIPPED = 20


def check_out(out: Path, *, inputs: Iterable[str | Path], overwrite: bool) -> None:
    """Whether a comparison may go into folder ``out``; one that is there is taken up.

    Raises:
        UsageError: as :func:`loev_cli.evaluate.page.check_out`.
    """
    pages.check_out(
        out,
        overwrite=overwrite,
        inputs=inputs,
        files=(HTML_FILE, JSON_FILE, MARKDOWN_FILE, PRETRAINING_FILE, PLAN_FILE),
        command="compare",
        unfinished=(
            *(PRETRAINING_FILE, PLAN_FILE, TRIAL_FOLDER, RUNS),
            *(EMBEDDINGS, CHANGES, EXCERPTS, PROBES),
        ),
    )


def write(comparison: Comparison, out: Path) -> None:
    """Write the report into folder ``out``, beside the runs.

    Raises:
        OutputError: the system will not have it.
    """
    with figures.style():
        page = draw(comparison)
        training = comparison.training
        methods = [c.name for c in comparison.contestants if c.is_method]
        html = document(
            page,
            title="loev compare",
            heading=f"{', '.join(methods)} compared",
            facts=[
                f"{training['steps']} steps · {words.plural(len(training['seeds']), 'seed')} · "
                f"{training['hardware']} · {comparison.created}"
            ],
            command=comparison.command,
        )
        write_report(
            out,
            html=html,
            results=comparison.as_dict(),
            drawn=page.drawn,
            texts={MARKDOWN_FILE: words.markdown(comparison)},
        )


def draw(c: Comparison) -> Page:
    """All sections."""
    page = Page()
    page.sentences(words.of_setting(c))
    page.heading("Results")
    claim = words.of_claim(c)
    if claim:
        page.sentences(claim)
    header, rows = words.table(c)
    page.open_table(header, rows)
    page.sentences(words.of_others(c))
    _differences(page, c)
    _labels(page, c)
    _changes(page, c)
    _search(page, c)
    _rest(page, c)
    return page


def _differences(page: Page, c: Comparison) -> None:
    page.heading("Differences")
    methods = [one.name for one in c.contestants if one.is_method]
    first = "loev++" if "loev++" in methods else methods[0]
    drawn: dict[str, tuple[Figure, str]] = {}
    others = [one.name for one in c.contestants if one.name != first]
    for other in others:
        of = {q: d for q in c.tested if (d := c.difference(q, first, other)) is not None}
        if of:
            drawn[f"difference_{other}"] = (
                figures.forest(
                    {q: (d.estimate, d.is_clear) for q, d in of.items()},
                    label=f"{first} minus {other}",
                ),
                f"{first} minus {other}: to the right of 0 {first} is better. Filled: significant "
                "after correction.",
            )
    page.figures(drawn)
    page.table(
        f"All {len(c.differences)} tests",
        ("question", "metric", "methods", "difference [95 %]", "p", "p corrected"),
        (
            (
                d.question,
                d.metric,
                f"{d.a} − {d.b}",
                words.signed(d),
                f"{d.p:.4f}",
                f"{d.p_corrected:.3f}",
            )
            for d in c.differences
        ),
    )


def _labels(page: Page, c: Comparison) -> None:
    page.heading("Probe scores by subspace")
    drawn: dict[str, tuple[Figure, str]] = {}
    for label in words.labels_of(c):
        entries = words.of_rules(c, label)
        metric = entries[0].metric
        bars: dict[str, dict[str, Estimate]] = {}
        for e in entries:
            if e.rule != OWN:
                bars.setdefault(e.contestant, {})[_RULES[e.rule]] = e.estimate
        drawn[f"scores_{label}"] = (
            figures.bars(bars, label=metric),
            f"{label}: {metric} by method.",
        )
        cells = _by_subspace(c, label, metric)
        drawn[f"subspaces_{label}"] = (
            figures.heat_map(cells, label=metric),
            f"{label}: {metric} in every subspace a method has.",
        )
    page.figures(drawn)
    page.table(
        "All scores",
        ("label", "probe", "metric", "method", "subspace", "rule", "value [95 %]", "chance",
         "seeds"),
        (_cells(e) for e in c.entries if e.kind not in ("search", "found again")),
    )  # fmt: skip


def _by_subspace(c: Comparison, label: str, metric: str) -> dict[str, dict[str, Estimate | None]]:
    probe = c.settings["probes"][0]
    of = [
        e for e in c.entries
        if (e.question, e.metric, e.rule, e.probe) == (label, metric, "", probe)
    ]  # fmt: skip
    names = list(dict.fromkeys(s for one in c.contestants for s in one.subspaces))
    columns = [name for name in [*names, "all"] if any(e.subspace == name for e in of)]
    found = {(e.contestant, e.subspace): e.estimate for e in of}
    return {
        one.name: {column: found.get((one.name, column)) for column in columns}
        for one in c.contestants
    }


def _changes(page: Page, c: Comparison) -> None:
    if not c.sensitivity:
        return
    page.heading("Sensitivity to pitch shift and time stretch")
    page.sentences(
        [
            f"All models embedded the same excerpts of {c.settings['n_changed']} tracks, "
            f"transformed in pitch and tempo by {c.settings['stretcher']}. "
            "0: the embedding does not move; "
            "1: it moves as far as to another track.",
            *words.of_sensitivity(c),
        ]
    )
    drawn: dict[str, tuple[Figure, str]] = {
        f"sensitivity_{name}": (
            figures.heat_map(dict(rows), label="moved / between tracks"),
            f"{name}: rows are subspaces, columns transformations.",
        )
        for name, rows in c.sensitivity.items()
    }
    again: dict[str, dict[str, Estimate]] = {}
    for e in c.entries:
        if e.rule == INVARIANT:
            again.setdefault(e.contestant, {})[e.question] = e.estimate
    drawn["found_again"] = (
        figures.bars(again, label=f"recall@1, by {INVARIANT}"),
        f"Queries are transformed excerpts, the target is their own track; by {INVARIANT}.",
    )
    page.figures(drawn)
    page.table(
        "Retrieval of transformed excerpts, in every subspace",
        ("question", "", "metric", "method", "subspace", "rule", "value [95 %]", "chance", "seeds"),
        (_cells(e) for e in c.entries if e.kind == "found again"),
    )


def _search(page: Page, c: Comparison) -> None:
    of = [e for e in c.entries if e.kind == "search"]
    if not of:
        return
    page.heading("Nearest-neighbor retrieval")
    page.sentences(
        ["Each track is a query for others with its label, in the subspace selected by its probe."]
    )
    drawn = {}
    for question in dict.fromkeys(e.question for e in of):
        rows: dict[str, dict[str, Estimate]] = {}
        for e in of:
            if e.question == question:
                rows.setdefault(e.contestant, {})[e.metric] = e.estimate
        drawn[f"search_{question}"] = (figures.bars(rows, label=question), f"{question}.")
    page.figures(drawn)
    page.table(
        "All searches",
        ("question", "", "metric", "method", "subspace", "rule", "value [95 %]", "chance", "seeds"),
        map(_cells, of),
    )


def _rest(page: Page, c: Comparison) -> None:
    page.heading("Training cost and use of dimensions")
    page.table(
        "Training",
        ("method", "minutes per seed", "weights"),
        (
            (name, ", ".join(f"{m:.1f}" for m in of["minutes"]), f"{of['weights_mb']:.1f} MB")
            for name, of in c.training["methods"].items()
        ),
    )
    page.table(
        "Effective rank of each subspace, mean over seeds",
        ("method", "subspace", "effective rank"),
        (
            (name, subspace, f"{rank:.1f}")
            for name, of in c.geometry.items()
            for subspace, rank in of["effective_rank"].items()
        ),
    )
    page.table(
        "Overlap of two subspaces: linear CKA, mean over seeds",
        ("method", "subspaces", "CKA"),
        (
            (name, pair, f"{cka:.2f}")
            for name, of in c.geometry.items()
            for pair, cka in of["cka"].items()
        ),
    )
    if c.skipped:
        page.heading("Skipped files")
        page.sentences(c.skipped[:_MOST_SKIPPED])


def _cells(e: Entry) -> Sequence[str]:
    return (
        e.question,
        e.probe,
        e.metric,
        e.contestant,
        e.subspace,
        e.rule,
        shown(e.estimate),
        "–" if e.estimate.chance is None else f"{e.estimate.chance:.2f}",
        ", ".join(f"{value:.2f}" for value in e.of_seeds),
    )
