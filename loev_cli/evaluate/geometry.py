"""Geometry of each subspace, and overlap between subspaces.

alignment        mean squared distance of two parts of one track, first and last window, on the
                 sphere (Wang & Isola, ICML 2020): 0 if identical, 2 if unrelated
uniformity       log of the mean of exp(-2 d^2) over pairs of tracks (the same); lower: more spread
effective rank   exp of the entropy of the normalized singular values of the centered vectors
                 (Roy & Vetterli, EUSIPCO 2007): the effective number of dimensions
CKA              linear, of two subspaces (Kornblith et al., ICML 2019), with the unbiased HSIC of
                 Song et al. (JMLR 2012): the biased one is far above 0 for unrelated vectors with
                 more dimensions than tracks. 1: the same up to rotation; about 0: unrelated
cross-probing    R2 of one subspace's vectors predicted from another's by ridge regression
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from sklearn.linear_model import Ridge

from loev_cli.evaluate.manifest import Fold
from loev_cli.evaluate.statistics import Bootstrap, Estimate, jackknife, share
from loev_cli.evaluate.vectors import Vectors

_RIDGE_STRENGTHS = (1e5, 1e4, 1e3, 1e2, 1e1)
_FEWEST = 4  # required by the unbiased HSIC


@dataclass(frozen=True)
class Shape:
    """Statistics of one subspace; ``alignment`` is None if windows are not available."""

    subspace: str
    dim: int
    effective_rank: Estimate
    uniformity: Estimate
    alignment: Estimate | None


@dataclass(frozen=True)
class Leak:
    """Overlap of two subspaces; ``cross_r2`` is ``target`` predicted from ``source``."""

    source: str
    target: str
    cka: Estimate
    cross_r2: Estimate


def shapes(
    vectors: Vectors, rows: NDArray[np.int64], groups: NDArray[Any], *, seed: int = 0
) -> list[Shape]:
    """Of every subspace, over ``rows``; ``groups`` (N,)."""
    result = []
    for name, whole in vectors.subspaces.items():
        x = whole[rows]
        alignment = None
        if vectors.ends is not None:
            parts = vectors.ends[name][rows].astype(np.float64)
            first, last = unit(parts[:, 0]), unit(parts[:, 1])
            apart = np.square(first - last).sum(axis=1)
            if np.isfinite(apart).any():
                alignment = Bootstrap(groups[rows], seed=seed).mean(apart, bounds=None)
        result.append(
            Shape(
                subspace=name,
                dim=x.shape[1],
                effective_rank=jackknife(lambda i, x=x: effective_rank(x[i]), groups[rows]),  # type: ignore[misc]
                uniformity=jackknife(lambda i, x=x: uniformity(x[i]), groups[rows]),  # type: ignore[misc]
                alignment=alignment,
            )
        )
    return result


def leaks(
    subspaces: Mapping[str, NDArray[np.float32]],
    folds: Sequence[Fold],
    rows: NDArray[np.int64],
    groups: NDArray[Any],
    *,
    seed: int = 0,
) -> list[Leak]:
    """Between every two subspaces, both ways: CKA over ``rows``, cross-probing over ``folds``."""
    cka: dict[frozenset[str], Estimate] = {}
    for a, b in itertools.combinations(subspaces, 2):
        x, y = subspaces[a][rows], subspaces[b][rows]
        cka[frozenset((a, b))] = jackknife(
            lambda i, x=x, y=y: linear_cka(x[i], y[i]),  # type: ignore[misc]
            groups[rows],
            chance=0.0,
        )
    return [
        Leak(
            a, b, cka[frozenset((a, b))], cross_r2(subspaces[a], subspaces[b], folds, groups, seed)
        )
        for a, b in itertools.permutations(subspaces, 2)
    ]


def unit(x: NDArray[Any]) -> NDArray[np.float64]:
    """Rows (n, D) scaled to unit length; zero rows stay zero."""
    x = x.astype(np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.divide(x, length, out=x.copy(), where=length > 1e-12))


def uniformity(x: NDArray[Any]) -> float:
    """Uniformity of rows (n, D); 0 if all have the same direction."""
    if len(x) < 2:
        return float("nan")
    return float(np.log(np.exp(-2 * np.square(pdist(unit(x)))).mean()))


def effective_rank(x: NDArray[Any]) -> float:
    """Effective rank of rows (n, D): 1 for a line, at most D; 0 if all rows are equal."""
    x = x.astype(np.float64)
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    total = values.sum()
    if total <= 1e-9 * max(1.0, float(np.abs(x).sum())):
        return 0.0
    p = values[values > 0] / total
    return float(np.exp(-(p * np.log(p)).sum()))


def linear_cka(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Linear CKA of the same rows (n, D) and (n, E); NaN below four rows or without variance."""
    if len(x) < _FEWEST:
        return float("nan")
    k, m = (a @ a.T for a in (_centered(x), _centered(y)))
    own = _hsic(k, k) * _hsic(m, m)
    return _hsic(k, m) / float(np.sqrt(own)) if own > 0 else float("nan")


def _hsic(k: NDArray[np.float64], m: NDArray[np.float64]) -> float:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion, Song et al. eq. 5."""
    n = len(k)
    k, m = k.copy(), m.copy()
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    trace = float((k * m).sum())
    sums = float(k.sum() * m.sum()) / ((n - 1) * (n - 2))
    cross = 2 * float(k.sum(axis=0) @ m.sum(axis=0)) / (n - 2)
    return (trace + sums - cross) / (n * (n - 3))


def _centered(x: NDArray[Any]) -> NDArray[np.float64]:
    x = x.astype(np.float64)
    return np.asarray(x - x.mean(axis=0))


def cross_r2(
    source: NDArray[np.float32],
    target: NDArray[np.float32],
    folds: Sequence[Fold],
    groups: NDArray[Any],
    seed: int = 0,
) -> Estimate:
    """Share of the variance of ``target`` (N, E) that ``source`` (N, D) predicts in test rows."""
    rows, errors, totals = [], [], []
    for fold in folds:
        x, y = (_standardised(a, fold.train) for a in (source, target))
        fitted = []
        for strength in _RIDGE_STRENGTHS:
            ridge = Ridge(alpha=strength).fit(x[fold.train], y[fold.train])
            fitted.append((np.square(ridge.predict(x[fold.val]) - y[fold.val]).sum(), ridge))
        best = min(fitted, key=lambda item: item[0])[1]
        truth = y[fold.test]
        rows.append(fold.test)
        errors.append(np.square(best.predict(x[fold.test]) - truth).sum(axis=1))
        totals.append(np.square(truth - truth.mean(axis=0)).sum(axis=1))
    error, total = np.concatenate(errors), np.concatenate(totals)
    bootstrap = Bootstrap(groups[np.concatenate(rows)], seed=seed)
    return bootstrap.of(lambda drawn: 1 - share(drawn @ error, drawn @ total), chance=0.0)


def _standardised(x: NDArray[np.float32], train: NDArray[np.int64]) -> NDArray[np.float64]:
    """Zero mean, and one scale for all dimensions, so that weak ones stay weak."""
    centered = x.astype(np.float64) - x[train].mean(axis=0, dtype=np.float64)
    spread = float(np.sqrt(np.square(centered[train]).mean()))
    return np.asarray(centered / spread) if spread > 0 else centered
