"""The report of ``loev advise``: one page, its pictures, ``results.json`` and ``advise.md``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from loev_cli.evaluate import figures
from loev_cli.evaluate import page as pages
from loev_cli.evaluate.page import JSON_FILE, Page, document, write_report
from loev_cli.evaluate.statistics import Estimate
from loev_cli.evaluate.words import shown
from loev_cli.experiments import advise_words as words
from loev_cli.experiments.advise import PROBES_FOLDER, RUNS_FOLDER, VECTORS_FOLDER, Advice
from loev_cli.experiments.advise_verdict import Verdict, of_label
from loev_cli.experiments.budget import PLAN_FILE, TRIAL_FOLDER

HTML_FILE = "advise.html"
MARKDOWN_FILE = "advise.md"
_COLOUR_OF = dict(zip(("keep", "not needed", "undecided"), figures.COLOURS, strict=False))
_MOST_SKIPPED = 20


def check_out(out: Path, *, inputs: Iterable[str | Path], overwrite: bool) -> None:
    """Whether advice may go into folder ``out``; what is there of it is taken up.

    Raises:
        UsageError: as :func:`loev_cli.evaluate.page.check_out`.
    """
    pages.check_out(
        out,
        overwrite=overwrite,
        inputs=inputs,
        files=(HTML_FILE, JSON_FILE, MARKDOWN_FILE, PLAN_FILE),
        command="advise",
        unfinished=(VECTORS_FOLDER, PROBES_FOLDER, RUNS_FOLDER, PLAN_FILE, TRIAL_FOLDER),
    )


def write(advice: Advice, out: Path) -> None:
    """Write the report into folder ``out``, beside the models.

    Raises:
        OutputError: it cannot be written.
    """
    options = words.options(advice)
    with figures.style():
        page = draw(advice)
        html = document(
            page,
            title="loev advise",
            heading="Which augmentations should have a subspace of their own?",
            facts=[options, advice.created],
            command=advice.command,
        )
        write_report(
            out,
            html=html,
            html_file=HTML_FILE,
            results=advice.as_dict(options),
            drawn=page.drawn,
            texts={MARKDOWN_FILE: words.markdown(advice)},
        )


def draw(advice: Advice) -> Page:
    """All sections."""
    page = Page()
    page.sentences(words.of_conclusion(advice))
    header, rows = words.table(advice.verdicts)
    page.open_table(header, [[(cell, "") for cell in row] for row in rows])
    page.figures(
        {
            "lost": (
                shares(advice.verdicts, advice.tolerance),
                "Share of the label information lost under invariance. Dotted line: the tolerance.",
            )
        }
    )
    page.heading("Data and models")
    page.sentences(words.of_data(advice))
    page.heading("Decision rule")
    page.sentences(words.of_rule(advice))
    for label, found in of_label(advice.verdicts):
        page.heading(label)
        page.sentences(words.of_label(found))
        page.figures(_bars(label, found))
    page.table(
        "All figures",
        ("label", "augmentation", "metric", "what", "value [95 %]", "chance", "tracks", "groups"),
        (row for verdict in advice.verdicts for row in _rows(verdict)),
    )
    if advice.skipped:
        page.heading("Skipped files")
        page.sentences(advice.skipped[:_MOST_SKIPPED])
    return page


def _bars(label: str, found: Sequence[Verdict]) -> dict[str, tuple[Figure, str]]:
    metric = found[0].metric
    blindness = {
        v.augmentation: {"change known": v.destroyed.known, "blind to it": v.destroyed.blind}
        for v in found
    }
    models = {
        v.augmentation: {"with its subspace": v.gained.kept, "without any": v.gained.blind}
        for v in found
    }
    return {
        f"blindness_{label}": (
            figures.bars(blindness, label=metric),
            f"{label}: probes of augmented tracks, one per draw or one for all draws.",
        ),
        f"models_{label}": (
            figures.bars(models, label=metric),
            f"{label}: probes of the models with and without a subspace for the augmentation.",
        ),
    }


def shares(found: Sequence[Verdict], tolerance: float) -> Figure:
    """What is lost by blindness, a row per label and augmentation; the tolerance as a line."""
    width = mpl.rcParams["figure.figsize"][0] * 0.77
    figure = Figure(figsize=(width, 0.9 + 0.32 * len(found)), layout="constrained")
    axes = figure.subplots()
    ink = mpl.rcParams["text.color"]
    axes.axvline(0, color=ink, lw=0.8)
    axes.axvline(100 * tolerance, color=ink, lw=1.2, ls=":")
    drawn: dict[str, Artist] = {}
    for row, verdict in enumerate(found):
        share = verdict.destroyed.share
        ends = 100 * np.clip([share.low, share.high], -1, 1.5)
        colour = _COLOUR_OF[verdict.word]
        axes.plot(ends, [row, row], color=colour, lw=2)
        (dot,) = axes.plot(100 * np.clip(share.value, -1, 1.5), row, "o", ms=7, color=colour)
        drawn.setdefault(verdict.word, dot)
    axes.set_yticks(range(len(found)), [f"{v.label}, {v.augmentation}" for v in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("% lost by blindness")
    figure.legend(list(drawn.values()), list(drawn), loc="outside upper left", ncols=3, fontsize=8)
    return figure


def _rows(verdict: Verdict) -> list[tuple[str, ...]]:
    lost, gained = verdict.destroyed, verdict.gained
    figures_of: dict[str, Estimate] = {
        "change known": lost.known,
        "blind to the change": lost.blind,
        "share lost": lost.share,
        "fallen, reading of unchanged tracks": lost.fallen,
        "models with its subspace": gained.kept,
        "models without any": gained.blind,
        "gained": dataclasses.replace(gained.gain, chance=None),
    }
    return [
        (
            verdict.label,
            verdict.augmentation,
            verdict.metric,
            what,
            shown(estimate),
            "–" if estimate.chance is None else f"{estimate.chance:.2f}",
            str(estimate.n_tracks),
            str(estimate.n_groups),
        )
        for what, estimate in figures_of.items()
    ]
