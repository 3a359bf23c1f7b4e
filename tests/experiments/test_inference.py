"""Intervals and tests on answers whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from loev_cli.evaluate.probes import Reading
from loev_cli.evaluate.tasks import balanced_accuracy, r2
from loev_cli.experiments.inference import (
    Draws,
    holm,
    mean_of,
    metric_of,
    r2_of,
    sensitivity_of,
)

N_GROUPS, N_EACH = 60, 2
GROUPS = np.repeat(np.arange(N_GROUPS), N_EACH)


def answers(
    rng: np.random.Generator, share: float, n_seeds: int = 3, of_seed: float = 0.0
) -> list[np.ndarray]:
    """Right or wrong per track: tracks of a group are alike, and a seed is lucky or not."""
    ease = np.repeat(rng.normal(0, 0.1, N_GROUPS), N_EACH)
    luck = rng.normal(0, of_seed, n_seeds)
    return [(rng.random(len(GROUPS)) < share + ease + l).astype(float) for l in luck]  # noqa: E741


def test_one_method_twice_is_no_difference() -> None:
    same = [mean_of(x) for x in answers(np.random.default_rng(0), 0.6)]
    draws = Draws(GROUPS, 3)
    estimate, p = draws.difference(draws.score(same), draws.score(same))
    assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
    assert p == 1


def test_equal_methods_are_seldom_called_different() -> None:
    p_values = []
    for i in range(120):
        rng = np.random.default_rng(i)
        draws = Draws(GROUPS, 3, seed=i, n_draws=400)
        a, b = (
            draws.score([mean_of(x) for x in answers(rng, 0.6, of_seed=0.03)]) for _ in range(2)
        )
        p_values.append(draws.difference(a, b)[1])
    # 5 % would be 6 of 120; three seeds show their luck only roughly, so some more.
    assert sum(p < 0.05 for p in p_values) <= 18
    assert 0.3 < np.mean(p_values) < 0.7


def test_a_clearly_better_method_is_found() -> None:
    rng = np.random.default_rng(1)
    draws = Draws(GROUPS, 3)
    good, bad = (draws.score([mean_of(x) for x in answers(rng, share)]) for share in (0.8, 0.5))
    estimate, p = draws.difference(good, bad)
    assert estimate.low > 0.1 and p < 0.001
    turned, p_turned = draws.difference(bad, good)
    assert turned.value == -estimate.value and p_turned == p
    assert turned.low == pytest.approx(-estimate.high)


def test_pairing_sees_what_unpaired_intervals_hide() -> None:
    """A method that is right wherever the other is, and on one track in six besides."""
    rng = np.random.default_rng(2)
    base = answers(rng, 0.5)
    better = [np.maximum(x, np.arange(len(x)) % 12 < 2) for x in base]
    draws = Draws(GROUPS, 3)
    a, b = (draws.score([mean_of(x) for x in of]) for of in (better, base))
    assert draws.estimate(a).low < draws.estimate(b).high
    assert draws.difference(a, b)[1] < 0.02


@pytest.mark.parametrize("n_seeds", [1, 3, 6])
def test_intervals_cover_the_truth(n_seeds: int) -> None:
    n, hits = 200, 0
    for i in range(n):
        rng = np.random.default_rng([7, i])
        draws = Draws(GROUPS, n_seeds, seed=i, n_draws=300)
        of_seed = 0.05 if n_seeds > 1 else 0.0
        score = draws.score([mean_of(x) for x in answers(rng, 0.6, n_seeds, of_seed)])
        estimate = draws.estimate(score)
        hits += estimate.low <= 0.6 <= estimate.high
    # A bootstrap of three seeds is short of 95 %: a t of 2 degrees of freedom has heavier tails.
    assert hits / n >= (0.85 if n_seeds == 3 else 0.89)


def test_luck_of_seeds_widens_the_interval() -> None:
    rng = np.random.default_rng(3)
    one = answers(rng, 0.6, 1)[0]
    steady = Draws(GROUPS, 3)
    narrow = steady.estimate(steady.score([mean_of(one)] * 3))
    lucky = [mean_of(np.clip(one + shift, 0, 1)) for shift in (-0.2, 0.0, 0.2)]
    wide = steady.estimate(steady.score(lucky))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    # One seed of a foreign file takes part in every draw.
    assert steady.score([mean_of(one)]).value == pytest.approx(one.mean())
    with pytest.raises(ValueError, match="2 statistics for 3 seeds"):
        steady.score([mean_of(one)] * 2)


def test_sums_equal_the_metrics_draw_by_draw() -> None:
    rng = np.random.default_rng(4)
    truth, output = rng.normal(50, 1, 40), rng.normal(50, 1, 40)
    drawn = rng.multinomial(40, np.full(40, 1 / 40), size=20)
    rows = [np.repeat(np.arange(40), times) for times in drawn]
    assert np.allclose(r2_of(truth, output)(drawn), [r2(truth[i], output[i]) for i in rows])

    labels, said = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
    read = Reading(
        np.arange(40), np.zeros(40, np.int64), False, labels, said, labels, (1.0,), (0.5,)
    )
    wanted = [balanced_accuracy(labels[i], said[i]) for i in rows]
    assert np.allclose(metric_of(read, balanced_accuracy)(drawn), wanted)

    moved, points = rng.random(40), rng.standard_normal((40, 3))
    between = np.linalg.norm(points[:, None] - points[None], axis=2)
    wanted = []
    for i in rows:
        pairs = between[np.ix_(i, i)]
        wanted.append(moved[i].mean() / pairs[i[:, None] != i[None, :]].mean())
    assert np.allclose(sensitivity_of(moved, between)(drawn), wanted)


def test_holm_against_figures_made_by_hand() -> None:
    # Sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, none below the one before.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    # Holm's steps as statsmodels.stats.multitest.multipletests(method="holm") takes them.
    assert holm([0.001, 0.2, 0.01]) == pytest.approx([0.003, 0.2, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
