"""Which views are made: what they share, by what they differ, where in the track they lie."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from typing import Any

import numpy as np
import pytest

from loev_cli.errors import UsageError
from loev_cli.train.augment import EQUIVARIANT, AugmentationsConfig
from loev_cli.train.augment.pitch_tempo import Pitch, Tempo
from loev_cli.train.music import Crops, rate, semitones
from loev_cli.train.views import PlannedView, ViewPlanner, usual_n_views

WINDOW_S = 10.0
TRACK_S = 60.0


@dataclasses.dataclass
class Plans:
    """Views of a track of music, and where they lie in it."""

    planner: ViewPlanner
    crops: Crops

    def plan(self, track_s: float, rng: np.random.Generator) -> list[PlannedView]:
        views = self.planner.plan(rng)
        return self.crops(views, [track_s] * len(views), rng)


def planner(*heads: str, positives: Any = "random", **changes: Any) -> Plans:
    settings: dict[str, Any] = {"scheme": "shared", "n_views": None}
    config = AugmentationsConfig(**changes.pop("config", {}))
    of = ViewPlanner(config, heads, **settings | changes)
    return Plans(of, Crops(positives, WINDOW_S))


def plans(of: Plans, n: int = 200, track_s: float = TRACK_S) -> list[list[PlannedView]]:
    rng = np.random.default_rng(0)
    return [of.plan(track_s, rng) for _ in range(n)]


def test_shared_views_agree_in_one_augmentation_and_differ_in_the_other() -> None:
    for base, same_pitch, same_tempo in plans(planner("pitch", "tempo")):
        assert semitones(same_pitch) == semitones(base)
        assert rate(same_tempo) == rate(base)
        for a, b in ((base, same_tempo), (same_pitch, same_tempo)):
            assert abs(semitones(a) - semitones(b)) >= 1
        for a, b in ((base, same_pitch), (same_pitch, same_tempo)):
            assert abs(np.log(rate(a) / rate(b))) >= np.log(1.05) - 1e-9
        draws = [view.draws for view in (base, same_pitch, same_tempo)]
        assert [d["pitch"] for d in draws] == [0, 0, 2]
        assert [d["tempo"] for d in draws] == [0, 1, 0]


@pytest.mark.parametrize("heads", [("pitch", "tempo", "eq"), ("noise", "reverb", "tempo", "pitch")])
def test_every_head_has_a_pair_that_shares_it_and_differs_in_all_other_heads(
    heads: tuple[str, ...],
) -> None:
    of = planner(*heads)
    assert of.planner.n_views == len(heads) + 1
    for views in plans(of, 20):
        base = views[0]
        for k, head in enumerate(heads):
            partner = views[1 + k]
            np.testing.assert_array_equal(partner.params[head], base.params[head])
            assert base.applied[head] and partner.applied[head]
            for other in set(heads) - {head}:
                assert of.planner.augmentations[other].differ(
                    partner.params[other], base.params[other]
                )
        # Views may share a level of noise, but not the noise.
        assert len({view.seeds["noise"] for view in views}) == len(views)


def test_with_one_head_a_view_shares_nothing() -> None:
    assert usual_n_views("shared", ["pitch"]) == 3
    (base, same, other) = plans(planner("pitch"), 1)[0]
    assert semitones(base) == semitones(same) != semitones(other)
    assert rate(base) != rate(same)  # tempo has no head: it is drawn anew in every view


def test_without_heads_pitch_and_tempo_are_drawn_anew_in_every_view() -> None:
    of = planner(config={"pitch": Pitch(step=0.0)})
    for views in plans(of, 20):
        assert all(view.applied["pitch"] and view.applied["tempo"] for view in views)
        assert len({semitones(view) for view in views}) == len(views) == 3
        assert len({rate(view) for view in views}) == 3


def test_the_independent_scheme_applies_each_by_its_probability() -> None:
    config = {"pitch": Pitch(p=0.3), "tempo": Tempo(p=0.6)}
    of = planner("pitch", "tempo", scheme="independent", config=config)
    assert of.planner.n_views == 2
    views = [view for plan in plans(of, 1000) for view in plan]
    for name, p in (("pitch", 0.3), ("tempo", 0.6)):
        assert np.mean([view.applied[name] for view in views]) == pytest.approx(p, abs=0.04)
    for first, second in plans(of, 50):
        for name in ("pitch", "tempo"):
            for place, view in enumerate((first, second), start=1):
                assert view.draws[name] == (place if view.applied[name] else 0)
    assert all(semitones(view) == 0 for view in views if not view.applied["pitch"])
    assert all(rate(view) == 1 for view in views if not view.applied["tempo"])


def test_draws_fill_their_range_and_stay_in_it() -> None:
    views = [view for plan in plans(planner("pitch", "tempo"), 300) for view in plan]
    assert {semitones(view) for view in views} == set(range(-4, 5))
    rates = [rate(view) for view in views]
    assert 0.7 <= min(rates) < 0.72 and 1.28 < max(rates) <= 1.3


def test_random_crops_fill_the_track_and_stay_inside() -> None:
    views = [view for plan in plans(planner("pitch", "tempo"), 300) for view in plan]
    assert all(v.start >= 0 and v.start + rate(v) * WINDOW_S <= TRACK_S for v in views)
    assert min(v.start for v in views) < 1
    assert max(v.start + rate(v) * WINDOW_S for v in views) > TRACK_S - 1


def test_same_crops_begin_together_and_adjacent_ones_where_the_last_ended() -> None:
    for views in plans(planner("pitch", "tempo", positives="same"), 50):
        assert len({view.start for view in views}) == 1
        assert views[0].start + max(rate(v) for v in views) * WINDOW_S <= TRACK_S
    for views in plans(planner("pitch", "tempo", positives="adjacent"), 50):
        for before, after in itertools.pairwise(views):
            assert after.start == pytest.approx(before.start + rate(before) * WINDOW_S)


@pytest.mark.parametrize("positives", ["same", "adjacent", "random"])
def test_a_short_track_still_gives_starts_within_it(positives: str) -> None:
    for views in plans(planner("pitch", positives=positives), 50, track_s=4.0):
        assert all(0 <= view.start < 4 for view in views)


def test_plans_follow_from_the_generator_alone() -> None:
    of = planner("pitch", "tempo", "eq")
    a, b = (of.plan(TRACK_S, np.random.default_rng(7)) for _ in range(2))
    for x, y in zip(a, b, strict=True):
        assert x.start == y.start and x.draws == y.draws and x.seeds == y.seeds
        assert all(np.array_equal(x.params[n], y.params[n]) for n in EQUIVARIANT)


def test_the_views_of_music_stay_what_they_were() -> None:
    """Made on 2026-11-28, before the core forgot that it hears music."""
    digest = hashlib.blake2b(digest_size=8)
    for of in (
        planner("pitch", "tempo", "eq"),
        planner(scheme="independent", positives="adjacent"),
        planner("pitch", positives="same"),
    ):
        for view in itertools.chain(*plans(of, 20)):
            # Rounded: C libraries differ in the last bits of exp and log.
            start = round(view.start, 9)
            digest.update(repr((start, view.draws, view.seeds, view.applied)).encode())
            for name in EQUIVARIANT:
                digest.update(view.params[name].astype(np.float64).round(9).tobytes())
    assert digest.hexdigest() == "f35e30b180e062d7"


def test_what_cannot_be_drawn_is_a_clear_error() -> None:
    narrow = planner("pitch", "tempo", config={"tempo": Tempo(rate=(1.0, 1.01))})
    with pytest.raises(UsageError, match=r"augmentations\.tempo: range too narrow for 2 distinct"):
        plans(narrow, 1)
    with pytest.raises(UsageError, match="2 views are too few for 2 augmentations"):
        planner("pitch", "tempo", n_views=2)
