"""From evidence to advice: which augmentations should have a subspace of their own for a label?

verdict      rule (tolerance t, 0.2 unless told otherwise)
keep         blindness loses more than t of what can be known of the label (the whole 95 % interval
             lies above t), and the models that keep it read the label better (Holm's p < 0.05)
not needed   blindness loses less than t (the whole interval lies below t); or less than half, and
             less than 0.02 of the score itself
undecided    anything else: an interval that holds t, a loss that the trained models do not show,
             or a label of which nothing can be read

The loss says whether a subspace is needed in principle, the models whether it is worth it in
practice. A gain without a loss is no reason to keep: a second subspace may help a label that does
not change at all, by its room alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from loev_cli.evaluate.labels import Column
from loev_cli.evaluate.tasks import TASKS
from loev_cli.experiments.advise_evidence import Destroyed, Gained

DEFAULT_TOLERANCE = 0.2
SIGNIFICANT_P = 0.05
# Of a label that is hard to read, a share is a ratio of small numbers, and its interval wide. A
# loss of this little of a score matters to nobody, unless it is most of what there was.
NEGLIGIBLE_SCORE = 0.02
_MOST_NEGLIGIBLE_SHARE = 0.5

Word = Literal["keep", "not needed", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """What to do with one augmentation for one label.

    Attributes:
        reason: a clause that says why.
    """

    label: str
    kind: str
    augmentation: str
    word: Word
    reason: str
    destroyed: Destroyed
    gained: Gained

    @property
    def metric(self) -> str:
        """That the evidence is measured in."""
        return TASKS[self.kind]().main_metric

    def record(self) -> dict[str, Any]:
        """For ``results.json``."""
        return {
            "label": self.label,
            "kind": self.kind,
            "augmentation": self.augmentation,
            "verdict": self.word,
            "reason": self.reason,
            "metric": self.metric,
            "destroyed": {
                "share": self.destroyed.share.as_dict(),
                "lost": self.destroyed.lost.as_dict(),
                "known": self.destroyed.known.as_dict(),
                "blind": self.destroyed.blind.as_dict(),
                "fallen": self.destroyed.fallen.as_dict(),
            },
            "gained": {
                "gain": self.gained.gain.as_dict(),
                "kept": self.gained.kept.as_dict(),
                "blind": self.gained.blind.as_dict(),
                "of_seeds": list(self.gained.of_seeds),
                "p": self.gained.p,
                "p_holm": self.gained.p_holm,
            },
        }


def judge(
    column: Column, augmentation: str, lost: Destroyed, gain: Gained, tolerance: float
) -> Verdict:
    """The rule of this module's text."""
    word, reason = _rule(lost, gain, tolerance)
    return Verdict(column.name, column.kind, augmentation, word, reason, lost, gain)


def _rule(lost: Destroyed, gain: Gained, tolerance: float) -> tuple[Word, str]:
    share = lost.share
    if not lost.is_readable or not np.isfinite([share.low, share.high]).all():
        return "undecided", "the label cannot be predicted above chance from these tracks"
    helps = gain.p_holm < SIGNIFICANT_P and gain.gain.low > 0
    hurts = gain.p_holm < SIGNIFICANT_P and gain.gain.high < 0
    negligible = lost.lost.high < NEGLIGIBLE_SCORE and share.high < _MOST_NEGLIGIBLE_SHARE
    if share.high < tolerance or negligible:
        if helps:
            return "not needed", (
                "the label does not depend on this augmentation; the gain of the models with a "
                "subspace has another cause"
            )
        return "not needed", "the label does not depend on this augmentation"
    if share.low <= tolerance:
        return "undecided", (
            f"whether more or less than {100 * tolerance:.0f} % of the label is lost cannot be "
            "decided from these tracks"
        )
    if helps:
        return (
            "keep",
            "the label depends on this augmentation, and models with its subspace score higher",
        )
    if hurts:
        return (
            "undecided",
            "the label depends on this augmentation, but models with its subspace score lower",
        )
    return "undecided", (
        "the label depends on this augmentation, but models trained this long do not score higher "
        "with its subspace"
    )


def ranked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Label by label; in each, what loses most first."""
    labels = list(dict.fromkeys(verdict.label for verdict in verdicts))

    def place(verdict: Verdict) -> tuple[int, float]:
        share = verdict.destroyed.share.value
        return labels.index(verdict.label), -share if np.isfinite(share) else np.inf

    return sorted(verdicts, key=place)


def kept(verdicts: Sequence[Verdict], candidates: Sequence[str]) -> list[str]:
    """The augmentations that any of the labels needs, in the candidates' order."""
    needed = {verdict.augmentation for verdict in verdicts if verdict.word == "keep"}
    return [name for name in candidates if name in needed]


def options(verdicts: Sequence[Verdict], candidates: Sequence[str]) -> str:
    """What to give ``loev train``; empty where nothing is to be kept and something is undecided."""
    names = kept(verdicts, candidates)
    if names:
        return f"--augs {','.join(names)}"
    if any(verdict.word == "undecided" for verdict in verdicts):
        return ""
    return "--method cl"


def of_label(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, list[Verdict]]]:
    """Label and its verdicts, in order."""
    for label in dict.fromkeys(verdict.label for verdict in verdicts):
        yield label, [verdict for verdict in verdicts if verdict.label == label]
