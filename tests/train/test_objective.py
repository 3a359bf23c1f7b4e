"""A batch in parts has the losses and gradients of the whole."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

from loev_cli.model import LoevModel, Method, ModelSpec
from loev_cli.model.frontend import Features
from loev_cli.train.batches import Batch
from loev_cli.train.config import TrainConfig
from loev_cli.train.distributed import Group
from loev_cli.train.losses import ViewLabels, ViewScheme
from loev_cli.train.objective import Objective
from tests.train.conftest import TINY

N_TRACKS, N_VIEWS = 4, 3
# One output per pitch class would be scaled by a gain that the loss does not see.
SMALL = TINY | {"encoder_options": TINY["encoder_options"] | {"pitch_dim": 24}}


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    n = N_TRACKS * N_VIEWS
    features = Features(
        torch.randn(n, 168, 80, generator=generator) - 8,
        torch.randn(n, 28, 320, generator=generator) - 8,
    )
    labels = ViewLabels(
        torch.arange(N_TRACKS).repeat_interleave(N_VIEWS),
        {"pitch": torch.tensor([0, 0, 2] * N_TRACKS), "tempo": torch.tensor([0, 1, 0] * N_TRACKS)},
    )
    return Batch(features, labels, ("x",) * N_TRACKS)


def computed(
    method: Method, scheme: ViewScheme, n_rows_at_once: int | None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses, gradients and embeddings of one fixed batch and model."""
    torch.manual_seed(0)
    model = LoevModel(ModelSpec(method=method, **SMALL)).train()
    config = TrainConfig(method=method, view_scheme=scheme)
    objective = Objective(
        config, Group(), n_rows_at_once=n_rows_at_once, autocast=contextlib.nullcontext
    )
    found = objective.backward(model, batch(), step=3)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == dict(model.named_parameters()).keys()
    return found.losses, gradients, found.embeddings


@pytest.mark.parametrize("scheme", ["shared", "independent"])
@pytest.mark.parametrize("method", ["loev++", "loev", "looc", "cl"])
def test_parts_equal_the_whole(method: Method, scheme: ViewScheme) -> None:
    whole = computed(method, scheme, None)
    for size in (6, 5):  # 12 rows in equal parts, and with a rest
        for a, b in zip(whole, computed(method, scheme, size), strict=True):
            assert a.keys() == b.keys()
            for name in a:
                scale = a[name].abs().max().clamp(min=1e-6)
                assert (a[name] - b[name]).abs().max() < 1e-4 * scale, name


def test_a_parts_second_pass_drops_what_its_first_did() -> None:
    """What is random in the encoder must not change between the two passes over a part."""

    class Dropping(LoevModel):
        seen: list[torch.Tensor]

        def project(self, features: Any, heads: Any = None) -> Any:
            self.seen.append(torch.rand(3))
            return super().project(features, heads)

    model = Dropping(ModelSpec(**SMALL)).train()
    model.seen = []
    objective = Objective(TrainConfig(), Group(), n_rows_at_once=4, autocast=contextlib.nullcontext)
    objective.backward(model, batch(), step=0)
    first, second = model.seen[:3], model.seen[3:]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    objective.backward(model, batch(), step=1)
    assert not torch.equal(model.seen[6], first[0])


@pytest.mark.slow
def test_first_passes_leave_batch_norms_alone() -> None:
    """Running statistics move once per row, as without parts; the encoder of the paper has them."""
    spec = ModelSpec.of("sf-nfnet-f0", method="cl")
    torch.manual_seed(0)
    model = LoevModel(spec).train()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    features = model.features(0.1 * torch.randn(4, spec.window_n_samples))
    n_passes: list[int] = []
    norms[0].register_forward_hook(lambda norm, *_: n_passes.append(norm.momentum != 0))
    labels = ViewLabels(torch.tensor([0, 0, 1, 1]), {})
    objective = Objective(
        TrainConfig(method="cl"), Group(), n_rows_at_once=2, autocast=contextlib.nullcontext
    )
    objective.backward(model, Batch(features, labels, ("a", "b")), step=0)
    assert n_passes == [False, False, True, True]
    assert norms[0].momentum != 0


def test_a_loss_that_is_no_number_leaves_no_gradient() -> None:
    model = LoevModel(ModelSpec(**SMALL))
    broken = batch()
    features = Features(broken.features.spectrum * float("nan"), broken.features.bands)
    objective = Objective(
        TrainConfig(), Group(), n_rows_at_once=None, autocast=contextlib.nullcontext
    )
    found = objective.backward(model, Batch(features, broken.labels, broken.paths), step=0)
    assert not torch.isfinite(found.loss)
    assert all(p.grad is None for p in model.parameters())
