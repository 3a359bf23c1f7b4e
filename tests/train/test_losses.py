"""The loss against a double loop written from the formula, and against the research code."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from loev_cli.model.loev import Method
from loev_cli.train.losses import (
    VIEW_SCHEMES,
    ViewLabels,
    ViewScheme,
    contrastive_loss,
    loev_losses,
    mean_loss,
    positives,
)

REFERENCE = np.load(Path(__file__).parent.parent / "reference" / "losses.npz")
CASES = ["loss_B4_N2", "loss_B8_N2", "loss_B6_N3"]


def reference_labels(case: str) -> ViewLabels:
    flags = REFERENCE[f"{case}__aug_pitch"]
    n_tracks, n_views = flags.shape
    return ViewLabels(
        torch.arange(n_tracks).repeat_interleave(n_views),
        {
            aug: torch.tensor(REFERENCE[f"{case}__aug_{aug}"]).flatten()
            for aug in ("pitch", "tempo")
        },
    )


@pytest.mark.parametrize("head", ["invariant", "pitch", "tempo"])
@pytest.mark.parametrize("case", CASES)
def test_positives_and_losses_of_the_research_code(case: str, head: str) -> None:
    labels = reference_labels(case)
    mask = positives(head, labels, method="loev++", scheme="independent").numpy()
    expected = REFERENCE[f"{case}__positives_{head}"].astype(bool)
    np.fill_diagonal(expected, False)
    np.testing.assert_array_equal(mask, expected)

    features = torch.tensor(REFERENCE[f"{case}__features"])
    losses = loev_losses(
        {head: features}, labels, method="loev++", scheme="independent", temperature=0.1
    )
    assert losses[head].item() == pytest.approx(float(REFERENCE[f"{case}__loss_{head}"]), abs=1e-5)


def naive_positives(
    head: str, labels: ViewLabels, method: Method, scheme: ViewScheme
) -> list[set[int]]:
    """P_h(a) for every row, spelled out from DESIGN section 3."""
    rows = range(len(labels.track))
    result = []
    for a in rows:
        found = set()
        for b in rows:
            if a == b or labels.track[a] != labels.track[b]:
                continue
            if head == "invariant":
                found.add(b)
                continue
            draw_a, draw_b = int(labels.draws[head][a]), int(labels.draws[head][b])
            if scheme == "shared" or method == "looc":
                same = draw_a == draw_b
            else:
                same = draw_a == 0 and draw_b == 0
            if same:
                found.add(b)
        result.append(found)
    return result


def naive_loss(z: np.ndarray, positive: list[set[int]], tau: float, count_empty: bool) -> float:
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    total, rows = 0.0, 0
    for a in range(len(z)):
        rows += bool(positive[a]) or count_empty
        for b in positive[a]:
            below = sum(math.exp(z[a] @ z[c] / tau) for c in range(len(z)) if c != a)
            total -= math.log(math.exp(z[a] @ z[b] / tau) / below + 1e-6) / len(positive[a])
    return total / max(rows, 1)


@pytest.mark.parametrize("scheme", VIEW_SCHEMES)
@pytest.mark.parametrize("method", ["loev++", "loev", "looc", "cl"])
@pytest.mark.parametrize("n_augs", [1, 2, 3])
def test_equals_the_double_loop(method: Method, scheme: ViewScheme, n_augs: int) -> None:
    rng = np.random.default_rng([n_augs, len(method), len(scheme)])
    n_tracks, n_views = 4, n_augs + 1
    augs = ["pitch", "tempo", "eq"][:n_augs]
    labels = ViewLabels(
        torch.arange(n_tracks).repeat_interleave(n_views),
        {aug: torch.tensor(rng.integers(0, 3, n_tracks * n_views)) for aug in augs},
    )
    heads = ["invariant"] if method == "cl" else ["invariant", *augs]
    z = {head: rng.standard_normal((n_tracks * n_views, 5)) for head in heads}
    losses = loev_losses(
        {head: torch.tensor(value) for head, value in z.items()},
        labels,
        method=method,
        scheme=scheme,
        temperature=0.2,
    )
    expected = {
        head: naive_loss(
            z[head],
            naive_positives(head, labels, method, scheme),
            0.2,
            count_empty=scheme == "independent",
        )
        for head in heads
    }
    for head in heads:
        assert losses[head].item() == pytest.approx(expected[head], rel=1e-6), head
    assert mean_loss(losses).item() == pytest.approx(np.mean(list(expected.values())), rel=1e-6)


def test_closed_form_of_orthogonal_tracks() -> None:
    """Two views on top of each other, B tracks at right angles: log(e^(1/t) + 2(B - 1)) - 1/t."""
    n_tracks, tau = 4, 0.5
    z = torch.eye(n_tracks, dtype=torch.float64).repeat_interleave(2, dim=0)
    labels = ViewLabels(torch.arange(n_tracks).repeat_interleave(2), {})
    mask = positives("invariant", labels, method="cl", scheme="shared")
    loss = contrastive_loss(z, mask, temperature=tau, count_empty_rows=False)
    expected = math.log(math.exp(1 / tau) + 2 * (n_tracks - 1)) - 1 / tau
    assert loss.item() == pytest.approx(expected, abs=1e-4)


def test_the_order_of_rows_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    track = torch.arange(3).repeat_interleave(3)
    draw = torch.tensor([0, 0, 2] * 3)
    order = torch.randperm(9, generator=generator)
    losses = [
        loev_losses(
            {"pitch": z[index]},
            ViewLabels(track[index], {"pitch": draw[index]}),
            method="loev++",
            scheme="shared",
            temperature=0.1,
        )["pitch"].item()
        for index in (torch.arange(9), order)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_far_apart_logits_stay_finite() -> None:
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 1e-3], [1.0, -1e-3]], requires_grad=True)
    labels = ViewLabels(torch.tensor([0, 0, 1, 1]), {})
    mask = positives("invariant", labels, method="cl", scheme="shared")
    loss = contrastive_loss(z, mask, temperature=0.01, count_empty_rows=False)
    loss.backward()
    assert torch.isfinite(loss) and z.grad is not None and torch.isfinite(z.grad).all()


def test_no_row_with_a_positive_is_a_loss_of_zero() -> None:
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels = ViewLabels(torch.arange(4), {})
    mask = positives("invariant", labels, method="cl", scheme="shared")
    for count_empty_rows in (False, True):
        loss = contrastive_loss(z, mask, temperature=0.1, count_empty_rows=count_empty_rows)
        assert loss.item() == 0.0


def test_every_pair_of_draws_is_covered() -> None:
    """The mask is symmetric for every method, scheme and head."""
    rng = np.random.default_rng(0)
    labels = ViewLabels(
        torch.tensor(rng.integers(0, 3, 20)), {"pitch": torch.tensor(rng.integers(0, 2, 20))}
    )
    methods: list[Method] = ["loev++", "loev", "looc"]
    for method, scheme, head in itertools.product(methods, VIEW_SCHEMES, ("invariant", "pitch")):
        mask = positives(head, labels, method=method, scheme=scheme)
        assert torch.equal(mask, mask.T) and not mask.diagonal().any()
