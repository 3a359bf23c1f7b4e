"""Calibration: of predictions with confidence 0.8, 80 % should be correct.

reliability curve   accuracy against mean confidence, for predictions binned by confidence
                    (Niculescu-Mizil & Caruana, ICML 2005)
ECE                 mean absolute difference of the two, weighted by bin size (Naeini et al., AAAI
                    2015)
temperature         divisor of the logits that minimizes the log loss on held-out data (Guo et al.,
                    ICML 2017)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from loev_cli.evaluate.figures import COLOURS, style

N_BINS = 10
_WIDTH = 4.9  # inches
_MAX_LOG_TEMPERATURE = 3.0


@dataclass(frozen=True)
class Reliability:
    """A reliability curve; empty bins are left out.

    Attributes:
        low: (k,) lower edge of each bin, of width 1 / ``N_BINS``.
        counts: (k,) predictions per bin.
        confidence: (k,) mean confidence.
        right: (k,) accuracy.
    """

    low: NDArray[np.float64]
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    right: NDArray[np.float64]

    @property
    def ece(self) -> float:
        """Expected calibration error, 0 to 1."""
        return float(np.average(np.abs(self.confidence - self.right), weights=self.counts))

    def records(self) -> list[dict[str, Any]]:
        """For JSON, a record per bin."""
        return [
            {
                "from": round(float(low), 6),
                "n": int(n),
                "confidence": round(float(confidence), 4),
                "right": round(float(right), 4),
            }
            for low, n, confidence, right in zip(
                self.low, self.counts, self.confidence, self.right, strict=True
            )
        ]


def reliability(confidence: NDArray[Any], right: NDArray[np.bool_]) -> Reliability:
    """The curve of n predictions: confidences (n,), 0 to 1, and correctness (n,)."""
    bin_of = np.minimum((np.asarray(confidence, np.float64) * N_BINS).astype(np.int64), N_BINS - 1)
    counts = np.bincount(bin_of, minlength=N_BINS)
    filled = counts > 0

    def mean(values: NDArray[Any]) -> NDArray[np.float64]:
        sums = np.bincount(bin_of, weights=values, minlength=N_BINS)
        return np.asarray(sums[filled] / counts[filled])

    return Reliability(
        low=np.arange(N_BINS)[filled] / N_BINS,
        counts=counts[filled],
        confidence=mean(np.asarray(confidence, np.float64)),
        right=mean(right.astype(np.float64)),
    )


def best_temperature(log_loss: Callable[[float], float]) -> tuple[float, float]:
    """The temperature that minimizes ``log_loss``, and that loss."""
    found = minimize_scalar(
        lambda log_temperature: log_loss(math.exp(log_temperature)),
        bounds=(-_MAX_LOG_TEMPERATURE, _MAX_LOG_TEMPERATURE),
        method="bounded",
    )
    return math.exp(float(found.x)), float(found.fun)


def draw(curves: Mapping[str, Reliability]) -> Figure:
    """Reliability curves side by side, name -> curve, each above its histogram."""
    with style():
        figure = Figure(figsize=(_WIDTH, 3.0), layout="constrained")
        axes = figure.subplots(
            2, len(curves), squeeze=False, sharex=True, height_ratios=(3, 1), sharey="row"
        )
        for (name, curve), (top, bottom), colour in zip(
            curves.items(), axes.T, COLOURS, strict=False
        ):
            top.plot([0, 1], [0, 1], linestyle=":", color="0.6", linewidth=1)
            top.plot(curve.confidence, curve.right, marker="o", color=colour, markersize=4)
            top.set_title(f"{name}: ECE {curve.ece:.3f}")
            top.set_xlim(0, 1)
            top.set_ylim(0, 1.02)
            bottom.bar(curve.low + 0.5 / N_BINS, curve.counts, width=0.9 / N_BINS, color=colour)
            bottom.set_xlabel("confidence")
        axes[0, 0].set_ylabel("accuracy")
        axes[1, 0].set_ylabel("predictions")
    return figure
