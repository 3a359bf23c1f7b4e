"""Logits -> answers, and what a config must say of readouts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from loev_cli.annotations import (
    COLUMNS,
    Annotator,
    KeyReadout,
    TempoReadout,
    Weights,
    open_annotator,
    parse_bpm_range,
    to_config,
)
from loev_cli.bundle import ANNOTATIONS_FILE, Bundle, file_record
from loev_cli.errors import BundleError, UsageError
from loev_cli.music_keys import KEYS
from tests.conftest import SUBSPACES

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


def weights_of(readout: KeyReadout | TempoReadout, dim: int) -> Weights:
    rng = np.random.default_rng(0)
    shape = (readout.n_logits, dim)
    return rng.standard_normal(shape).astype(np.float32), np.zeros(shape[0], np.float32)


def annotator_of(**readouts: KeyReadout | TempoReadout) -> Annotator:
    """Random readouts of :data:`SUBSPACES`."""
    weights = {name: weights_of(r, SUBSPACES[r.subspace]) for name, r in readouts.items()}
    return Annotator(readouts, weights, sha256="")


def test_silence_has_no_answer() -> None:
    annotator = annotator_of(key=KeyReadout("pitch"), tempo=TEMPO)
    vectors = {name: np.ones(dim, np.float32) for name, dim in SUBSPACES.items()}
    said = annotator.answer(vectors, silent=True)
    assert list(said) == list(COLUMNS)
    assert (said["key"], said["mode"]) == ("", "")
    assert all(math.isnan(float(said[c])) for c, v in COLUMNS.items() if v != "")
    assert not any(v == "" or v != v for v in annotator.answer(vectors, silent=False).values())


def test_windows_answer_as_their_mean() -> None:
    annotator = annotator_of(key=KeyReadout("pitch"), tempo=TEMPO)
    rng = np.random.default_rng(1)
    windows = {n: rng.standard_normal((7, d)).astype(np.float32) for n, d in SUBSPACES.items()}
    means = {name: x.mean(axis=0) for name, x in windows.items()}
    said, expected = (annotator.answer(v, silent=False) for v in (windows, means))
    assert (said["key"], said["mode"]) == (expected["key"], expected["mode"])
    for name in ("bpm", "bpm_confidence", "key_confidence"):
        assert said[name] == pytest.approx(expected[name], rel=1e-5)


def test_a_model_may_answer_one_question_only() -> None:
    annotator = annotator_of(tempo=TEMPO)
    tempo = ("bpm", "bpm_confidence", "bpm_alt", "bpm_alt_confidence")
    assert annotator.columns == tempo
    assert annotator.subspaces == ("tempo",)


def described(bundle: Bundle, folder: Path, **changes: object) -> Bundle:
    """A bundle with readouts of key and tempo; ``changes`` to what its config says of the latter,
    or arrays of ``annotations.safetensors``."""
    arrays = {n: x for n, x in changes.items() if isinstance(x, np.ndarray)}
    readouts: dict[str, KeyReadout | TempoReadout] = {"key": KeyReadout("pitch"), "tempo": TEMPO}
    weights = {}
    for name, readout in readouts.items():
        weight, bias = weights_of(readout, SUBSPACES[readout.subspace])
        weights |= {f"{name}.weight": weight, f"{name}.bias": bias}
    file = folder / ANNOTATIONS_FILE
    save_file(weights | {name.replace("_", "."): x for name, x in arrays.items()}, file)
    config = to_config(readouts)
    config["tempo"] |= {name: x for name, x in changes.items() if name not in arrays}
    files = bundle.config["files"] | {ANNOTATIONS_FILE: file_record(file)}
    return Bundle(folder, bundle.config | {"annotations": {"readouts": config}, "files": files})


def test_what_a_config_says_is_read_back(bundle: Bundle, tmp_path: Path) -> None:
    model = described(bundle, tmp_path, temperature=0.7, min_bpm=30.0)
    annotator = open_annotator(model)
    assert annotator.readouts["key"] == KeyReadout("pitch")
    assert annotator.readouts["tempo"] == TempoReadout("tempo", temperature=0.7, min_bpm=30.0)
    assert annotator.sha256 == model.config["files"][ANNOTATIONS_FILE]["sha256"]
    np.testing.assert_array_equal(
        annotator.weights["key"][0], weights_of(KeyReadout("pitch"), 4)[0]
    )


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
def test_a_config_that_makes_no_sense(
    bundle: Bundle, tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(BundleError, match="does not describe its annotations"):
        open_annotator(described(bundle, tmp_path, **changes))


@pytest.mark.parametrize(
    "arrays",
    [
        {"tempo_weight": np.zeros((125, 4), np.float32)},  # `tempo` has 3 dimensions
        {"tempo_bias": np.zeros(124, np.float32)},
        {"key_weight": np.full((24, 4), np.nan, np.float32)},
    ],
)
def test_weights_that_do_not_fit(
    bundle: Bundle, tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    with pytest.raises(BundleError, match=r"annotations\.safetensors does not match"):
        open_annotator(described(bundle, tmp_path, **arrays))


def test_weights_that_are_damaged(bundle: Bundle, tmp_path: Path) -> None:
    model = described(bundle, tmp_path)
    file = tmp_path / ANNOTATIONS_FILE
    file.write_bytes(b"not tensors")
    with pytest.raises(BundleError, match="is damaged"):
        open_annotator(model)
    model.config["files"][ANNOTATIONS_FILE] = file_record(file)
    with pytest.raises(BundleError, match="does not match"):
        open_annotator(model)


def test_a_model_without_readouts(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="cannot annotate") as error:
        open_annotator(bundle)
    assert "loev export" in str(error.value.hint)


def two_bells(first: float, second: float, share: float) -> np.ndarray:
    """Logits of two tempi, the first with this share of the probability."""
    return np.asarray(
        np.logaddexp(bell(first) + math.log(share), bell(second) + math.log(1 - share))
    )


@pytest.mark.parametrize(("bpm", "other"), [(140.0, 70.0), (70.0, 140.0), (150.0, 100.0)])
def test_the_alternative_has_its_own_probability(bpm: float, other: float) -> None:
    answer = TEMPO.answer(two_bells(bpm, other, 0.7))
    assert answer["bpm"] == pytest.approx(bpm, rel=0.005)
    assert answer["bpm_alt"] == pytest.approx(other, rel=0.005)
    alone = float(TEMPO.answer(bell(bpm))["bpm_confidence"])
    assert answer["bpm_confidence"] == pytest.approx(0.7 * alone, rel=0.02)
    assert answer["bpm_alt_confidence"] == pytest.approx(0.3 * alone, rel=0.02)


def test_a_tempo_without_doubt_has_no_alternative() -> None:
    logits = np.full(TEMPO.n_logits, -1e4)
    logits[60] = 0.0
    answer = TEMPO.answer(logits)
    assert answer["bpm_confidence"] == pytest.approx(1.0)
    assert math.isnan(float(answer["bpm_alt"])) and answer["bpm_alt_confidence"] == 0.0


def test_a_range_folds_the_distribution_and_not_the_answer() -> None:
    """70 and 140 BPM have more of it together than 105 BPM, which is the answer without a range."""
    logits = np.logaddexp(two_bells(70.0, 140.0, 0.5) + math.log(0.6), bell(105.0) + math.log(0.4))
    assert TEMPO.answer(logits)["bpm"] == pytest.approx(105.0, rel=0.005)
    folded = TEMPO.answer(logits, bpm_range=(80.0, 160.0))
    assert folded["bpm"] == pytest.approx(140.0, rel=0.005)
    assert folded["bpm_alt"] == pytest.approx(105.0, rel=0.005)
    ratio = float(folded["bpm_confidence"]) / float(folded["bpm_alt_confidence"])
    assert ratio == pytest.approx(1.5, rel=0.05)  # the stretches end between bins


@pytest.mark.parametrize("bpm_range", [(80.0, 160.0), (40.0, 80.0), (120.0, 240.0), (60.0, 180.0)])
@pytest.mark.parametrize("bpm", [41.0, 79.0, 81.0, 119.0, 121.0, 159.0, 161.0, 200.0, 239.0])
def test_every_answer_lies_in_its_range(bpm: float, bpm_range: tuple[float, float]) -> None:
    low, high = bpm_range
    answer = TEMPO.answer(bell(bpm), bpm_range=bpm_range)
    assert low <= float(answer["bpm"]) < high
    octaves = math.log2(float(answer["bpm"]) / bpm)
    assert octaves == pytest.approx(round(octaves), abs=0.02)
    if low <= bpm < high:
        assert answer["bpm"] == pytest.approx(bpm, rel=0.01)
    assert float(answer["bpm_confidence"]) > 0.8


def test_a_wide_range_takes_the_nearest_octave() -> None:
    assert TEMPO.answer(bell(50.0), bpm_range=(60.0, 220.0))["bpm"] == pytest.approx(100, rel=0.01)
    logits = two_bells(90.0, 180.0, 0.6)  # both lie in the range: nothing to fold
    assert TEMPO.answer(logits, bpm_range=(60.0, 220.0)) == TEMPO.answer(logits)


@pytest.mark.parametrize("text", ["80", "80-", "fast-slow", "80-150", "160-80", "20-60", "130-270"])
def test_a_range_that_makes_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="invalid BPM range"):
        parse_bpm_range(text)


@pytest.mark.parametrize("bpm_range", [(80.0, 100.0), (math.nan, 160.0), (80.0, math.inf)])
def test_a_range_of_numbers_that_makes_no_sense(
    bundle: Bundle, tmp_path: Path, bpm_range: tuple[float, float]
) -> None:
    with pytest.raises(UsageError, match="invalid BPM range"):
        open_annotator(described(bundle, tmp_path), bpm_range)


def test_a_range_is_read() -> None:
    assert parse_bpm_range("80-160") == (80.0, 160.0)
    assert parse_bpm_range("87.5-175") == (87.5, 175.0)
