"""The size of an embedding: mean 0 and mean squared norm 1 over what was seen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from loev_cli.model.loev import LoevModel, ModelSpec, Standardize, StandardizeWithinTracks

KINDS = (Standardize, StandardizeWithinTracks)
N_TRACKS, N_VIEWS = 32, 3
TRACKS = torch.arange(N_TRACKS).repeat_interleave(N_VIEWS)


def views(generator: torch.Generator, sway: Tensor, *, n_tracks: int = N_TRACKS) -> Tensor:
    """Views (R, D) of tracks that differ alike in all directions, and scatter most along one."""
    dim = len(sway)
    track = torch.randn(n_tracks, dim, generator=generator).repeat_interleave(N_VIEWS, dim=0)
    scatter = 0.1 * torch.randn(len(track), dim, generator=generator)
    return track + scatter + 5 * torch.randn(len(track), 1, generator=generator) * sway


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_tracked_comes_out_standardised(kind: type[Standardize]) -> None:
    generator = torch.Generator().manual_seed(0)
    offset = 50 * torch.randn(16, generator=generator)
    module, sway = kind(16), torch.eye(16)[3]
    for _ in range(300):
        module.track(offset + 30 * views(generator, sway), TRACKS)
    module.settle()
    out = module(offset + 30 * views(generator, sway, n_tracks=4000))
    assert out.mean(dim=0).norm() < 0.1
    assert abs(out.square().sum(dim=1).mean().item() - 1) < 0.1


def test_what_moves_all_tracks_alike_counts_for_little_in_a_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    sway = torch.nn.functional.normalize(torch.randn(16, generator=generator), dim=0)
    found = {}
    for kind in KINDS:
        module = kind(16)
        for _ in range(100):
            module.track(views(generator, sway), TRACKS)
        module.settle()
        a, b = (module(views(torch.Generator().manual_seed(7), s * sway)) for s in (1.0, 0.0))
        apart = torch.cdist(b[::N_VIEWS], b[::N_VIEWS])
        found[kind] = ((a - b).norm(dim=1).mean() / apart.sum() * N_TRACKS * (N_TRACKS - 1)).item()
    assert found[Standardize] > 0.5
    assert found[StandardizeWithinTracks] < 0.2 * found[Standardize]


@pytest.mark.parametrize("kind", KINDS)
def test_untracked_it_changes_nothing(kind: type[Standardize]) -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    module = kind(8)
    module.settle()
    assert torch.equal(module(x), x)


@pytest.mark.parametrize("kind", KINDS)
def test_one_view_per_track_still_has_a_mean_and_a_scale(kind: type[Standardize]) -> None:
    x = 7 + 3 * torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    module = kind(8)
    module.track(x, torch.arange(64))
    module.settle()
    out = module(x)
    assert out.mean(dim=0).norm() < 1e-4
    assert out.square().sum(dim=1).mean().item() == pytest.approx(1, abs=1e-3)


def test_weights_of_before_embed_as_they_did() -> None:
    old = Standardize(8)
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)) * 4 + 2
    old.track(x, torch.arange(10).repeat_interleave(3))
    new = StandardizeWithinTracks(8)
    new.load_state_dict(old.state_dict())
    torch.testing.assert_close(new(x), old(x))
    new.settle()  # as a checkpoint's weights are, that were never trained further
    torch.testing.assert_close(new(x), old(x))
    with pytest.raises(RuntimeError, match="Missing key"):
        new.load_state_dict({})


def test_it_follows_what_it_is_given_and_keeps_out_of_the_loss() -> None:
    torch.manual_seed(0)
    model = LoevModel(ModelSpec())
    features = model.features(0.1 * torch.randn(4, 163840))
    before = model.project(features)
    assert all(int(m.n_tracked) == 0 for m in model.standardise.values())  # type: ignore[arg-type]
    model.track(before.embeddings, torch.tensor([0, 0, 1, 1]))
    model.settle()
    after = model.project(features)
    for head in before.projections:
        assert torch.equal(before.projections[head], after.projections[head])
    for vectors in model.encode(features).values():
        assert abs(vectors.square().sum(dim=1).mean().item() - 1) < 1e-3
