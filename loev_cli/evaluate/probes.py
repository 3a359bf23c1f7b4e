"""Probes of each subspace, and of all concatenated.

A probe is a multinomial logistic or ridge regression (``linear``), or a network with one hidden
layer (``mlp``), on standardized vectors. It is fitted to the train rows for several strengths of
regularization; the best one on the val rows is scored on the test rows. The test rows of all folds
are scored together; rankings (multilabel) are scored per fold and averaged.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor

from loev_cli.errors import UsageError
from loev_cli.evaluate.labels import Column
from loev_cli.evaluate.splits import Fold
from loev_cli.evaluate.statistics import Bootstrap, Estimate
from loev_cli.evaluate.tasks import TASKS, Array, Metric, Task

PROBES = ("linear", "mlp")

# Strongest regularization first, so that ties keep the strongest.
_INVERSE_STRENGTHS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
_RIDGE_STRENGTHS = (1e5, 1e4, 1e3, 1e2, 1e1, 1.0)
_MLP_STRENGTHS = (10.0, 1.0, 0.01)
_N_HIDDEN = 128
_MAX_ITERATIONS = 300
_MAX_MLP_EPOCHS = 100


@dataclass(frozen=True)
class Reading:
    """Predictions of a probe for the test rows.

    Attributes:
        rows: (n,) test rows of the manifest.
        fold_of: (n,) the fold of each.
        is_judged_by_fold: whether a metric is the mean over folds, not of all rows together.
        truth, output: (n,) or (n, L), in the label's units.
        learned: the training labels of all folds.
        strength: the regularization chosen in each fold, in scikit-learn's units.
        reached: the main validation metric of the chosen probe in each fold.
    """

    rows: NDArray[np.int64]
    fold_of: NDArray[np.int64]
    is_judged_by_fold: bool
    truth: Array
    output: Array
    learned: Array
    strength: tuple[float, ...]
    reached: tuple[float, ...]

    def score(self, metric: Metric, i: NDArray[np.int64]) -> float:
        """A metric of some of the rows, the mean over folds weighted by their size."""
        fold_of = self.fold_of[i] if self.is_judged_by_fold else np.zeros(len(i), np.int64)
        parts = [i[fold_of == fold] for fold in np.unique(fold_of)]
        values = np.array([metric(self.truth[part], self.output[part]) for part in parts])
        defined = np.isfinite(values)
        sizes = np.array([len(part) for part in parts])[defined]
        return float(np.average(values[defined], weights=sizes)) if len(sizes) else float("nan")


@dataclass(frozen=True)
class ProbeResult:
    """One probe of one label in one subspace.

    Attributes:
        rows: (n,) test rows of the manifest.
        truth, output: (n,) or (n, L), in the label's units.
        scores: metric -> figure.
        strength: the regularization chosen in each fold, in scikit-learn's units.
    """

    label: str
    kind: str
    subspace: str
    probe: str
    rows: NDArray[np.int64]
    truth: Array
    output: Array
    scores: dict[str, Estimate]
    strength: tuple[float, ...]

    def records(self) -> Iterator[dict[str, Any]]:
        """For ``results.json``, one per metric."""
        for metric, estimate in self.scores.items():
            yield {
                "label": self.label,
                "kind": self.kind,
                "subspace": self.subspace,
                "probe": self.probe,
                "metric": metric,
                **estimate.as_dict(),
                "regularisation": list(self.strength),
            }


def probe_all(
    vectors: Mapping[str, NDArray[np.float32]],
    columns: Sequence[Column],
    folds: Sequence[Fold],
    groups: Array,
    *,
    probes: Sequence[str] = PROBES,
    seed: int = 0,
    on_done: Callable[[ProbeResult], None] = lambda result: None,
) -> list[ProbeResult]:
    """Every label in every array of vectors with every probe.

    Args:
        vectors: subspace -> (N, D).
        groups: (N,) of the manifest.

    Raises:
        UsageError: a label that is missing or constant in a fold.
    """
    results = []
    for column in columns:
        check_folds(column, folds)
        for name, x in vectors.items():
            for probe in probes:
                results.append(probe_one(name, x, column, folds, groups, probe, seed=seed))
                on_done(results[-1])
    return results


def check_folds(column: Column, folds: Sequence[Fold]) -> None:
    """Check that every fold has labels for training, validation and testing.

    Raises:
        UsageError: a part has no labels, or the training labels are constant.
    """
    for fold in folds:
        known = fold.only(column.known)
        for part in ("train", "val", "test"):
            if len(getattr(known, part)) == 0:
                raise UsageError(
                    f"column '{column.name}' has no labels among the {part} rows",
                    hint="use fewer --folds, add labels, or exclude it with --label",
                )
        values = column.values[known.train]
        if (values == values[0]).all():
            raise UsageError(
                f"column '{column.name}' has one value only among the train rows",
                hint="exclude it with --label",
            )


def probe_one(
    subspace: str,
    x: NDArray[np.float32],
    column: Column,
    folds: Sequence[Fold],
    groups: Array,
    probe: str,
    *,
    seed: int = 0,
) -> ProbeResult:
    """One label, one array of vectors (N, D), one kind of probe."""
    task = TASKS[column.kind]()
    read = read_label(x, column, folds, probe, seed=seed)
    bootstrap = Bootstrap(groups[read.rows], seed=seed)
    scores = {
        metric: bootstrap.estimate(
            functools.partial(read.score, score),
            chance=task.chance(metric, read.learned, read.truth),
        )
        for metric, score in task.metrics.items()
    }
    return ProbeResult(
        label=column.name,
        kind=column.kind,
        subspace=subspace,
        probe=probe,
        rows=read.rows,
        truth=read.truth,
        output=read.output,
        scores=scores,
        strength=read.strength,
    )


def read_label(
    x: NDArray[np.float32], column: Column, folds: Sequence[Fold], probe: str, *, seed: int = 0
) -> Reading:
    """Predictions for every fold's test rows by a probe fitted to vectors (N, D)."""
    task = TASKS[column.kind]()
    rows, outputs, strengths, learned, reached = [], [], [], [], []
    for whole in folds:
        fold = whole.only(column.known)
        output, strength, value = _fit(task, x, column, fold, probe, seed)
        rows.append(fold.test)
        outputs.append(output)
        strengths.append(strength)
        reached.append(value)
        learned.append(task.truth(column, fold.train))
    judged = np.concatenate(rows)
    fold_of = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
    return Reading(
        rows=judged,
        fold_of=fold_of,
        is_judged_by_fold=task.is_judged_by_fold,
        truth=task.truth(column, judged),
        output=np.concatenate(outputs),
        learned=np.concatenate(learned),
        strength=tuple(strengths),
        reached=tuple(reached),
    )


def _fit(
    task: Task, x: NDArray[np.float32], column: Column, fold: Fold, probe: str, seed: int
) -> tuple[Array, float, float]:
    """Test outputs, strength and validation score of the best probe on the val rows."""
    mean, deviation = x[fold.train].mean(axis=0), x[fold.train].std(axis=0)
    # Constant dimensions are zeroed, so that rounding errors are not amplified.
    scale = np.where(deviation > 1e-6 * (np.abs(mean) + 1e-6), deviation, np.inf)
    train, val, test = ((x[rows] - mean) / scale for rows in (fold.train, fold.val, fold.test))
    truth = task.truth(column, fold.train)
    centre, spread = 0.0, 1.0
    if shares := task.shares(truth):
        tracks, targets, parts = shares
        examples, weights = train[tracks], {"sample_weight": parts}
    else:
        targets, examples, weights = task.targets(truth), train, {}
    if task.is_regression:
        centre, spread = float(targets.mean()), float(targets.std())
        targets = (targets - centre) / spread
    wanted = task.truth(column, fold.val)
    score = task.metrics[task.main_metric]
    best: tuple[float, float, Array] | None = None
    for strength, model in _models(task, column.kind, probe, seed):
        with warnings.catch_warnings():
            # A probe that has not converged is just another candidate.
            warnings.simplefilter("ignore", ConvergenceWarning)
            # Labels that are constant in training are left out of the means.
            warnings.filterwarnings("ignore", message="Label .* is present in")
            # Many tempo bins for few tracks are intended.
            warnings.filterwarnings("ignore", message="The number of unique classes")
            model.fit(examples, targets, **weights)

        def say(vectors: Array, model: Any = model) -> Array:
            if task.is_regression:
                return np.asarray(task.output(model.predict(vectors) * spread + centre, targets))
            said = task.output(np.asarray(model.predict_proba(vectors)), model.classes_)
            return said[:, : truth.shape[1]] if truth.ndim == 2 else said

        reached = score(wanted, say(val))
        if np.isnan(reached):  # the val rows are constant: any strength will do
            reached = -np.inf
        if best is None or reached > best[0]:
            best = (reached, strength, say(test))
    assert best is not None
    return best[2], best[1], best[0]


def _models(task: Task, kind: str, probe: str, seed: int) -> Iterator[tuple[float, Any]]:
    """(strength, estimator), strongest regularization first."""
    if probe == "mlp":
        of_kind = MLPRegressor if task.is_regression else MLPClassifier
        for alpha in _MLP_STRENGTHS:
            yield (
                alpha,
                of_kind(
                    (_N_HIDDEN,), alpha=alpha, max_iter=_MAX_MLP_EPOCHS, random_state=seed, tol=1e-3
                ),
            )
    elif task.is_regression:
        for alpha in _RIDGE_STRENGTHS:
            yield alpha, Ridge(alpha=alpha)
    else:
        # One model with warm starts, which saves half of the iterations.
        logistic = LogisticRegression(max_iter=_MAX_ITERATIONS, warm_start=kind != "multilabel")
        for c in _INVERSE_STRENGTHS:
            logistic.set_params(C=c)
            yield c, OneVsRestClassifier(logistic) if kind == "multilabel" else logistic
