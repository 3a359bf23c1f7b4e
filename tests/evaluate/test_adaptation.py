"""Readouts adapted to tracks of another kind than those that they were fitted to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import softmax

from loev_cli.annotations import KeyReadout, TempoReadout
from loev_cli.errors import UsageError
from loev_cli.evaluate.adaptation import Prior, adapt_readouts
from loev_cli.evaluate.manifest import Manifest
from loev_cli.music_keys import KEYS

Make = Callable[..., Manifest]
PER_CLASS = 3
N = 240


def patterns(seed: int) -> np.ndarray:
    """(2, 12, PER_CLASS): what a key looks like, per mode."""
    return np.random.default_rng(seed).standard_normal((2, 12, PER_CLASS))


def key_prior(of: np.ndarray, *, tied: bool = True) -> Prior:
    """The readout that knows these patterns."""
    rows = [np.roll(of[mode], tonic, axis=0).ravel() for mode in range(2) for tonic in range(12)]
    weight = np.stack(rows).astype(np.float32)
    if not tied:
        weight[0, 0] += 1.0
    return Prior(KeyReadout("pitch", temperature=2.0), weight, np.zeros(24, np.float32))


def tracks(make: Make, of: np.ndarray, *, n: int = N, noise: float = 0.5) -> tuple[Manifest, dict]:
    """Vectors in these patterns, with their keys, in 12 groups; the last fifth are test rows."""
    rng = np.random.default_rng(5)
    keys = rng.integers(0, 24, n)
    x = np.stack([np.roll(of[k // 12], k % 12, axis=0) for k in keys]).reshape(n, -1)
    manifest = make(
        path=[f"{i}.wav" for i in range(n)],
        key=[KEYS[k] for k in keys],
        split=["test" if i >= 0.8 * n else "train" for i in range(n)],
        group=[f"{'test' if i >= 0.8 * n else 'train'} {i % 12}" for i in range(n)],
    )
    noisy = x + noise * rng.standard_normal(x.shape)
    return manifest, {"pitch": noisy.astype(np.float32)}


def accuracy(prior: Prior, manifest: Manifest, vectors: dict) -> float:
    said = (vectors["pitch"] @ prior.weight.T + prior.bias).argmax(axis=1)
    truth = np.array([KEYS.index(key) for key in manifest.cells["key"]])
    return float((said == truth)[manifest.splits == "test"].mean())


def test_what_is_right_already_stays_as_it_is(manifest_of: Make) -> None:
    of = patterns(0)
    manifest, vectors = tracks(manifest_of, of)
    prior = key_prior(of)
    (fitted,) = adapt_readouts(manifest, vectors, {"key": prior})
    assert fitted.tied and fitted.scores["accuracy"].value > 0.97
    cosine = (fitted.weight * prior.weight).sum() / (
        np.linalg.norm(fitted.weight) * np.linalg.norm(prior.weight)
    )
    assert cosine > 0.97
    assert fitted.n_tracks == {"train": 192, "val": 0, "test": 48}


def test_few_tracks_of_another_kind_are_learned(manifest_of: Make) -> None:
    """Patterns halfway between those known and others."""
    known, other = patterns(0), patterns(1)
    manifest, vectors = tracks(manifest_of, 0.3 * known + 0.7 * other, n=90)
    prior = key_prior(known)
    before = accuracy(prior, manifest, vectors)
    (fitted,) = adapt_readouts(manifest, vectors, {"key": prior})
    assert fitted.tied
    assert fitted.scores["accuracy"].value > before + 0.2
    assert fitted.log_loss < fitted.rivals["before"]


def test_what_was_known_is_kept_where_the_labels_say_nothing(manifest_of: Make) -> None:
    """Only major keys are labeled; minor ones are still told apart."""
    of = patterns(0)
    manifest, vectors = tracks(manifest_of, of)
    minor = np.array([key.endswith("minor") for key in manifest.cells["key"]])
    rows = np.flatnonzero(~minor | (manifest.splits == "test"))
    (fitted,) = adapt_readouts(
        manifest.select(rows), {"pitch": vectors["pitch"][rows]}, {"key": key_prior(of)}
    )
    after = Prior(fitted.readout, fitted.weight, fitted.bias)
    said = (vectors["pitch"] @ after.weight.T)[:, 12:].argmax(axis=1) + 12
    truth = np.array([KEYS.index(key) for key in manifest.cells["key"]])
    assert (said == truth)[minor].mean() > 0.95


def test_a_key_readout_that_is_not_tied_is_adapted_freely(manifest_of: Make) -> None:
    of = patterns(0)
    manifest, vectors = tracks(manifest_of, of)
    prior = key_prior(of, tied=False)
    assert not prior.is_tied
    (fitted,) = adapt_readouts(manifest, vectors, {"key": prior})
    assert not fitted.tied and fitted.scores["accuracy"].value > 0.9


def test_confidences_hold_for_tracks_held_out(manifest_of: Make) -> None:
    of = patterns(0)
    manifest, vectors = tracks(manifest_of, of, n=600, noise=1.6)
    overconfident = key_prior(of)
    (fitted,) = adapt_readouts(manifest, vectors, {"key": overconfident})
    logits = vectors["pitch"] @ fitted.weight.T + fitted.bias
    p = softmax(logits / fitted.readout.temperature, axis=1)
    test = manifest.splits == "test"
    right = accuracy(Prior(fitted.readout, fitted.weight, fitted.bias), manifest, vectors)
    assert p.max(axis=1)[test].mean() == pytest.approx(right, abs=0.08)


def test_sources_weigh_the_same(manifest_of: Make) -> None:
    """Ten times as many tracks of the other kind do not outvote a small source."""
    small, large = patterns(0), patterns(1)
    m, v = tracks(manifest_of, large, n=440)
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(m.splits == "train")[:40]
    keys = np.array([KEYS.index(key) for key in m.cells["key"]])
    x = v["pitch"].copy()
    for i in rows:
        pattern = np.roll(small[keys[i] // 12], keys[i] % 12, axis=0).ravel()
        x[i] = pattern + 0.5 * rng.standard_normal(pattern.shape)
    sources = np.zeros(len(m))
    sources[rows] = 1
    start = {"key": key_prior(0.5 * (small + large))}

    def mean_loss(sources: np.ndarray | None) -> float:
        (fitted,) = adapt_readouts(m, {"pitch": x}, start, sources=sources)
        p = softmax((x @ fitted.weight.T + fitted.bias) / fitted.readout.temperature, axis=1)
        return float(-np.log(p[rows, keys[rows]]).mean())

    assert mean_loss(sources) < mean_loss(None)


def test_answers_on_tracks_to_keep_stay(manifest_of: Make) -> None:
    """Where the labels contradict what the model knows, unlabeled tracks hold it."""
    known, other = patterns(0), patterns(1)
    manifest, vectors = tracks(manifest_of, other, n=300)
    prior = key_prior(known)
    rng = np.random.default_rng(9)
    keys = rng.integers(0, 24, 200)
    x = np.stack([np.roll(known[k // 12], k % 12, axis=0) for k in keys]).reshape(200, -1)
    x = (x + 1.5 * rng.standard_normal(x.shape)).astype(np.float32)

    def loss_there(keep: np.ndarray | None) -> float:
        given = None if keep is None else {"pitch": keep}
        (fitted,) = adapt_readouts(manifest, vectors, {"key": prior}, keep=given)
        assert fitted.scores["accuracy"].value > 0.9
        p = softmax((x[100:] @ fitted.weight.T + fitted.bias), axis=1)
        return float(-np.log(p[np.arange(100), keys[100:]]).mean())

    assert loss_there(x[:100]) < loss_there(None)


def test_tempi_are_adapted(manifest_of: Make) -> None:
    """A readout that gives half of every tempo learns better."""
    rng = np.random.default_rng(0)
    bpm = 90 * 2 ** rng.uniform(0, 1, 200)
    axis = TempoReadout("tempo").log2_bpm
    x = np.exp(-0.5 * ((np.log2(bpm)[:, None] - axis) / 0.04) ** 2)
    x = (x + 0.02 * rng.standard_normal(x.shape)).astype(np.float32)
    halves = np.roll(4 * np.eye(125, dtype=np.float32), -48, axis=0)
    manifest = manifest_of(
        path=[f"{i}.wav" for i in range(200)],
        tempo=bpm.tolist(),
        split=["test" if i % 4 == 3 else "train" for i in range(200)],
    )
    prior = Prior(TempoReadout("tempo"), halves, np.zeros(125, np.float32))
    (fitted,) = adapt_readouts(manifest, {"tempo": x}, {"tempo": prior})
    assert not fitted.tied and fitted.label_range is not None
    assert fitted.scores["Acc1"].value > 0.95


def test_what_cannot_be_adapted(manifest_of: Make) -> None:
    of = patterns(0)
    manifest, vectors = tracks(manifest_of, of, n=40)
    with pytest.raises(UsageError, match="no readout of key to adapt"):
        adapt_readouts(manifest, vectors, {})
    with pytest.raises(UsageError, match="no subspace 'pitch'"):
        adapt_readouts(manifest, {"tempo": vectors["pitch"]}, {"key": key_prior(of)})
    alone = manifest_of(
        path=[f"{i}.wav" for i in range(9)],
        key=["C major", "A minor", "G major"] * 3,
        split=["train"] * 6 + ["test"] * 3,
        group=["a"] * 6 + ["b"] * 3,
    )
    with pytest.raises(UsageError, match="in one group"):
        adapt_readouts(alone, {"pitch": vectors["pitch"][:9]}, {"key": key_prior(of)})
