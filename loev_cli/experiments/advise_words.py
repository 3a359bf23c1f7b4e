"""What advice means, in sentences; its table, and the whole of it as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loev_cli.evaluate.statistics import Estimate
from loev_cli.evaluate.words import listed, shown
from loev_cli.experiments import advise_verdict as verdicts
from loev_cli.experiments.advise import Advice
from loev_cli.experiments.advise_verdict import Verdict
from loev_cli.experiments.words import probability

HEADER = ["label", "augmentation", "lost by blindness", "gained by keeping", "verdict"]
NO_SUBSPACE = "--method cl"
_FEW_GROUPS = 30


def options(advice: Advice) -> str:
    """The last line: what to give ``loev train``, or that nothing can be said."""
    found = verdicts.options(advice.verdicts, advice.candidates)
    return found or f"undecided: {', '.join(_undecided(advice))}"


def table(found: Sequence[Verdict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, label by label, what loses most first."""
    return HEADER, [
        [v.label, v.augmentation, percent(v.destroyed.share), signed(v.gained.gain), v.word]
        for v in found
    ]


def percent(share: Estimate) -> str:
    """``71 % [65, 76]``."""
    if not np.isfinite([share.value, share.low, share.high]).all():
        return "not readable"
    value, low, high = (round(100 * x) + 0 for x in (share.value, share.low, share.high))
    return f"{value} % [{low}, {high}]"


def signed(gain: Estimate) -> str:
    """``+0.21 [0.12, 0.30]``."""
    return shown(gain) if not gain.value > 0 else f"+{shown(gain)}"


def of_data(advice: Advice) -> list[str]:
    """What it rests on."""
    judged = advice.splits.judged
    n_groups = len(np.unique(advice.manifest.groups[judged]))
    training = advice.training
    said = [
        f"{len(advice.manifest)} labeled tracks; figures are of {len(judged)} tracks in "
        f"{n_groups} groups ({advice.splits.description}). Brackets are 95 % intervals.",
        f"Every track was augmented {len(next(iter(advice.draws.values())))} times by each "
        f"candidate, as in training, and embedded by {advice.reference['name']}.",
        f"{len(advice.runs)} models were trained, {training['n_seeds']} of each kind: one "
        f"invariant to everything, and one with a subspace for {listed(advice.candidates)} each; "
        f"{training['steps']} steps of {training['batch_size']} tracks, {training['encoder']}.",
    ]
    if n_groups < _FEW_GROUPS:
        said.append(
            f"With {n_groups} groups the intervals are wide and unreliable: treat the "
            "verdicts as tentative."
        )
    if training["n_seeds"] < 2:
        said.append("With one seed, the intervals of the gain do not include training variance.")
    if advice.skipped:
        said.append(f"{len(advice.skipped)} files could not be used: {advice.skipped[0]}")
    return said + [f"Note: {note}." for note in advice.notes]


def of_rule(advice: Advice) -> list[str]:
    """How a verdict comes about."""
    tolerance = round(100 * advice.tolerance)
    return [
        "Lost by blindness (information lost under invariance): tracks are augmented and keep "
        "their label. One probe per draw of the augmentation is compared with one probe for all "
        "draws, as an invariant model would have. The figure is the share of the score above "
        "chance that the second loses: near 0 the label does not depend on the augmentation, "
        "near 100 % it depends on nothing else.",
        "Gained by keeping (gain from a dedicated subspace): the score of a probe on all "
        "subspaces of the models with a subspace for the augmentation, less that of the models "
        "without one.",
        f"Keep: more than {tolerance} % is lost (the whole interval), and keeping it gains "
        "significantly (p below 0.05 after Holm's correction over the candidates). Not "
        f"needed: less than {tolerance} % is lost (the whole interval); or less than half, "
        f"and less than {verdicts.NEGLIGIBLE_SCORE} of the score itself. Undecided: anything else.",
    ]


def of_label(found: Sequence[Verdict]) -> list[str]:
    """A sentence per candidate."""
    said = []
    for v in found:
        lost, gained = v.destroyed, v.gained
        said.append(
            f"{v.augmentation}: {v.word}; {v.reason}. {v.metric}: {shown(lost.known)} with one "
            f"probe per draw, {shown(lost.blind)} with one for all draws (chance "
            f"{lost.known.chance or 0:.2f}): {percent(lost.share)} lost. Models: "
            f"{shown(gained.kept)} with its subspace, {shown(gained.blind)} without any: "
            f"{signed(gained.gain)}, {probability(gained.p_holm)}."
        )
    return said


def of_conclusion(advice: Advice) -> list[str]:
    """What to do, per label and for all together."""
    said = []
    for label, found in verdicts.of_label(advice.verdicts):
        keep = verdicts.kept(found, advice.candidates)
        undecided = [v.augmentation for v in found if v.word == "undecided"]
        text = f"{label}: keep {listed(keep)}" if keep else f"{label}: no subspace is needed"
        if undecided and not keep:
            text = f"{label}: no subspace is significantly needed"
        said.append(text + (f"; undecided: {listed(undecided)}." if undecided else "."))
    found_options = verdicts.options(advice.verdicts, advice.candidates)
    if found_options:
        data = "loev train DATA"
        said.append(f"Train with: {data} {found_options}")
    if found_options == NO_SUBSPACE:
        said.append("Plain contrastive learning keeps what these labels need.")
    undecided = _undecided(advice)
    if undecided:
        said.append(
            f"Undecided for some label: {listed(undecided)}. More labeled tracks narrow the "
            "first figure, more --seeds or --steps the second."
        )
    return said


def markdown(advice: Advice) -> str:
    """The whole of it, for a repository."""
    header, rows = table(advice.verdicts)
    lines = [
        "# Which augmentations should have a subspace of their own?",
        "",
        f"`{advice.command}`",
        "",
        *(f"- {sentence}" for sentence in of_conclusion(advice)),
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows),
        "",
        *(f"- {sentence}" for sentence in of_data(advice)),
        "",
        *(f"- {sentence}" for sentence in of_rule(advice)),
        "",
    ]
    for label, found in verdicts.of_label(advice.verdicts):
        lines += [f"**{_cell(label)}**", "", *(f"- {text}" for text in of_label(found)), ""]
    return "\n".join(lines)


def _undecided(advice: Advice) -> list[str]:
    open_ = {v.augmentation for v in advice.verdicts if v.word == "undecided"}
    return [name for name in advice.candidates if name in open_]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
