"""The size of an embedding: mean 0 and mean squared norm 1 over what was seen."""

from __future__ import annotations

import torch

from loev_cli.model.loev import LoevModel, ModelSpec, Standardise


def test_what_was_tracked_comes_out_standardised() -> None:
    generator = torch.Generator().manual_seed(0)
    offset = 50 * torch.randn(16, generator=generator)
    module = Standardise(16)
    for _ in range(300):
        module.track(offset + 30 * torch.randn(32, 16, generator=generator))
    out = module(offset + 30 * torch.randn(5000, 16, generator=generator))
    assert out.mean(dim=0).norm() < 0.1
    assert abs(out.square().sum(dim=1).mean().item() - 1) < 0.1


def test_untracked_it_changes_nothing() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Standardise(8)(x), x)


def test_it_follows_what_it_is_given_and_keeps_out_of_the_loss() -> None:
    torch.manual_seed(0)
    model = LoevModel(ModelSpec())
    features = model.features(0.1 * torch.randn(3, 163840))
    before = model.project(features)
    assert all(int(m.n_tracked) == 0 for m in model.standardise.values())  # type: ignore[arg-type]
    model.track(before.embeddings)
    after = model.project(features)
    for head in before.projections:
        assert torch.equal(before.projections[head], after.projections[head])
    for vectors in model.encode(features).values():
        assert abs(vectors.square().sum(dim=1).mean().item() - 1) < 1e-3
