"""What each method gives: branches, heads, subspaces."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from loev_cli.errors import UsageError
from loev_cli.model import LoevModel, Method, ModelSpec
from loev_cli.model.loev import projection_head

SUBSPACES: dict[Method, dict[str, int]] = {
    "loev++": {"invariant": 256, "pitch": 240, "tempo": 256},
    "loev": {"invariant": 128, "pitch": 128, "tempo": 128, "global": 752},
    "looc": {"invariant": 128, "pitch": 128, "tempo": 128, "global": 752},
    "cl": {"invariant": 128, "global": 752},
}


@pytest.mark.parametrize("method", SUBSPACES)
def test_subspaces_heads_and_gradients(method: Method) -> None:
    torch.manual_seed(0)
    model = LoevModel(ModelSpec(method=method))
    assert model.subspaces == SUBSPACES[method]
    features = model.features(0.1 * torch.randn(2, 163840))
    projected = model.project(features)
    heads = ["invariant"] if method == "cl" else ["invariant", "pitch", "tempo"]
    assert list(projected.projections) == heads
    assert {k: v.shape[1] for k, v in projected.embeddings.items()} == model.subspaces
    torch.stack([z.sum() for z in projected.projections.values()]).sum().backward()
    assert all(p.grad is not None for p in model.parameters()), "something is never trained"
    encoded = model.encode(features)
    for name, vectors in projected.embeddings.items():  # standardize is still neutral
        assert torch.allclose(encoded[name], vectors, atol=1e-5)
    if method != "loev++":
        assert torch.allclose(
            encoded["invariant"], F.normalize(projected.projections["invariant"], dim=1), atol=1e-5
        )


def test_any_number_of_augmentations_has_a_subspace_each() -> None:
    model = LoevModel(ModelSpec(augs=("pitch", "tempo", "eq", "reverb")))
    assert list(model.subspaces) == ["invariant", "pitch", "tempo", "eq", "reverb"]
    assert list(model.heads) == list(model.subspaces)


@pytest.mark.parametrize("method", SUBSPACES)
def test_a_spec_survives_its_config(method: Method) -> None:
    spec = ModelSpec.of("small", method=method, head_final_relu=True, encoder_options={"width": 16})
    assert ModelSpec.from_config(spec.to_config()) == spec


def test_a_bundle_of_the_first_version_has_no_final_relu() -> None:
    config = ModelSpec().to_config()
    del config["head_final_relu"]
    assert ModelSpec.from_config(config) == ModelSpec()


def test_heads_end_as_they_are_told() -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    assert (projection_head(8, (16, 4), final_relu=True)(x) >= 0).all()
    assert (projection_head(8, (16, 4), final_relu=False)(x) < 0).any()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (ModelSpec(method="simclr"), "no method 'simclr'"),  # type: ignore[arg-type]
        (ModelSpec(encoder="smal"), "did you mean 'small'"),
        (ModelSpec(encoder_options={"widht": 3}), "no option 'widht'"),
        (ModelSpec(window_n_samples=160000), "must be a multiple of"),
    ],
)
def test_a_spec_that_cannot_be_built(spec: ModelSpec, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        LoevModel(spec)
