"""Logits -> answers, and what a config must say of readouts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from loev_cli.annotations import (
    COLUMNS,
    Annotator,
    KeyReadout,
    TempoReadout,
    open_annotator,
    to_config,
)
from loev_cli.bundle import Bundle
from loev_cli.errors import BundleError, UsageError
from loev_cli.music_keys import KEYS

TEMPO = TempoReadout("tempo")


def bell(bpm: float, height: float = 12.0, spread: float = 0.02) -> np.ndarray:
    """Logits that are greatest at ``bpm``."""
    distance = (TEMPO.log2_bpm - math.log2(bpm)) / math.log2(1 + spread)
    return np.asarray(height - 0.5 * distance**2)


def test_a_key_and_the_probability_of_it() -> None:
    logits = np.zeros(24)
    logits[KEYS.index("F# minor")] = math.log(46)  # twice the other 23 together
    answer = KeyReadout("pitch").answer(logits)
    assert (answer["key"], answer["mode"]) == ("F# minor", "minor")
    assert answer["key_confidence"] == pytest.approx(2 / 3)
    doubtful = KeyReadout("pitch", temperature=2.0).answer(logits)
    assert doubtful["key"] == "F# minor"
    assert doubtful["key_confidence"] == pytest.approx(46**0.5 / (46**0.5 + 23))


@pytest.mark.parametrize("bpm", [41.0, 60.0, 90.3, 119.7, 128.0, 173.2, 236.0])
def test_a_tempo_between_two_bins_is_read_exactly(bpm: float) -> None:
    answer = TEMPO.answer(bell(bpm))
    assert answer["bpm"] == pytest.approx(bpm, rel=0.01)
    assert float(answer["bpm_confidence"]) > 0.8


def test_a_tempo_and_its_half_share_the_confidence() -> None:
    logits = np.logaddexp(bell(140.0, 12.0), bell(70.0, 12.0 + math.log(1 / 3)))
    answer = TEMPO.answer(logits)
    alone = float(TEMPO.answer(bell(140.0))["bpm_confidence"])
    assert answer["bpm"] == pytest.approx(140.0, rel=0.005)
    assert answer["bpm_confidence"] == pytest.approx(0.75 * alone, rel=0.01)


def test_a_broad_hill_wins_over_a_lone_bin() -> None:
    """One answer covers 4 % to each side: the mass there counts, not the highest bin."""
    logits = np.full(TEMPO.n_logits, -30.0)
    logits[20] = 1.0
    logits[79:84] = 0.5
    assert TEMPO.answer(logits)["bpm"] == pytest.approx(2 ** TEMPO.log2_bpm[81], rel=1e-3)


def test_silence_has_no_answer() -> None:
    annotator = Annotator({"key": KeyReadout("pitch"), "tempo": TEMPO}, sha256="")
    logits = {"key_logits": np.zeros(24, np.float32), "tempo_logits": np.zeros(125, np.float32)}
    said = annotator.answer(logits, silent=True)
    assert list(said) == list(COLUMNS)
    assert (said["key"], said["mode"]) == ("", "")
    assert all(math.isnan(float(said[c])) for c in ("bpm", "bpm_confidence", "key_confidence"))
    assert not any(v == "" or v != v for v in annotator.answer(logits, silent=False).values())


def test_a_model_may_answer_one_question_only() -> None:
    annotator = Annotator({"tempo": TEMPO}, sha256="")
    assert annotator.columns == ("bpm", "bpm_confidence")
    assert annotator.outputs == {"tempo_logits": 125}


def described(bundle: Bundle, **changes: object) -> Bundle:
    readouts = to_config({"key": KeyReadout("pitch"), "tempo": TEMPO})
    readouts["tempo"] |= changes
    files = bundle.config["files"] | {"annotations.safetensors": {"sha256": "ab", "n_bytes": 1}}
    config = bundle.config | {"annotations": {"readouts": readouts}, "files": files}
    return replace(bundle, config=config)


def test_what_a_config_says_is_read_back(bundle: Bundle) -> None:
    annotator = open_annotator(described(bundle, temperature=0.7, min_bpm=30.0))
    assert annotator.readouts["key"] == KeyReadout("pitch")
    assert annotator.readouts["tempo"] == TempoReadout("tempo", temperature=0.7, min_bpm=30.0)
    assert annotator.sha256 == "ab"


@pytest.mark.parametrize(
    "changes",
    [
        {"subspace": "loudness"},
        {"output": "pitch"},
        {"temperature": 0.0},
        {"temperature": "warm"},
        {"n_bins": 10**9},
        {"n_bins": 1.5},
        {"min_bpm": -1},
        {"colour": "red"},
    ],
)
def test_a_config_that_makes_no_sense(bundle: Bundle, changes: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="does not describe its annotations"):
        open_annotator(described(bundle, **changes))


def test_a_model_without_readouts(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="cannot annotate") as error:
        open_annotator(bundle)
    assert "loev export" in str(error.value.hint)
