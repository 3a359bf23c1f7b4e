"""Adapt the readouts of a model to labeled tracks that it has not been fitted to.

The readouts that a model has are the prior: what is penalized is the change of the weights, not the
weights.

    mean over tracks of the cross-entropy + strength x squared change of weights and bias

So few tracks are enough, and what they say nothing about stays as it was. The strength comes from a
cross-validation over the groups of the train rows: the greatest whose log loss, after temperature
scaling, is within one standard error (over groups) of the least one. The temperature comes from the
same held-out logits, and the final fit has all train rows. The test rows are used only for the
scores. A key readout that is tied across the 12 tonics stays so.

Several manifests weigh the same, however many tracks each has, in the fit and in the choice.

Tracks to keep need no labels: their targets are the probabilities that the prior gives them, which
holds the new readouts to the old answers on such music. They weigh as much as all labeled tracks
together in every fit, and have no part in the choice of strength and temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from loev_cli.annotations import Readout, open_annotator, softmax
from loev_cli.bundle import Bundle
from loev_cli.errors import UsageError
from loev_cli.evaluate.manifest import Manifest, split
from loev_cli.evaluate.readouts import (
    FittedReadout,
    best_temperature,
    check_has,
    counts_as_right,
    judge,
    labels_of,
    soft_targets,
    turned,
    usable,
)
from loev_cli.music_keys import N_PITCH_CLASSES

# Penalties on the change, for vectors of mean variance 1, strong to weak.
STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4)
MAX_N_FOLDS = 5
_MAX_ITERATIONS = 60
_LEAST_GAIN = 1e-6  # convergence threshold of the loss per iteration
_LEAST_P = 1e-9
_TIED_TOLERANCE = 1e-4  # of the largest weight

Array = NDArray[Any]


@dataclass(frozen=True)
class Prior:
    """A readout to start from.

    Attributes:
        weight, bias: (n, D) and (n,), for the model's raw vectors.
    """

    readout: Readout
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    @property
    def is_tied(self) -> bool:
        """Whether it is a key readout whose weights are one template per mode, transposed."""
        n, dim = self.weight.shape
        if n != 2 * N_PITCH_CLASSES or dim % N_PITCH_CLASSES:
            return False
        template = torch.from_numpy(self.weight[::N_PITCH_CLASSES].copy())
        again = turned(template.reshape(2, N_PITCH_CLASSES, -1)).numpy()
        tolerance = _TIED_TOLERANCE * float(np.abs(self.weight).max())
        return bool(np.abs(again - self.weight).max() <= tolerance)


def priors_of(bundle: Bundle) -> dict[str, Prior]:
    """Name -> readout of a model.

    Raises:
        UsageError: it has none.
        BundleError: they are damaged.
    """
    annotator = open_annotator(bundle)
    return {
        name: Prior(readout, *annotator.weights[name])
        for name, readout in annotator.readouts.items()
    }


def adapt_readouts(
    manifest: Manifest,
    vectors: Mapping[str, NDArray[np.float32]],
    priors: Mapping[str, Prior],
    *,
    sources: NDArray[Any] | None = None,
    keep: Mapping[str, NDArray[np.float32]] | None = None,
    strengths: Mapping[str, float] | None = None,
    on_fitted: Callable[[FittedReadout], None] = lambda fitted: None,
) -> list[FittedReadout]:
    """The readouts of a model, adapted to each of the columns ``key`` and ``tempo`` there is.

    A readout whose column the manifest does not have is not among the results.

    Args:
        vectors: subspace -> (N, D), of the manifest's tracks.
        priors: name -> readout to start from.
        sources: (N,), what each track came from; all sources weigh the same. None: one source.
        keep: subspace -> (M, D), of tracks whose answers are to stay as they are.
        strengths: name -> penalty to use instead of the one that cross-validation chooses.

    Raises:
        UsageError: neither column, a column without a readout to start from, or too few groups.
    """
    whole = split(manifest).folds[0]
    train = whole.train
    if not (manifest.splits == "val").any():  # split() made its own
        train = np.sort(np.concatenate([train, whole.val]))
    fitted = []
    for name in labels_of(manifest):
        if name not in priors:
            raise UsageError(
                f"the model has no readout of {name} to adapt",
                hint="without --adapt a new one is fitted",
            )
        prior = priors[name]
        subspace = prior.readout.subspace
        for given in (vectors, vectors if keep is None else keep):
            check_has(given, subspace, name)
        column = manifest.columns([name])[0][0]
        known = usable(name, column)
        rows, test = train[known[train]], whole.test[known[whole.test]]
        for part, of_part in (("train", rows), ("test", test)):
            if len(of_part) == 0:
                raise UsageError(f"column '{name}' has no usable labels among the {part} rows")
        fitted.append(
            _adapt(
                name,
                prior,
                vectors[subspace],
                vectors[subspace][:0] if keep is None else keep[subspace],
                column.values,
                rows,
                test,
                manifest.groups,
                np.zeros(len(manifest)) if sources is None else sources,
                (strengths[name],) if strengths and name in strengths else STRENGTHS,
            )
        )
        on_fitted(fitted[-1])
    return fitted


def _adapt(
    name: str,
    prior: Prior,
    x: NDArray[np.float32],
    kept: NDArray[np.float32],
    truth: Array,
    rows: Array,
    test: Array,
    groups: Array,
    sources: Array,
    strengths: tuple[float, ...],
) -> FittedReadout:
    seen = np.concatenate([x[rows], kept])
    center = seen.mean(axis=0, dtype=np.float64)
    scale = float(np.sqrt(seen.var(axis=0, dtype=np.float64).mean())) or 1.0
    start = _Start.of(prior, center, scale)
    prepared = torch.from_numpy(((x[rows] - center) / scale).astype(np.float32))
    anchors = torch.from_numpy(((kept - center) / scale).astype(np.float32))
    targets = torch.from_numpy(soft_targets(prior.readout, truth[rows]))
    right = counts_as_right(prior.readout, truth[rows])
    weights = _weights(sources[rows])

    def losses(logits: Array, temperature: float) -> NDArray[np.float64]:
        """(n,): log loss of each train row, for logits (n, C)."""
        p = (softmax(logits, temperature) * right).sum(axis=1)
        return np.asarray(-np.log(np.maximum(p, _LEAST_P)))

    def calibrated(logits: Array) -> tuple[float, float]:
        """Temperature and mean log loss of logits (n, C) of the train rows."""
        return best_temperature(lambda t: float((weights * losses(logits, t)).sum()))

    _, as_it_was = calibrated((prepared @ start.weight.T + start.bias).numpy())
    fold_of = _folds(groups[rows])
    paths = [
        _path(
            start,
            prepared[fold_of != k],
            targets[fold_of != k],
            weights[fold_of != k],
            anchors,
            strengths,
        )
        for k in np.unique(fold_of)
    ]
    tried: list[tuple[float, float, NDArray[np.float64]]] = []  # strength, temperature, losses
    least = math.inf
    for steps in zip(*paths, strict=True):
        held = np.zeros(targets.shape, np.float32)
        for k, (_, weight, bias) in zip(np.unique(fold_of), steps, strict=True):
            held[fold_of == k] = (prepared[fold_of == k] @ weight.T + bias).numpy()
        temperature, loss = calibrated(held)
        if loss >= least:
            break  # the weaker, the worse from here on
        least = loss
        tried.append((steps[0][0], temperature, losses(held, temperature)))
    strength, temperature, chosen = next(
        each for each in tried if _is_as_good(each[2] - tried[-1][2], weights, groups[rows])
    )
    weight, bias = next(
        (weight, bias)
        for at, weight, bias in _path(start, prepared, targets, weights, anchors, strengths)
        if at == strength
    )
    # Back to raw vectors.
    raw = weight.numpy().astype(np.float64) / scale
    offset = bias.numpy().astype(np.float64) - raw @ center
    readout = replace(prior.readout, temperature=round(temperature, 4))
    logits = x[test] @ raw.T.astype(np.float32) + offset.astype(np.float32)
    scores, curve = judge([readout.answer(row) for row in logits], truth[test], groups[test])[name]
    return FittedReadout(
        name=name,
        readout=readout,
        weight=raw.astype(np.float32),
        bias=offset.astype(np.float32),
        tied=start.is_tied,
        strength=strength,
        n_tracks={"train": len(rows), "val": 0, "test": len(test)},
        label_range=(
            (float(truth[rows].min()), float(truth[rows].max())) if name == "tempo" else None
        ),
        scores=scores,
        curve=curve,
        log_loss=float((weights * chosen).sum()),
        rivals={"before": as_it_was},
    )


@dataclass(frozen=True)
class _Start:
    """The prior for prepared vectors: weight (n, D), bias (n,), as calibrated logits."""

    weight: Tensor
    bias: Tensor
    is_tied: bool

    @classmethod
    def of(cls, prior: Prior, center: Array, scale: float) -> _Start:
        weight = prior.weight.astype(np.float64) / prior.readout.temperature
        bias = prior.bias.astype(np.float64) / prior.readout.temperature + weight @ center
        return cls(
            torch.from_numpy((weight * scale).astype(np.float32)),
            torch.from_numpy(bias.astype(np.float32)),
            prior.is_tied,
        )


def _is_as_good(difference: Array, weights: Array, groups: Array) -> bool:
    """Whether a mean loss is within one standard error of the least one.

    Args:
        difference: (n,), of the losses.
        weights: (n,), with sum 1.
        groups: (n,), whose tracks are not independent.
    """
    mean = float((weights * difference).sum())
    _, of_row = np.unique(groups, return_inverse=True)
    by_group = np.bincount(of_row, weights=weights * (difference - mean))
    return mean <= math.sqrt(float(np.square(by_group).sum()))


def _weights(sources: Array) -> NDArray[np.float64]:
    """(n,), with sum 1: the same sum for every source."""
    names, of_row, counts = np.unique(sources, return_inverse=True, return_counts=True)
    return np.asarray(1 / (len(names) * counts[of_row]))


def _folds(groups: Array) -> NDArray[np.int64]:
    """(n,): number of the fold; no group is in two.

    Raises:
        UsageError: only one group.
    """
    names, of_row = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise UsageError(
            "all train rows are in one group: there is nothing to cross-validate with",
            hint="add a column group, or rows of other groups",
        )
    order = np.random.default_rng(0).permutation(len(names))
    return np.asarray((order % min(MAX_N_FOLDS, len(names)))[of_row], np.int64)


def _path(
    start: _Start,
    x: Tensor,
    targets: Tensor,
    weights: NDArray[np.float64],
    anchors: Tensor,
    strengths: tuple[float, ...],
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """(strength, weight, bias) for every strength; each fit starts from the one before.

    Args:
        anchors: (M, D), prepared vectors of the tracks to keep.
    """
    share = torch.from_numpy((weights / weights.sum()).astype(np.float32))
    if len(anchors):
        as_before = torch.softmax(anchors @ start.weight.T + start.bias, dim=1)
        x, targets = torch.cat([x, anchors]), torch.cat([targets, as_before])
        share = torch.cat([0.5 * share, torch.full((len(anchors),), 0.5 / len(anchors))])
    n, dim = start.weight.shape
    shape = (2, N_PITCH_CLASSES, dim // N_PITCH_CLASSES) if start.is_tied else (n, dim)
    change = torch.zeros(shape, requires_grad=True)
    shift = torch.zeros(2 if start.is_tied else n, requires_grad=True)

    def linear() -> tuple[Tensor, Tensor]:
        if start.is_tied:
            by_tonic = shift.repeat_interleave(N_PITCH_CLASSES)
            return start.weight + turned(change), start.bias + by_tonic
        return start.weight + change, start.bias + shift

    for strength in strengths:
        optimizer = torch.optim.LBFGS(
            [change, shift],
            max_iter=_MAX_ITERATIONS,
            tolerance_change=_LEAST_GAIN,
            line_search_fn="strong_wolfe",
        )

        def loss(strength: float = strength, optimizer: torch.optim.LBFGS = optimizer) -> float:
            optimizer.zero_grad()
            weight, bias = linear()
            each = F.cross_entropy(x @ weight.T + bias, targets, reduction="none")
            value = (share * each).sum()
            value = value + strength * (change.square().sum() + shift.square().sum())
            value.backward()  # type: ignore[no-untyped-call]
            return value.item()

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        weight, bias = linear()
        yield strength, weight.detach().clone(), bias.detach().clone()
