"""Probes of each subspace, and of all concatenated.

kind         fitted to                   metrics
key          24 classes                  mir_eval's weighted score; accuracy
tempo        classes of 3 % width, soft  Acc1: within 4 %; Acc2: also of 2, 3, 1/2, 1/3 times it
class        classes                     accuracy; balanced accuracy (mean over classes)
multilabel   one yes or no per label     ROC AUC and average precision, means over labels
number       the standardized value      R2

A probe is a multinomial logistic or ridge regression (``linear``), or a network with one hidden
layer (``mlp``), on standardized vectors. It is fitted to the train rows for several strengths of
regularization; the one with the best first metric on the val rows is scored on the test rows. The
test rows of all folds are scored together; rankings (multilabel) are scored per fold and averaged.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import mir_eval
import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor

from loev_cli.annotations import TEMPO_TOLERANCE as TEMPO_TOLERANCE
from loev_cli.errors import UsageError
from loev_cli.evaluate.manifest import Column, Fold
from loev_cli.evaluate.statistics import (
    SHARE,
    Bootstrap,
    Bounds,
    Estimate,
    Floats,
    Statistic,
    mean_of,
    r2_of,
)
from loev_cli.music_keys import KEYS

Array = NDArray[Any]
Metric = Callable[[Array, Array], float]

_TEMPO_BIN = math.log2(1.03)
_LEAST_PART = 0.05  # smaller shares cost time without effect
TEMPO_SPREAD = 0.02
ACC1_FACTORS = (1.0,)
ACC2_FACTORS = (1.0, 2.0, 3.0, 1 / 2, 1 / 3)  # the octave errors of Gouyon et al. 2006


def key_weights() -> NDArray[np.float64]:
    """(24, 24): mir_eval's weighted score of true key (rows) and estimate (columns)."""
    return np.array([[mir_eval.key.weighted_score(a, b) for b in KEYS] for a in KEYS])


class Task(ABC):
    """One kind of label.

    Truths and outputs are arrays with one row per track, in the label's own units.
    """

    is_regression: ClassVar[bool] = False
    # Rankings: the outputs of two probes are not on one scale, so each fold is scored separately.
    is_judged_by_fold: ClassVar[bool] = False
    metrics: dict[str, Metric]

    def truth(self, column: Column, rows: Array) -> Array:
        """The ground truth."""
        return np.asarray(column.values[rows])

    def targets(self, truth: Array) -> Array:
        """The targets for scikit-learn."""
        return truth

    def shares(self, truth: Array) -> tuple[Array, Array, Array] | None:
        """Soft labels: tracks (m,), classes (m,) and weights (m,); None: hard labels."""
        return None

    def outcomes(self, metric: str, truth: Array, output: Array) -> NDArray[np.float64] | None:
        """(n,): per-track scores if the metric is a mean over tracks; else None."""
        return None

    @abstractmethod
    def output(self, predicted: Array, classes: Array) -> Array:
        """Class probabilities (n, C), or values (n,), -> predictions in label units."""

    def chance(self, metric: str, known: Array, truth: Array) -> float:
        """The expected metric of guesses drawn from the labels ``known`` in training.

        Every metric that uses this is a weighted sum over tracks, so the expectation is the mean
        of the scores of constant predictions.
        """
        values, counts = np.unique(known, return_counts=True)
        scores = [self.metrics[metric](truth, np.full(len(truth), value)) for value in values]
        return float(np.average(scores, weights=counts))

    @property
    def main_metric(self) -> str:
        return next(iter(self.metrics))


class KeyTask(Task):
    """Truth and output: index into ``KEYS``."""

    def __init__(self) -> None:
        self._weights = key_weights()
        self.metrics = {
            "weighted score": lambda truth, output: float(self._weights[truth, output].mean()),
            "accuracy": accuracy,
        }

    def outcomes(self, metric: str, truth: Array, output: Array) -> NDArray[np.float64] | None:
        right = truth == output if metric == "accuracy" else self._weights[truth, output]
        return np.asarray(right, np.float64)

    def output(self, predicted: Array, classes: Array) -> Array:
        return np.asarray(classes[predicted.argmax(axis=1)])


class TempoTask(Task):
    """Truth and output: BPM."""

    def __init__(self) -> None:
        self.metrics = {"Acc1": acc1, "Acc2": acc2}

    def outcomes(self, metric: str, truth: Array, output: Array) -> NDArray[np.float64] | None:
        factors = ACC1_FACTORS if metric == "Acc1" else ACC2_FACTORS
        return tempo_hits(truth, output, factors).astype(np.float64)

    def targets(self, truth: Array) -> Array:
        return np.floor(np.log2(truth) / _TEMPO_BIN).astype(np.int64)

    def shares(self, truth: Array) -> tuple[Array, Array, Array]:
        bins = self.targets(truth)
        classes = np.arange(bins.min() - 2, bins.max() + 3)
        parts = tempo_targets(truth, (classes + 0.5) * _TEMPO_BIN, TEMPO_SPREAD)
        tracks, which = np.nonzero(parts >= _LEAST_PART)
        return tracks, classes[which], parts[tracks, which]

    def output(self, predicted: Array, classes: Array) -> Array:
        """The mean of the best bin and its two neighbors, weighted by probability."""
        first = int(classes.min())
        full = np.zeros((len(predicted), int(classes.max()) - first + 1))
        full[:, classes - first] = predicted
        near = full.argmax(axis=1)[:, None] + np.array([-1, 0, 1])
        inside = (near >= 0) & (near < full.shape[1])
        weight = np.take_along_axis(full, near.clip(0, full.shape[1] - 1), axis=1) * inside
        center = (weight * near).sum(axis=1) / weight.sum(axis=1) + first
        return np.asarray(np.exp2((center + 0.5) * _TEMPO_BIN))


class ClassTask(Task):
    """Truth and output: index of the class."""

    def __init__(self) -> None:
        self.metrics = {"accuracy": accuracy, "balanced accuracy": balanced_accuracy}

    def outcomes(self, metric: str, truth: Array, output: Array) -> NDArray[np.float64] | None:
        return np.asarray(truth == output, np.float64) if metric == "accuracy" else None

    def output(self, predicted: Array, classes: Array) -> Array:
        return np.asarray(classes[predicted.argmax(axis=1)])


class MultilabelTask(Task):
    """Truth: (n, L) of 0 and 1. Output: (n, L) probabilities."""

    is_judged_by_fold = True

    def targets(self, truth: Array) -> Array:
        # scikit-learn treats a single column as a binary label, so it is duplicated.
        return np.hstack([truth, truth]) if truth.shape[1] == 1 else truth

    def __init__(self) -> None:
        self.metrics = {"ROC AUC": roc_auc, "average precision": average_precision}

    def output(self, predicted: Array, classes: Array) -> Array:
        return predicted

    def chance(self, metric: str, known: Array, truth: Array) -> float:
        if metric == "ROC AUC":
            return 0.5
        varying = truth.any(axis=0) & ~truth.all(axis=0)
        return float(truth[:, varying].mean()) if varying.any() else float("nan")


class NumberTask(Task):
    """Truth and output: the number."""

    is_regression = True

    def __init__(self) -> None:
        self.metrics = {"R2": r2}

    def output(self, predicted: Array, classes: Array) -> Array:
        return predicted

    def chance(self, metric: str, known: Array, truth: Array) -> float:
        return 0.0  # of predicting the mean


TASKS: dict[str, type[Task]] = {
    "key": KeyTask,
    "tempo": TempoTask,
    "class": ClassTask,
    "multilabel": MultilabelTask,
    "number": NumberTask,
}


def accuracy(truth: Array, output: Array) -> float:
    return float((truth == output).mean())


def balanced_accuracy(truth: Array, output: Array) -> float:
    """Recall of each class that occurs, averaged."""
    counts = np.bincount(truth)
    hits = np.bincount(truth[truth == output], minlength=len(counts))
    return float((hits[counts > 0] / counts[counts > 0]).mean())


def tempo_hits(truth: Array, output: Array, factors: tuple[float, ...]) -> NDArray[np.bool_]:
    """(n,): whether each BPM is within 4 % of one of ``factors`` times the true one."""
    wanted = truth[:, None] * np.array(factors)
    close = np.abs(output[:, None] - wanted) <= TEMPO_TOLERANCE * wanted
    return np.asarray(close.any(axis=1))


def tempo_targets(bpm: Array, log2_bpm: NDArray[np.float64], spread: float) -> NDArray[np.float32]:
    """(n, C), rows sum to 1: a Gaussian over C tempi around each BPM; ``spread`` 0.02 is 2 %."""
    distance = (np.log2(bpm)[:, None] - log2_bpm) / math.log2(1 + spread)
    bell = np.exp(-0.5 * np.square(distance))
    return np.asarray(bell / bell.sum(axis=1, keepdims=True), np.float32)


def acc1(truth: Array, output: Array) -> float:
    return float(tempo_hits(truth, output, ACC1_FACTORS).mean())


def acc2(truth: Array, output: Array) -> float:
    return float(tempo_hits(truth, output, ACC2_FACTORS).mean())


def roc_auc(truth: Array, output: Array) -> float:
    """Mean over labels of the area under the ROC curve; constant labels are left out."""
    has = truth > 0
    n_with, n_without = has.sum(axis=0), (~has).sum(axis=0)
    varying = (n_with > 0) & (n_without > 0)
    if not varying.any():
        return float("nan")
    rank_sums = (rankdata(output, axis=0) * has).sum(axis=0)
    n_right = rank_sums - n_with * (n_with + 1) / 2  # pairs in the right order
    return float((n_right[varying] / (n_with * n_without)[varying]).mean())


def average_precision(truth: Array, output: Array) -> float:
    """Mean over labels of the area under precision and recall, as scikit-learn defines it."""
    values = []
    for has, score in zip(truth.T > 0, output.T, strict=True):
        if not has.any() or has.all():
            continue
        order = np.argsort(-score, kind="stable")
        hits, ranked = has[order].cumsum(), score[order]
        # Ties share one threshold: only the last of them counts.
        last = np.append(ranked[1:] != ranked[:-1], True)
        n_taken = np.flatnonzero(last) + 1
        n_hits = hits[last]
        gained = np.diff(n_hits, prepend=0)
        values.append(float((gained * n_hits / n_taken).sum() / n_hits[-1]))
    return float(np.mean(values)) if values else float("nan")


def r2(truth: Array, output: Array) -> float:
    """Share of the variance explained; 0 for the mean, below 0 for worse; NaN without variance."""
    total = float(np.square(truth - truth.mean()).sum())
    return 1 - float(np.square(truth - output).sum()) / total if total > 0 else float("nan")


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
    """One probe of one label in one subspace; ``scores`` by metric."""

    label: str
    kind: str
    subspace: str
    probe: str
    read: Reading
    scores: dict[str, Estimate]

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
                "regularisation": list(self.read.strength),
            }


def probe_all(
    vectors: Mapping[str, NDArray[np.float32]],
    columns: Sequence[Column],
    folds: Sequence[Fold],
    groups: Array,
    *,
    probes: Sequence[str] = PROBES,
    seed: int = 0,
    n_parallel: int = 1,
    on_done: Callable[[int], None] = lambda n_done: None,
) -> list[ProbeResult]:
    """Every label in every array of vectors with every probe.

    Args:
        vectors: subspace -> (N, D).
        groups: (N,) of the manifest.
        n_parallel: probes fitted at once, each in a process with one BLAS thread.

    Raises:
        UsageError: a label that is missing or constant in a fold.
    """
    for column in columns:
        check_folds(column, folds)
    work = Parallel(n_jobs=n_parallel, return_as="generator")(
        delayed(probe_one)(name, x, column, folds, groups, probe, seed=seed)
        for column in columns
        for name, x in vectors.items()
        for probe in probes
    )
    results = []
    for result in work:
        results.append(result)
        on_done(len(results))
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
        metric: bootstrap.of(
            statistic_of(task, metric, read),
            chance=task.chance(metric, read.learned, read.truth),
            bounds=bounds_of(metric),
        )
        for metric in task.metrics
    }
    return ProbeResult(column.name, column.kind, subspace, probe, read, scores)


def bounds_of(metric: str) -> Bounds | None:
    """The ends of its scale; R2 has no lower one."""
    return None if metric == "R2" else SHARE


def metric_of(read: Reading, metric: Metric) -> Statistic:
    """Any metric of a probe's answers; slow, a draw at a time."""
    rows = np.arange(len(read.rows))

    def statistic(drawn: NDArray[np.int64]) -> Floats:
        return np.array([read.score(metric, np.repeat(rows, times)) for times in drawn])

    return statistic


def statistic_of(task: Task, metric: str, read: Reading) -> Statistic:
    """A metric of a probe's answers, the quickest way there is."""
    outcomes = task.outcomes(metric, read.truth, read.output)
    if outcomes is not None:
        return mean_of(outcomes)
    if metric == "R2":
        return r2_of(read.truth, read.output)
    return metric_of(read, task.metrics[metric])


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
    center, spread = 0.0, 1.0
    if shares := task.shares(truth):
        tracks, targets, parts = shares
        examples, weights = train[tracks], {"sample_weight": parts}
    else:
        targets, examples, weights = task.targets(truth), train, {}
    if task.is_regression:
        center, spread = float(targets.mean()), float(targets.std())
        targets = (targets - center) / spread
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
                return np.asarray(task.output(model.predict(vectors) * spread + center, targets))
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
