"""Training on variants that a manifest names: which file a view is cut from, what it is compared
with, and what stays as it was when only the new subspace is trained."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from loev_cli.errors import UsageError
from loev_cli.train import pipeline
from loev_cli.train.batches import BatchMaker
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Cache, Track, listing, load_tracks
from loev_cli.train.items import of_works, split
from loev_cli.train.loop import Trainer, model_spec
from loev_cli.train.losses import ViewLabels, positives
from loev_cli.train.metrics import Progress
from loev_cli.train.music import Crops, rate, semitones
from loev_cli.train.views import ViewPlanner
from tests.conftest import Loev
from tests.train.conftest import (
    TINY_OPTIONS,
    assert_same,
    config_of,
    train,
    weights,
    write_track,
)

AUGS = ("pitch", "tempo", "timbre")
N_WORKS, N_VARIANTS = 4, 3


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of works with three variants each, and of two recordings with none."""
    folder = tmp_path_factory.mktemp("variants")
    lines = ["path,track,timbre"]
    for work in range(N_WORKS):
        for variant in range(N_VARIANTS):
            # Of another length each, as takes are.
            name = f"{work}-{variant}.wav"
            write_track(folder / name, seed=10 * work + variant, seconds=12.0 + variant)
            lines.append(f"{name},work {work},{variant}")
    for alone in ("x.wav", "y.wav"):
        write_track(folder / alone, seed=ord(alone[0]))
        lines.append(f"{alone},,")
    for file in folder.glob("*.wav"):
        os.utime(file, (1, 1))
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def config(manifest: Path, **changes: Any) -> TrainConfig:
    return config_of(manifest, **{"augs": AUGS, "batch_size": 6, "val_fraction": 0.0} | changes)


def loaded(settings: TrainConfig, cache: Path) -> tuple[BatchMaker, list[Track]]:
    maker = BatchMaker(settings, model_spec(settings))
    tracks, skipped = load_tracks(
        listing(settings.data, settings.variants),
        maker.domain.make_views.content,
        Cache(cache),
        max_track_s=600,
        n_workers=0,
        variants=settings.variants,
    )
    assert not skipped
    return maker, tracks


# --- what a manifest may say


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("path,track\na.wav,1\n", "no augmentation 'timbre', and no column 'timbre'"),
        ("path,timbre\na.wav,1\n", "no column 'track'"),
        ("path,track,timbre\na.wav,1,x\nb.wav,1,x\nc.wav,2,y\n", "no track has two variants"),
        ("path,track,timbre\na.wav,1,x\nb.wav,1,\n", "line 3: 'timbre' is empty, and track '1'"),
        ("path,track,timbre,split\na.wav,1,x,test\nb.wav,1,y,test\n", "no track has two variants"),
    ],
)
def test_a_manifest_without_variants_says_so(tmp_path: Path, rows: str, says: str) -> None:
    (tmp_path / "m.csv").write_text(rows)
    with pytest.raises(UsageError, match=says):
        listing(str(tmp_path / "m.csv"), ("timbre",))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": "folder"}, "no augmentation 'timbre'"),
        ({"augs": ("pitch", "track")}, "'track' cannot be the name of a subspace"),
        ({"augs": ("pitch", "my mix")}, "'my mix' cannot be the name of a subspace"),
        ({"view_scheme": "independent"}, "does not go with variants"),
        ({"across_tracks": ("pitch",)}, "across_tracks: no 'pitch'"),
        ({"train_only": ("timber",)}, "train_only: no 'timber'"),
        ({"train_only": ("timbre",), "method": "loev"}, "train_only needs method loev\\+\\+"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        config(Path("m.csv"), **changes)


def test_files_of_a_work_are_one_track_and_on_one_side(variants: Path, cache: Path) -> None:
    _, files = loaded(config(variants), cache)
    train_files, val_files = split(files, val_fraction=0.3, seed=0)
    assert val_files
    assert not {f.work for f in train_files if f.work} & {f.work for f in val_files if f.work}
    tracks = of_works(files)
    assert [len(track.files) for track in tracks] == [N_VARIANTS] * N_WORKS + [1, 1]
    numbers = [[file.variant["timbre"] for file in track.files] for track in tracks]
    assert numbers[0] == numbers[1] and len(set(numbers[0])) == N_VARIANTS
    assert len({*numbers[0], *numbers[-1], *numbers[-2]}) == N_VARIANTS + 2


# --- views


def takes(*variants: dict[str, int]) -> list[Any]:
    return [SimpleNamespace(variant=v, duration_s=20.0 + i) for i, v in enumerate(variants)]


def planned(heads: tuple[str, ...], files: list[Any]) -> list[list[Any]]:
    of = ViewPlanner(TrainConfig().augmentations, heads, scheme="shared", n_views=None)
    rng = np.random.default_rng(0)
    crops = Crops("random", 5.0)
    plans = [of.plan(rng, files) for _ in range(50)]
    return [crops(views, [files[view.take].duration_s for view in views], rng) for views in plans]


def test_a_head_has_a_pair_of_one_variant_and_all_other_views_have_others() -> None:
    files = takes(*({"timbre": number} for number in (7, 8, 9, 10)))
    for views in planned(AUGS, files):
        drawn = [view.draws["timbre"] for view in views]
        assert drawn == [files[view.take].variant["timbre"] for view in views]
        assert drawn[0] == drawn[3] and len(set(drawn[:3])) == 3
        assert semitones(views[1]) == semitones(views[0]) != semitones(views[3])
        for view in views:
            assert view.start + rate(view) * 5.0 <= files[view.take].duration_s


def test_with_two_variants_views_that_should_differ_share_one_and_say_so() -> None:
    for views in planned(AUGS, takes({"timbre": 7}, {"timbre": 8})):
        drawn = [view.draws["timbre"] for view in views]
        assert drawn[0] == drawn[3] != drawn[1] == drawn[2]


def test_two_kinds_of_variants_are_shared_one_at_a_time() -> None:
    files = takes(*({"mix": mix, "take": take} for mix in (1, 2) for take in (1, 2)))
    for base, same_mix, same_take in planned(("mix", "take"), files):
        assert same_mix.draws["mix"] == base.draws["mix"]
        assert same_mix.draws["take"] != base.draws["take"]
        assert same_take.draws["take"] == base.draws["take"]
        assert same_take.draws["mix"] != base.draws["mix"]


def test_positives_of_a_batch(variants: Path, cache: Path) -> None:
    maker, files = loaded(config(variants, across_tracks=("timbre",)), cache)
    labels = maker(of_works(files), step=0).labels
    alone = ViewLabels(labels.track, labels.draws)
    track, draw = labels.track.numpy(), labels.draws["timbre"].numpy()
    off_diagonal = ~np.eye(len(track), dtype=bool)
    same_track = (track[:, None] == track) & off_diagonal
    same_draw = (draw[:, None] == draw) & off_diagonal
    assert (same_draw & ~same_track).any() and (same_track & ~same_draw).any()

    def mask(head: str, of: ViewLabels) -> np.ndarray:
        return positives(head, of, method="loev++", scheme="shared").numpy()

    np.testing.assert_array_equal(mask("timbre", labels), same_draw)
    np.testing.assert_array_equal(mask("timbre", alone), same_draw & same_track)
    np.testing.assert_array_equal(mask("invariant", labels), same_track)


# --- runs


def test_all_subspaces_train_on_variants_and_validation_changes_the_variant(
    variants: Path, cache: Path, tmp_path: Path
) -> None:
    found: dict[int, Any] = {}
    settings = config(variants, batch_size=3, val_fraction=0.4, validate_every=2, steps=2)
    train(
        settings, tmp_path / "run", cache, events=pipeline.Events(on_validation=found.__setitem__)
    )
    assert list(found[2].losses) == ["invariant", *AUGS]
    for moved_by in found[2].sensitivity.values():
        assert set(moved_by) == {"pitch", "tempo", "timbre"}
        assert moved_by["timbre"] > 0


def test_only_the_new_subspace_is_trained(
    music: Path, variants: Path, cache: Path, tmp_path: Path
) -> None:
    train(config_of(music), tmp_path / "old", cache)
    init = tmp_path / "old" / "checkpoints" / "last.pt"
    settings = config(variants, train_only=("timbre",), across_tracks=("timbre",), batch_size=4)
    reported = train(settings, tmp_path / "new", cache, init=init)
    assert all(list(progress.losses) == ["timbre"] for progress in reported)

    old = pipeline.read_checkpoint(init).model.eval()
    trained = pipeline.read_checkpoint(tmp_path / "new" / "checkpoints" / "last.pt")
    new = trained.model.eval()
    assert pipeline.augmentation_ranges(trained.config)["timbre"] == {
        "variants": True,
        "across_tracks": True,
    }
    start = Trainer(settings, tmp_path, init=old).model.state_dict()
    moved = {name for name, value in new.state_dict().items() if not value.equal(start[name])}
    assert {name.split(".timbre.")[0] for name in moved} == {
        "encoder.branches",
        "heads",
        "standardise",
    }
    assert all(".timbre." in name for name in moved)
    first = "shape_convs.0.0.weight"  # the new branch has begun as `invariant`
    assert start[f"encoder.branches.timbre.{first}"].equal(
        start[f"encoder.branches.invariant.{first}"]
    )

    windows = 0.1 * torch.randn(2, 81920, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        was, now = old(windows), new(windows)
    assert list(now) == ["invariant", *AUGS]
    assert all(torch.equal(now[name], was[name]) for name in was)


def test_a_run_that_trains_one_subspace_goes_on_where_it_stopped(
    variants: Path, cache: Path, tmp_path: Path
) -> None:
    settings = config(variants, steps=1, batch_size=4)
    train(settings, tmp_path / "first", cache)
    init = tmp_path / "first" / "checkpoints" / "last.pt"
    alone = replace(settings, train_only=("timbre",), steps=4)
    train(alone, tmp_path / "whole", cache, init=init)
    events = pipeline.Events(on_step=_interrupted_at(2))
    with pytest.raises(KeyboardInterrupt):
        train(alone, tmp_path / "parts", cache, init=init, events=events)
    train(alone, tmp_path / "parts", cache, resume=True)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def _interrupted_at(step: int) -> Callable[[Progress], None]:
    def on_step(progress: Progress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    return on_step


def test_the_command_plans_it(loev: Loev, variants: Path, tmp_path: Path) -> None:
    done = loev(
        *("train", variants, "--augs", "pitch,tempo,timbre", "--across-tracks", "timbre"),
        *("--train-only", "timbre", "--steps", "3", "--batch-size", "4", "--dry-run"),
        *("--out", tmp_path / "run", *TINY_OPTIONS),
    )
    assert done.code == 0, done.err
    assert "timbre 8" in done.out, "its dimension"
    n_files = N_WORKS * N_VARIANTS + 2
    assert f" {n_files}, " in done.out


def test_frozen_batch_norms_keep_their_statistics(
    variants: Path, cache: Path, tmp_path: Path
) -> None:
    settings = config(variants, encoder="sf-nfnet-f0", encoder_options={}, head_dims=None)
    model = Trainer(settings, tmp_path).model
    model.train_only(("timbre",))
    assert not model.encoder.slow_stem.training and model.encoder.branches["timbre"].training
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if ".timbre." in n
    }


def test_train_only_needs_weights(variants: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="train_only = timbre needs weights"):
        train(config(variants, train_only=("timbre",)), tmp_path / "run", cache)
