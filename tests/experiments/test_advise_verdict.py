"""The rule, case by case, and what is made of several labels."""

from __future__ import annotations

import numpy as np
import pytest

from loev_cli.evaluate.manifest import Column
from loev_cli.evaluate.statistics import Estimate
from loev_cli.experiments.advise import Verdict, judge, kept, of_label, options, ranked
from loev_cli.experiments.advise_evidence import Destroyed, Gained


def estimate(low: float, high: float, chance: float | None = None) -> Estimate:
    return Estimate((low + high) / 2, low, high, 100, 50, chance)


def evidence(
    share: tuple[float, float],
    gain: tuple[float, float],
    p: float,
    known_low: float = 0.6,
    lost: tuple[float, float] = (0.05, 0.3),
) -> tuple[Destroyed, Gained]:
    known = estimate(known_low, known_low + 0.1, chance=0.1)
    score = estimate(0.5, 0.6, chance=0.1)
    return (
        Destroyed(known, score, estimate(*lost), estimate(*share), estimate(0, 0.1)),
        Gained(score, score, estimate(*gain), p / 2, p, (0.1, 0.2)),
    )


def verdict(label: str, augmentation: str, *case: object) -> Verdict:
    column = Column(label, "class", np.zeros(3, np.int64), np.ones(3, np.bool_), ("a",))
    return judge(column, augmentation, *evidence(*case), tolerance=0.2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("share", "gain", "p", "word", "says"),
    [
        ((0.5, 0.8), (0.1, 0.3), 0.001, "keep", "models with its subspace score higher"),
        ((0.5, 0.8), (-0.1, 0.3), 0.4, "undecided", "do not score higher"),
        ((0.5, 0.8), (0.01, 0.3), 0.06, "undecided", "do not score higher"),
        ((0.5, 0.8), (-0.3, -0.1), 0.001, "undecided", "its subspace score lower"),
        ((0.1, 0.5), (0.1, 0.3), 0.001, "undecided", "more or less than 20 %"),
        ((-0.1, 0.1), (-0.1, 0.1), 0.9, "not needed", "label does not depend"),
        ((-0.1, 0.1), (0.1, 0.3), 0.001, "not needed", "has another cause"),
        (
            (float("nan"), float("nan")),
            (0.1, 0.3),
            0.001,
            "undecided",
            "cannot be predicted above chance",
        ),
    ],
)
def test_the_rule(
    share: tuple[float, float], gain: tuple[float, float], p: float, word: str, says: str
) -> None:
    found = verdict("key", "pitch", share, gain, p)
    assert found.word == word and says in found.reason
    assert found.record()["verdict"] == word


def test_what_cannot_be_read_is_undecided_whatever_else() -> None:
    found = verdict("key", "pitch", (0.5, 0.8), (0.1, 0.3), 0.001, 0.05)
    assert found.word == "undecided" and "chance" in found.reason


def test_a_loss_of_next_to_no_score_needs_no_subspace_unless_it_is_most_of_it() -> None:
    gain = ((-0.1, 0.1), 0.9, 0.6, (-0.01, 0.015))
    assert verdict("family", "pitch", (0.0, 0.3), *gain).word == "not needed"
    assert verdict("family", "pitch", (0.0, 0.7), *gain).word == "undecided"


def test_several_labels_and_their_options() -> None:
    keep, not_needed = ((0.5, 0.8), (0.1, 0.3), 0.001), ((-0.1, 0.1), (-0.1, 0.1), 0.9)
    open_ = ((0.1, 0.5), (0.1, 0.3), 0.001)
    candidates = ["pitch", "tempo", "eq"]
    found = [
        verdict("tempo", "pitch", *not_needed),
        verdict("tempo", "tempo", *keep),
        verdict("key", "eq", *open_),
        verdict("key", "pitch", *keep),
    ]
    assert kept(found, candidates) == ["pitch", "tempo"]
    assert options(found, candidates) == "--augs pitch,tempo"
    assert options(found[:1], candidates) == "--method cl"
    assert options([found[0], found[2]], candidates) == ""
    order = [(v.label, v.augmentation) for v in ranked(found)]
    assert order == [("tempo", "tempo"), ("tempo", "pitch"), ("key", "pitch"), ("key", "eq")]
    assert [label for label, _ in of_label(found)] == ["tempo", "key"]
