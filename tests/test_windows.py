"""Cutting and pooling."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loev_cli.windows import MeanPool, WindowCutter, count, cut, cuts


def starts(n_samples: int, window: int, hop: int) -> list[int]:
    return [c.start_n for c in cut(np.arange(n_samples, dtype=np.float32), window, hop)]


@pytest.mark.parametrize(
    ("n_samples", "expected"),
    [
        (10, [0]),
        (11, [0, 1]),
        (14, [0, 4]),
        (15, [0, 4, 5]),
        (18, [0, 4, 8]),
        (21, [0, 4, 8, 11]),
        (3, [0]),
        (1, [0]),
        (0, []),
    ],
)
def test_starts_by_hand(n_samples: int, expected: list[int]) -> None:
    assert starts(n_samples, window=10, hop=4) == expected
    assert count(n_samples, 10, 4) == len(expected)


def test_a_short_track_is_repeated() -> None:
    (only,) = cut(np.array([1, 2, 3], np.float32), 8, 4)
    np.testing.assert_array_equal(only.samples, [1, 2, 3, 1, 2, 3, 1, 2])


@given(
    n_samples=st.integers(0, 300),
    window=st.integers(1, 40),
    hop_share=st.floats(0, 1),
    splits=st.lists(st.integers(0, 300), max_size=8),
)
def test_every_sample_is_in_a_window_however_it_arrives(
    n_samples: int, window: int, hop_share: float, splits: list[int]
) -> None:
    hop = max(1, round(hop_share * window))
    track = np.arange(1, n_samples + 1, dtype=np.float32)
    whole = cut(track, window, hop)

    cutter = WindowCutter(window, hop)
    streamed = []
    for block in np.split(track, sorted(s for s in splits if s <= n_samples)):
        streamed += cutter.push(block)
    streamed += cutter.finish()

    assert [c.start_n for c in streamed] == [c.start_n for c in whole]
    assert len(whole) == count(n_samples, window, hop)
    for a, b in zip(streamed, whole, strict=True):
        np.testing.assert_array_equal(a.samples, b.samples)
        assert a.samples.shape == (window,)
        if n_samples >= window:
            np.testing.assert_array_equal(a.samples, track[a.start_n : a.start_n + window])
    if n_samples:
        assert set(track) == set(np.concatenate([c.samples for c in whole]))


@pytest.mark.parametrize("hop", [1000, 500, 10])
def test_memory_does_not_grow_with_the_track_nor_with_the_overlap(hop: int) -> None:
    cutter = WindowCutter(1000, hop)
    tracemalloc.start()
    try:
        for _ in range(200):
            kept = cutter.push(np.zeros(777, np.float32))
        peak_n_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept
    assert peak_n_bytes < 20 * 4 * 1000, "of the 620 kB that were given"


@pytest.mark.parametrize("hop", [0, 11, -1])
def test_a_hop_that_skips_samples_is_refused(hop: int) -> None:
    with pytest.raises(ValueError, match="hop"):
        WindowCutter(10, hop)


def test_the_pool_is_the_mean_in_float64() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((5000, 7)) + 100).astype(np.float32)
    pool = MeanPool()
    for vector in vectors:
        pool.add({"a": vector, "b": vector[:2]})
    expected = vectors.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(pool.mean()["a"], expected, rtol=1e-7)
    assert pool.mean()["a"].dtype == np.float32
    assert pool.mean()["b"].shape == (2,)


@pytest.mark.parametrize("n_samples", [1, 5, 9])
def test_a_short_track_is_followed_by_silence_where_the_model_wants_it(n_samples: int) -> None:
    track = np.arange(1, n_samples + 1, dtype=np.float32)
    (only,) = cuts([track], 10, 5, pad_short=True)
    assert only.start_n == 0
    np.testing.assert_array_equal(only.samples, np.r_[track, np.zeros(10 - n_samples)])


def test_padding_changes_nothing_of_a_track_as_long_as_a_window() -> None:
    track = np.arange(23, dtype=np.float32)
    for n_samples in (10, 12, 23):
        padded = list(cuts([track[:n_samples]], 10, 5, pad_short=True))
        repeated = cut(track[:n_samples], 10, 5)
        assert [one.start_n for one in padded] == [one.start_n for one in repeated]
        for a, b in zip(padded, repeated, strict=True):
            np.testing.assert_array_equal(a.samples, b.samples)
