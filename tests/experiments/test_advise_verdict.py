"""The rule, case by case, and what is made of several labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loev_cli.evaluate.manifest import Column, Manifest, split
from loev_cli.evaluate.statistics import Estimate
from loev_cli.experiments import advise_report
from loev_cli.experiments.advise import Advice, Verdict, judge, kept, of_label, options, ranked
from loev_cli.experiments.advise_evidence import Destroyed, Gained
from loev_cli.experiments.advise_vectors import Draw
from tests.evaluate.conftest import manifest_of, no_pngs

__all__ = ["manifest_of", "no_pngs"]


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


@pytest.mark.usefixtures("no_pngs")
def test_the_report_has_a_row_per_verdict(
    manifest_of: Callable[..., Manifest], tmp_path: Path
) -> None:
    tracks = manifest_of(key=["C", "D"] * 6)
    draws = [Draw("pitch", np.zeros(1), 0)] * 4
    advice = Advice(
        command="loev advise --data <b>",
        created="today",
        candidates=("pitch", "tempo"),
        tolerance=0.2,
        manifest=tracks,
        columns=[],
        splits=split(tracks, n_folds=3),
        verdicts=[
            verdict("a|b", "pitch", (0.5, 0.8), (0.1, 0.3), 0.001),
            verdict("a|b", "tempo", (0.1, 0.5), (-0.1, 0.3), 0.4),
        ],
        draws={"pitch": draws, "tempo": draws},
        reference={"name": "tiny", "sha256": "0"},
        training={"steps": 2, "batch_size": 4, "n_seeds": 1, "encoder": "small"},
        runs=["blind-seed0", "pitch-seed0", "tempo-seed0"],
        skipped=[],
        notes=["a note"],
    )
    advise_report.write(advice, tmp_path / "out")
    markdown = (tmp_path / "out" / "advise.md").read_text(encoding="utf-8")
    assert "| a\\|b | pitch | 65 % [50, 80] | +0.20 [0.10, 0.30] | keep |\n| a\\|b |" in markdown
    assert "- a|b: keep pitch; undecided: tempo.\n" in markdown
    assert "- Train with: loev train DATA --augs pitch\n" in markdown and "- a note\n" in markdown
    assert "<" not in markdown.replace("--data <b>", "")
    html = (tmp_path / "out" / "advise.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 3 and "<b>" not in html and "<td>a|b</td>" in html
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["options"] == "--augs pitch" and len(results["verdicts"]) == 2
