"""Probe tasks, one per kind of label: fitting targets and metrics.

kind         fitted to                   metrics
key          24 classes                  mir_eval's weighted score; accuracy
tempo        classes of 3 % width, soft  Acc1: within 4 %; Acc2: also of 2, 3, 1/2, 1/3 times it
class        classes                     accuracy; balanced accuracy (mean over classes)
multilabel   one yes or no per label     ROC AUC and average precision, means over labels
number       the standardized value      R2

The first metric chooses the regularization. Adjacent tempo bins share probability: the targets are
Gaussian soft labels with a width of 2 %.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import mir_eval
import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from loev_cli.annotations import TEMPO_TOLERANCE as TEMPO_TOLERANCE
from loev_cli.evaluate.labels import Column
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
        centre = (weight * near).sum(axis=1) / weight.sum(axis=1) + first
        return np.asarray(np.exp2((centre + 0.5) * _TEMPO_BIN))


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
