"""The report of ``loev advise``: one page, its pictures, ``results.json`` and ``advise.md``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from loev_cli.defaults import PALETTE
from loev_cli.evaluate import figures
from loev_cli.evaluate import page as pages
from loev_cli.evaluate.figures import Labeled
from loev_cli.evaluate.page import JSON_FILE, write_report
from loev_cli.evaluate.statistics import Estimate
from loev_cli.experiments import advise as verdicts
from loev_cli.experiments.advise import PROBES_FOLDER, RUNS_FOLDER, VECTORS_FOLDER, Advice, Verdict
from loev_cli.experiments.runs import PLAN_FILE, TRIAL_FOLDER

HTML_FILE = "advise.html"
MARKDOWN_FILE = "advise.md"
HEADER = ["label", "augmentation", "lost if invariant", "gained by keeping", "verdict"]
_COLOUR_OF = dict(zip(("keep", "not needed", "undecided"), PALETTE, strict=False))


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
    by_label = list(verdicts.of_label(advice.verdicts))
    with figures.style():
        write_report(
            out,
            "advise.j2",
            advice.as_dict(options(advice)),
            {
                "lost": {
                    "lost": (
                        shares(advice.verdicts, advice.tolerance),
                        "Share of the label information lost under invariance. Dotted line: the "
                        "tolerance.",
                    )
                }
            }
            | {f"label {label}": _bars(label, found) for label, found in by_label},
            html_file=HTML_FILE,
            markdown_file=MARKDOWN_FILE,
            a=advice,
            options=options(advice),
            conclusion=conclusion(advice),
            header=HEADER,
            rows=rows(advice.verdicts),
            by_label=by_label,
            n_groups=len(np.unique(advice.manifest.groups[advice.splits.judged])),
        )


def options(advice: Advice) -> str:
    """The last line: what to give ``loev train``, or that nothing can be said."""
    found = verdicts.options(advice.verdicts, advice.candidates)
    return found or f"undecided: {', '.join(_undecided(advice))}"


def rows(found: Sequence[Verdict]) -> list[list[str]]:
    """Below ``HEADER``, label by label, what loses most first."""
    return [
        [v.label, v.augmentation, _percent(v.destroyed.share), _signed(v.gained.gain), v.word]
        for v in found
    ]


def _percent(share: Estimate) -> str:
    """``71 % [65, 76]``."""
    if not np.isfinite(share.value):
        return "not readable"
    if not share.has_interval:
        return f"{round(100 * share.value) + 0} % ({share.n_groups} groups)"
    value, low, high = (round(100 * x) + 0 for x in (share.value, share.low, share.high))
    return f"{value} % [{low}, {high}]"


def _signed(gain: Estimate) -> str:
    """``+0.21 [0.12, 0.30]``."""
    return f"+{gain}" if gain.value > 0 else str(gain)


def conclusion(advice: Advice) -> list[str]:
    """What to do, per label and for all together."""
    said = []
    for label, found in verdicts.of_label(advice.verdicts):
        keep = verdicts.kept(found, advice.candidates)
        undecided = [v.augmentation for v in found if v.word == "undecided"]
        text = f"{label}: keep {_listed(keep)}" if keep else f"{label}: no subspace is needed"
        if undecided and not keep:
            text = f"{label}: no need of a subspace is shown"
        said.append(text + (f"; undecided: {_listed(undecided)}." if undecided else "."))
    found_options = verdicts.options(advice.verdicts, advice.candidates)
    if found_options:
        said.append(f"Train with: loev train DATA {found_options}")
    if found_options == verdicts.NO_SUBSPACE:
        said.append("Plain contrastive learning keeps what these labels need.")
    undecided = _undecided(advice)
    if undecided:
        said.append(
            f"Undecided for some label: {_listed(undecided)}. More labeled tracks narrow the "
            "first figure, more --seeds or --steps the second."
        )
    return said


def _listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _undecided(advice: Advice) -> list[str]:
    open_ = {v.augmentation for v in advice.verdicts if v.word == "undecided"}
    return [name for name in advice.candidates if name in open_]


def _bars(label: str, found: Sequence[Verdict]) -> dict[str, Labeled]:
    metric = found[0].metric
    compared = {
        v.augmentation: {"change known": v.destroyed.known, "invariant to it": v.destroyed.blind}
        for v in found
    }
    models = {
        v.augmentation: {"with its subspace": v.gained.kept, "without any": v.gained.blind}
        for v in found
    }
    return {
        f"lost_{label}": (
            figures.bars(compared, label=metric),
            f"{label}: probes of augmented tracks, one per draw or one for all draws.",
        ),
        f"models_{label}": (
            figures.bars(models, label=metric),
            f"{label}: probes of the models with and without a subspace for the augmentation.",
        ),
    }


def shares(found: Sequence[Verdict], tolerance: float) -> Figure:
    """What is lost if invariant, a row per label and augmentation; the tolerance as a line."""
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
    axes.set_xlabel("% lost if invariant")
    figure.legend(list(drawn.values()), list(drawn), loc="outside upper left", ncols=3, fontsize=8)
    return figure
