"""Intervals and tests on answers whose truth is known."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from loev_cli.evaluate.probes import Reading, balanced_accuracy, metric_of, r2
from loev_cli.evaluate.statistics import (
    Bootstrap,
    Draws,
    Estimate,
    Score,
    fewest_groups,
    holm,
    jackknife_all,
    mean_of,
    r2_of,
    sensitivity_of,
)
from loev_cli.experiments.compare import Request

N_GROUPS, N_EACH = 60, 2
World = tuple[Draws, Score, Score]
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
    assert estimate.value == 0 and not estimate.has_interval
    assert p == 1


# Luck of a seed, ease of a group, groups: from seeds that do not matter to seeds that dominate.
WORLDS = [(0.0, 0.1, 60), (0.03, 0.1, 60), (0.05, 0.25, 60), (0.05, 0.1, 20), (0.1, 0.1, 60)]


def worlds(n: int, n_seeds: int, of_seed: float, ease: float, n_groups: int) -> Iterator[World]:
    """``n`` simulated comparisons of two equal methods, each right in 0.6 of all tracks."""
    groups = np.repeat(np.arange(n_groups), N_EACH)
    for i in range(n):
        rng = np.random.default_rng([i, n_seeds, n_groups])
        easy = np.repeat(rng.normal(0, ease, n_groups), N_EACH)
        draws = Draws(groups, n_seeds, seed=i, n_draws=300)
        yield (
            draws,
            *(
                draws.score(
                    [
                        mean_of((rng.random(len(groups)) < 0.6 + easy + luck).astype(float))
                        for luck in rng.normal(0, of_seed, n_seeds)
                    ]
                )
                for _ in range(2)
            ),
        )


def false_positives(n: int, n_seeds: int, world: tuple[float, float, int]) -> float:
    p = [draws.difference(a, b)[1] for draws, a, b in worlds(n, n_seeds, *world)]
    assert 0.3 < np.mean(p) < 0.7
    return float(np.mean(np.array(p) < 0.05))


def coverage(n: int, n_seeds: int, world: tuple[float, float, int]) -> float:
    estimates = [draws.estimate(a) for draws, a, _ in worlds(n, n_seeds, *world)]
    return float(np.mean([e.low <= 0.6 <= e.high for e in estimates]))


def test_equal_methods_are_seldom_called_different() -> None:
    assert false_positives(100, 3, WORLDS[1]) <= 0.05


def test_intervals_cover_the_truth() -> None:
    assert 0.91 <= coverage(100, 3, WORLDS[1]) <= 0.99


# 2000 simulations have a standard error of 0.005, so that is what may be missed here.
@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_intervals_and_tests_keep_their_word_at_the_default_number_of_seeds(
    world: tuple[float, float, int],
) -> None:
    n_seeds = Request.__dataclass_fields__["n_seeds"].default
    assert 0.925 <= coverage(2000, n_seeds, world) <= 0.98
    assert false_positives(2000, n_seeds, world) <= 0.06


@pytest.mark.slow
def test_corrected_tests_of_a_family_keep_their_word() -> None:
    """Four equal methods, six differences: some is called clear in at most 5 % of experiments."""
    n_wrong = 0
    for i in range(400):
        rng = np.random.default_rng([11, i])
        draws = Draws(GROUPS, 3, seed=i, n_draws=300)
        ease = np.repeat(rng.normal(0, 0.1, N_GROUPS), N_EACH)
        scores = [
            draws.score(
                [mean_of((rng.random(len(GROUPS)) < 0.6 + ease + luck).astype(float))
                 for luck in rng.normal(0, 0.03, 3)]
            )
            for _ in range(4)
        ]  # fmt: skip
        p = [draws.difference(a, b)[1] for a, b in itertools.combinations(scores, 2)]
        n_wrong += min(holm(p)) < 0.05
    assert n_wrong / 400 <= 0.05


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_too_few_groups_have_no_interval_and_no_test(n_seeds: int) -> None:
    few, enough = (Draws(np.arange(n), n_seeds) for n in (5, 6))
    for draws, has in ((few, False), (enough, True)):
        x = np.linspace(0, 1, draws.n_rows)
        good, bad = (draws.score([mean_of(of)] * n_seeds) for of in (x + 1, x**2 / 9))
        estimate, p = draws.difference(good, bad)
        assert draws.estimate(good).has_interval == estimate.has_interval == has
        assert (p >= 2**-5) if has else np.isnan(p)
    # The smallest p of a sign test on that many groups passes the correction, on one less not.
    for n_tests in (1, 6, 42):
        n = fewest_groups(n_tests)
        assert 2.0 ** (1 - n) * n_tests < 0.05 <= 2.0 ** (2 - n) * n_tests


def test_groups_that_all_agree_have_an_exact_interval() -> None:
    groups, ones = np.arange(10), np.ones(10)
    right, wrong = Bootstrap(groups).mean(ones), Bootstrap(groups).mean(0 * ones)
    # 0.6915 is scipy.stats.binomtest(10, 10).proportion_ci(method="exact").low
    assert (right.low, right.high) == (pytest.approx(0.6915, abs=1e-4), 1)
    assert (wrong.low, wrong.high) == (0, pytest.approx(0.3085, abs=1e-4))
    assert not Bootstrap(groups).mean(ones / 2).has_interval
    assert not Bootstrap(groups).mean(ones, bounds=None).has_interval
    smooth = jackknife_all(lambda rows: {"mAP": 1.0}, groups)["mAP"]
    assert (smooth.low, smooth.high) == (right.low, 1)


def evaluated(share: float, n_groups: int, n: int) -> list[Estimate]:
    """``n`` simulated evaluations of a model that is right in ``share`` of all tracks."""
    groups = np.repeat(np.arange(n_groups), N_EACH)
    spread = 0.5 * min(share, 1 - share)
    found = []
    for i in range(n):
        rng = np.random.default_rng([i, n_groups])
        easy = np.repeat(share + rng.uniform(-spread, spread, n_groups), N_EACH)
        found.append(Bootstrap(groups, seed=i).mean((rng.random(len(groups)) < easy).astype(float)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.04, 0.3, 0.6, 0.9, 0.97])
@pytest.mark.parametrize("n_groups", [6, 10, 20, 60])
def test_intervals_of_one_model_cover_the_truth(share: float, n_groups: int) -> None:
    """400 simulations have a standard error of 0.01. Near an end of the scale all groups
    often agree: coverage is above 0.95 with few of them and a little below with many."""
    # Six groups of two tracks may all have one of them right: no spread, and no interval.
    found = [e for e in evaluated(share, n_groups, 400) if e.has_interval]
    assert len(found) >= 0.95 * 400
    assert np.mean([e.low <= share <= e.high for e in found]) >= 0.91
    assert all(e.high - e.low > 0.01 for e in found)


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


def test_one_seed_has_the_interval_of_its_tracks() -> None:
    assert 0.91 <= coverage(200, 1, (0.0, 0.1, 60)) <= 0.98


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


def test_estimates_as_text_are_marked_where_they_lie_above_chance() -> None:
    figure = Estimate(-0.001, -0.104, 0.2, 10, 5, chance=-0.2)
    assert str(figure) == "0.00 [-0.10, 0.20]" and figure.marked == "0.00 [-0.10, 0.20] *"
    assert replace(figure, chance=0.0).marked == replace(figure, chance=None).marked == str(figure)
    assert str(replace(figure, value=np.nan)) == "not defined"
    assert str(replace(figure, low=np.nan, high=np.nan)) == "0.00 (5 groups)"
