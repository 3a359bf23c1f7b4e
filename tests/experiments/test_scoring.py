"""Which subspace speaks, and what is said of methods whose quality is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loev_cli.evaluate.manifest import Column
from loev_cli.evaluate.probes import Reading
from loev_cli.evaluate.vectors import Vectors
from loev_cli.experiments.compare import Request, _without_twins, config_of
from loev_cli.experiments.judging import Judged
from loev_cli.experiments.scoring import (
    Comparison,
    Contestant,
    choose,
    compare_labels,
    corrected,
    own_subspace,
)
from loev_cli.model import LoevModel
from loev_cli.train import pipeline
from loev_cli.train.augment import AugmentationsConfig
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Cache
from loev_cli.train.losses import ViewLabels, positives
from loev_cli.train.views import ViewPlanner
from tests.experiments.conftest import run_of

N = 80
FOLDS = np.arange(N) % 2
TRUTH = np.arange(N) % 4
COLUMN = Column("genre", "class", TRUTH, np.ones(N, np.bool_), ("a", "b", "c", "d"))


def reading(output: np.ndarray, *reached: float) -> Reading:
    return Reading(np.arange(N), FOLDS, False, TRUTH, output, TRUTH, (1.0,) * len(reached), reached)


def answers(share: float, seed: int) -> np.ndarray:
    """Right for about ``share`` of the tracks, else one class off."""
    wrong = np.random.default_rng(seed).random(N) >= share
    return (TRUTH + wrong) % 4


def contestant(name: str, share: float, *, seeds: int = 3) -> Contestant:
    vectors = Vectors({"invariant": np.zeros((N, 2), np.float32)}, None, {})
    runs = [
        Judged(
            f"{name}{s}",
            s,
            vectors,
            {("genre", "invariant", "linear"): reading(answers(share, s), share, share)},
        )
        for s in range(seeds)
    ]
    return Contestant(name, seeds > 1, runs)


def test_the_val_rows_choose_and_the_test_rows_do_not() -> None:
    right, wrong = TRUTH, (TRUTH + 1) % 4
    name, (chosen,) = choose({"a": [reading(wrong, 0.9, 0.9)], "b": [reading(right, 0.5, 0.5)]})
    assert name == "a" and (chosen.output == wrong).all()
    # Each fold by its own val rows.
    name, (chosen,) = choose({"a": [reading(wrong, 0.9, 0.1)], "b": [reading(right, 0.5, 0.5)]})
    assert name == "a in 1, b in 1"
    assert (chosen.output[FOLDS == 0] == wrong[FOLDS == 0]).all()
    assert (chosen.output[FOLDS == 1] == right[FOLDS == 1]).all()


def test_seeds_choose_together() -> None:
    of = {
        "a": [reading(TRUTH, 0.2, 0.2), reading(TRUTH, 0.8, 0.8)],
        "b": [reading(TRUTH, 0.6, 0.6), reading(TRUTH, 0.6, 0.6)],
    }
    assert choose(of)[0] == "b"


def test_a_better_method_is_found_and_an_equal_one_is_not() -> None:
    groups = np.arange(N)
    good, bad = contestant("good", 0.9), contestant("bad", 0.4)
    same = replace(bad, name="same")
    entries, differences = compare_labels(
        [good, bad, same], [COLUMN], groups, ["linear"], n_seeds=3, seed=0
    )
    of = {(d.a, d.b): d for d in corrected(differences)}
    assert set(of) == {("good", "bad"), ("good", "same"), ("bad", "same")}
    assert of["good", "bad"].is_clear and of["good", "bad"].estimate.value > 0.3
    assert of["bad", "same"].estimate.value == 0 and of["bad", "same"].p_corrected == 1
    comparison = Comparison(
        *("", "", None, [], None, [good, bad, same], {}, {}, [], [], entries),  # type: ignore[arg-type]
        corrected(differences),
    )
    assert comparison.is_below_best("genre", "bad") and comparison.is_below_best("genre", "same")
    assert not comparison.is_below_best("genre", "good")
    turned = comparison.difference("genre", "bad", "good")
    assert turned is not None and turned.signed.startswith("-0.") and "[-0." in turned.signed
    chosen = {e.contestant: e for e in entries if e.rule == "chosen" and e.metric == "accuracy"}
    wanted = np.mean([(answers(0.9, s) == TRUTH).mean() for s in range(3)])
    assert chosen["good"].estimate.value == pytest.approx(wanted)
    assert chosen["good"].estimate.chance == pytest.approx(0.25)


def test_files_are_not_tested_against_files() -> None:
    contestants = [contestant("cl", 0.5)] + [contestant(f"f{i}", 0.5, seeds=1) for i in range(2)]
    _, differences = compare_labels(
        contestants, [COLUMN], np.arange(N), ["linear"], n_seeds=3, seed=0
    )
    assert {(d.a, d.b) for d in differences} == {("cl", "f0"), ("cl", "f1")}


def test_subspaces_of_keys_and_tempos() -> None:
    assert own_subspace(replace(COLUMN, name="k", kind="key")) == "pitch"
    assert own_subspace(replace(COLUMN, name="bpm", kind="tempo")) == "tempo"
    assert own_subspace(replace(COLUMN, name="eq")) == "eq"


@pytest.mark.slow
def test_untrained_is_loevpp_as_it_is_initialized(music: Path, cache: Path, tmp_path: Path) -> None:
    config = config_of(run_of(music, "cl").config, "untrained", seed=3)
    weights = pipeline.run(config, tmp_path, device="cpu", cache=Cache(cache), n_workers=0)
    trained = pipeline.read_checkpoint(weights).model
    torch.manual_seed(3)
    fresh = dict(LoevModel(trained.spec).named_parameters())
    assert trained.spec.method == "loev++" and fresh
    for name, weight in trained.named_parameters():
        torch.testing.assert_close(weight, fresh[name], rtol=0, atol=1e-9, msg=name)


def test_looc_is_left_out_where_it_is_loev() -> None:
    request = Request([Path("m.csv")], Path("out"), TrainConfig(view_scheme="shared"))
    alone, notes = _without_twins(request)
    assert list(alone.methods) == [m for m in request.methods if m != "looc"]
    assert "looc is left out" in notes[0]
    paper = replace(request, config=TrainConfig(view_scheme="independent"))
    same, (note,) = _without_twins(paper)
    assert same == paper and "looc is trained in its own view scheme" in note
    base = TrainConfig(view_scheme="independent", n_views=2)
    looc, loev = (config_of(base, method, 1) for method in ("looc", "loev"))
    assert (looc.view_scheme, looc.n_views) == ("shared", None)
    assert loev == replace(base, method="loev", seed=1)


def test_independent_views_have_loevs_positives_for_looc() -> None:
    """Why LOOC needs views of its own."""
    planner = ViewPlanner(
        AugmentationsConfig(), ("pitch", "tempo"), scheme="independent", n_views=3
    )
    rng = np.random.default_rng(0)
    views = [view for _ in range(20) for view in planner.plan(rng)]
    labels = ViewLabels(
        torch.arange(20).repeat_interleave(3),
        {name: torch.tensor([view.draws[name] for view in views]) for name in ("pitch", "tempo")},
    )
    for head in ("pitch", "tempo"):
        looc, loev = (
            positives(head, labels, method=method, scheme="independent")
            for method in ("looc", "loev")
        )
        assert loev.any() and torch.equal(looc, loev)
