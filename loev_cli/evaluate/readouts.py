"""Fit the readouts of :mod:`loev_cli.annotations` to labeled tracks, calibrate and test them.

A readout is a multinomial logistic regression, fitted to the train rows. Of several strengths of
regularization the one with the best log loss on the val rows is kept, after temperature scaling on
the same rows. The test rows are used only for the final scores.

`pitch` may consist of 12 equal parts, one per pitch class, that a transposition rotates (see
:mod:`loev_cli.model.encoders.small`). Then the weights can be tied across the 12 transpositions,
which gives twelve times the examples and makes the key follow a transposition:

    logit of tonic t, mode m = sum over pitch class p of vector[p] . template[m][p - t] + bias[m]

If D is a multiple of 12, both the tied and the free readout are fitted, and the better one is kept.
Tempo targets are Gaussian soft labels with a width of 2 %.

reliability curve   accuracy against mean confidence, for predictions binned by confidence
                    (Niculescu-Mizil & Caruana, ICML 2005)
ECE                 mean absolute difference of the two, weighted by bin size (Naeini et al., AAAI
                    2015)
temperature         divisor of the logits that minimizes the log loss on held-out data (Guo et al.,
                    ICML 2017)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from loev_cli.annotations import (
    KINDS,
    Answer,
    KeyReadout,
    Readout,
    TempoReadout,
    softmax,
)
from loev_cli.api import Model
from loev_cli.backends import open_encoder
from loev_cli.bundle import Bundle
from loev_cli.defaults import PALETTE, SUBSPACE_OF
from loev_cli.errors import InputError, UsageError
from loev_cli.evaluate.figures import style
from loev_cli.evaluate.manifest import Column, Fold, Manifest, check_files, split
from loev_cli.evaluate.page import render
from loev_cli.evaluate.probes import (
    ACC1_FACTORS,
    ACC2_FACTORS,
    TEMPO_SPREAD,
    key_weights,
    tempo_hits,
    tempo_targets,
)
from loev_cli.evaluate.statistics import Bootstrap, Estimate
from loev_cli.evaluate.vectors import Subspaces, embed_manifest, read_embeddings
from loev_cli.model import GLOBAL
from loev_cli.music_keys import KEYS, N_PITCH_CLASSES

N_BINS = 10
_WIDTH = 4.9  # inches
_LEAST_N_DRAWN = 10
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

    def merged(self, least_n: int) -> Reliability:
        """The same with bins joined, from low to high, until each has ``least_n`` predictions.

        What is left over at the top joins the bin below it.
        """
        ends = []
        n = 0
        for i, count in enumerate(self.counts):
            n += count
            if n >= least_n or i == len(self.counts) - 1:
                ends.append(i + 1)
                n = 0
        starts = [0, *ends[:-1]]
        if len(starts) > 1 and self.counts[starts[-1] :].sum() < least_n:
            starts.pop()
        counts = np.add.reduceat(self.counts, starts)

        def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(np.add.reduceat(values * self.counts, starts) / counts)

        return Reliability(self.low[starts], counts, mean(self.confidence), mean(self.right))

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
    """Reliability curves side by side, name -> curve, each above its histogram.

    Bins are joined until they have ``_LEAST_N_DRAWN`` predictions: fewer show no accuracy.
    """
    with style():
        figure = Figure(figsize=(_WIDTH, 3.0), layout="constrained")
        axes = figure.subplots(
            2, len(curves), squeeze=False, sharex=True, height_ratios=(3, 1), sharey="row"
        )
        for (name, curve), (top, bottom), colour in zip(
            curves.items(), axes.T, PALETTE, strict=False
        ):
            top.plot([0, 1], [0, 1], linestyle=":", color="0.6", linewidth=1)
            shown = curve.merged(_LEAST_N_DRAWN)
            top.plot(shown.confidence, shown.right, marker="o", color=colour, markersize=4)
            top.set_title(f"{name}: ECE {curve.ece:.3f}")
            top.set_xlim(0, 1)
            top.set_ylim(0, 1.02)
            bottom.bar(curve.low + 0.5 / N_BINS, curve.counts, width=0.9 / N_BINS, color=colour)
            bottom.set_xlabel("confidence")
        axes[0, 0].set_ylabel("accuracy")
        axes[1, 0].set_ylabel("predictions")
    return figure


# L2 penalties for vectors of mean variance 1, strong to weak: each fit warm-starts the next.
_STRENGTHS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
_MAX_ITERATIONS = 100
_LEAST_GAIN = 1e-6  # convergence threshold of the loss per iteration
_LEAST_P = 1e-9

Array = NDArray[Any]


@dataclass(frozen=True)
class FittedReadout:
    """One readout with its weights.

    Attributes:
        weight, bias: (n, D) and (n,) float32, for the model's raw vectors.
        tied: whether the weights are tied across the 12 transpositions.
        strength: of the chosen regularization.
        n_tracks: train, val, test -> number of labeled tracks.
        label_range: minimum and maximum label of the train rows, for tempo.
        scores: metric -> score on the test rows.
        curve: reliability on the test rows.
        log_loss: on the val rows; the selection criterion.
        rivals: other readouts fitted -> their log loss on the val rows.
    """

    name: str
    readout: Readout
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    tied: bool
    strength: float
    n_tracks: dict[str, int]
    label_range: tuple[float, float] | None
    scores: dict[str, Estimate]
    curve: Reliability
    log_loss: float
    rivals: dict[str, float]

    def facts(self) -> dict[str, Any]:
        """The training facts and scores for ``config.json`` and the model card."""
        return {
            "tied": self.tied,
            "regularisation": self.strength,
            "n_tracks": self.n_tracks,
            "label_range": self.label_range,
            "val_log_loss": round(self.log_loss, 4),
            "rivals_val_log_loss": {name: round(loss, 4) for name, loss in self.rivals.items()},
            "test": {name: estimate.as_dict() for name, estimate in self.scores.items()},
            "test_ece": round(self.curve.ece, 4),
            "test_reliability": self.curve.records(),
        }


def fit_readouts(
    manifest: Manifest,
    vectors: Mapping[str, NDArray[np.float32]],
    *,
    on_fitted: Callable[[FittedReadout], None] = lambda fitted: None,
) -> list[FittedReadout]:
    """A readout for each of the columns ``key`` and ``tempo`` that the manifest has.

    Args:
        vectors: subspace -> (N, D), of the manifest's tracks.

    Raises:
        UsageError: neither column, constant labels, or splits without labels.
    """
    wanted = labels_of(manifest)
    whole = split(manifest).folds[0]
    fitted = []
    for name in wanted:
        column = manifest.columns([name])[0][0]
        subspace = SUBSPACE_OF[name] if SUBSPACE_OF[name] in vectors else GLOBAL
        check_has(vectors, subspace, name)
        fold = whole.only(usable(name, column))
        for part in ("train", "val", "test"):
            if len(getattr(fold, part)) == 0:
                raise UsageError(f"column '{name}' has no usable labels among the {part} rows")
        fitted.append(_fit(name, subspace, vectors[subspace], column, fold, manifest.groups))
        on_fitted(fitted[-1])
    return fitted


def labels_of(manifest: Manifest) -> list[str]:
    """Which of the columns ``key`` and ``tempo`` there are.

    Raises:
        UsageError: neither.
    """
    wanted = [name for name in KINDS if name in manifest.cells]
    if not wanted:
        raise UsageError(
            "the manifest has neither a 'key' nor a 'tempo' column to fit readouts to",
            hint="for example: path,key,tempo,split",
        )
    return wanted


def check_has(vectors: Mapping[str, NDArray[np.float32]], subspace: str, name: str) -> None:
    """Check that ``subspace``, which ``name`` is read from, is among the vectors.

    Raises:
        UsageError: it is not.
    """
    if subspace not in vectors:
        wanted = SUBSPACE_OF[name] if subspace == GLOBAL else subspace
        raise UsageError(
            f"the vectors have no subspace '{wanted}' to read {name} from",
            hint=f"they have {', '.join(vectors)}",
        )


def usable(name: str, column: Column) -> NDArray[np.bool_]:
    """(N,): known, and within the output range of the readout."""
    if name != "tempo":
        return column.known
    grid = TempoReadout("").log2_bpm
    with np.errstate(invalid="ignore"):
        log2 = np.log2(column.values)
        return np.asarray(column.known & (log2 >= grid[0]) & (log2 <= grid[-1]))


# ---------------------------------------------------------------- one readout


def turned(template: Tensor) -> Tensor:
    """Templates (modes, 12, D / 12) -> weights (modes x 12, D), one row per mode and tonic."""
    tonics = [torch.roll(template, tonic, dims=1) for tonic in range(N_PITCH_CLASSES)]
    return torch.stack(tonics, dim=1).flatten(0, 1).flatten(1)


def _linear(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Parameters -> weights (n, D) and bias (n,); a template (modes, 12, D / 12) is tied."""
    if weight.dim() == 3:
        return turned(weight), bias.repeat_interleave(N_PITCH_CLASSES)
    return weight, bias


def _fit(
    name: str,
    subspace: str,
    x: NDArray[np.float32],
    column: Column,
    fold: Fold,
    groups: Array,
) -> FittedReadout:
    readout: Readout = KINDS[name](subspace)
    truth = column.values
    # One mean vector and one scale, folded into weights and bias at the end.
    center = x[fold.train].mean(axis=0, dtype=np.float64)
    scale = float(np.sqrt(x[fold.train].var(axis=0, dtype=np.float64).mean())) or 1.0
    prepared = torch.from_numpy(((x - center) / scale).astype(np.float32))
    targets = torch.from_numpy(soft_targets(readout, truth[fold.train]))

    n_logits, dim = readout.n_logits, x.shape[1]
    shapes: dict[str, tuple[int, ...]] = {"free": (n_logits, dim)}
    if name == "key" and dim % N_PITCH_CLASSES == 0:
        shapes["tied"] = (n_logits // N_PITCH_CLASSES, N_PITCH_CLASSES, dim // N_PITCH_CLASSES)
    losses: dict[str, float] = {}
    best: tuple[str, float, float, Tensor, Tensor] | None = None
    for kind, shape in shapes.items():
        for strength, weight, bias in _path(shape, prepared[fold.train], targets):
            logits = (prepared[fold.val] @ weight.T + bias).numpy()
            right = counts_as_right(readout, truth[fold.val])

            def log_loss(temperature: float, logits: Array = logits, right: Array = right) -> float:
                p = (softmax(logits, temperature) * right).sum(axis=1)
                return float(-np.log(np.maximum(p, _LEAST_P)).mean())

            temperature, loss = best_temperature(log_loss)
            if loss < losses.get(kind, math.inf):
                losses[kind] = loss
                if loss == min(losses.values()):
                    best = (kind, strength, temperature, weight, bias)
    assert best is not None
    kind, strength, temperature, weight, bias = best
    readout = replace(readout, temperature=round(temperature, 4))
    weights = weight.numpy().astype(np.float64) / scale
    offset = bias.numpy().astype(np.float64) - weights @ center
    logits = x @ weights.T.astype(np.float32) + offset.astype(np.float32)
    answers = [readout.answer(row) for row in logits[fold.test]]
    scores, curve = judge(answers, truth[fold.test], groups[fold.test])[name]
    known = truth[fold.train]
    return FittedReadout(
        name=name,
        readout=readout,
        weight=weights.astype(np.float32),
        bias=offset.astype(np.float32),
        tied=kind == "tied",
        strength=strength,
        n_tracks={part: len(getattr(fold, part)) for part in ("train", "val", "test")},
        label_range=(float(known.min()), float(known.max())) if name == "tempo" else None,
        scores=scores,
        curve=curve,
        log_loss=losses[kind],
        rivals={other: loss for other, loss in losses.items() if other != kind},
    )


def _path(
    shape: tuple[int, ...], x: Tensor, targets: Tensor
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """(strength, weights, bias) for every strength; ``shape`` is that of the parameters."""
    parameters = [torch.zeros(shape, requires_grad=True), torch.zeros(shape[0], requires_grad=True)]
    for strength in _STRENGTHS:
        optimiser = torch.optim.LBFGS(
            parameters,
            max_iter=_MAX_ITERATIONS,
            tolerance_change=_LEAST_GAIN,
            line_search_fn="strong_wolfe",
        )

        def loss(strength: float = strength, optimiser: torch.optim.LBFGS = optimiser) -> float:
            optimiser.zero_grad()
            weight, bias = _linear(*parameters)
            value = F.cross_entropy(x @ weight.T + bias, targets)
            value = value + strength * parameters[0].square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value.item()

        optimiser.step(loss)  # type: ignore[no-untyped-call]
        weight, bias = _linear(*parameters)
        yield strength, weight.detach().clone(), bias.detach().clone()


def soft_targets(readout: Readout, truth: Array) -> NDArray[np.float32]:
    """(n, C): softmax targets for each true label."""
    if isinstance(readout, KeyReadout):
        return np.eye(readout.n_logits, dtype=np.float32)[truth]
    return tempo_targets(truth, readout.log2_bpm, TEMPO_SPREAD)


def counts_as_right(readout: Readout, truth: Array) -> NDArray[np.bool_]:
    """(n, C): which outputs count as correct for each true label."""
    if isinstance(readout, KeyReadout):
        return np.eye(readout.n_logits, dtype=np.bool_)[truth]
    return np.stack([readout.within(bpm) for bpm in truth])


# ---------------------------------------------------------------- scores


def judge(
    answers: Sequence[Answer], truth: Array | Mapping[str, Array], groups: Array
) -> dict[str, tuple[dict[str, Estimate], Reliability]]:
    """Score answers against labels: readout -> scores with intervals, and reliability.

    Args:
        answers: of n tracks, by one or several readouts.
        truth: (n,) index into ``KEYS``, or BPM; or readout -> that.
        groups: (n,), for the intervals.
    """
    columns = answers[0]
    names = [name for name, kind in KINDS.items() if kind.columns[0] in columns]
    judged = {}
    bootstrap = Bootstrap(groups)
    for name in names:
        labels = truth[name] if isinstance(truth, Mapping) else truth
        of = f"{KINDS[name].columns[0]}_confidence"
        confidence = np.array([answer[of] for answer in answers], np.float64)
        parts = _key_scores(answers, labels) if name == "key" else _tempo_scores(answers, labels)
        scores = {metric: bootstrap.mean(values) for metric, values in parts.items()}
        right = next(iter(parts.values())) > 0
        judged[name] = (scores, reliability(confidence, right))
    return judged


def _key_scores(answers: Sequence[Answer], truth: Array) -> dict[str, NDArray[np.float64]]:
    """Metric -> (n,); the confidence is the probability of the first."""
    said = np.array([KEYS.index(str(answer["key"])) for answer in answers])
    return {
        "accuracy": (said == truth).astype(np.float64),
        "weighted score": key_weights()[truth, said],
        "mode": (said // 12 == truth // 12).astype(np.float64),
    }


def _tempo_scores(answers: Sequence[Answer], truth: Array) -> dict[str, NDArray[np.float64]]:
    said = np.array([float(answer["bpm"]) for answer in answers])
    return {
        "Acc1": tempo_hits(truth, said, ACC1_FACTORS).astype(np.float64),
        "Acc2": tempo_hits(truth, said, ACC2_FACTORS).astype(np.float64),
    }


# ---------------------------------------------------------------- the vectors


def vectors_for(
    bundle: Bundle,
    manifest: Manifest,
    embeddings: Sequence[Path] = (),
    *,
    on_track: Callable[[int, InputError | None], None] = lambda row, error: None,
) -> tuple[Manifest, Subspaces]:
    """The usable tracks of the manifest, and their embeddings.

    Args:
        embeddings: files with this model's embeddings; if empty, the audio is embedded.
        on_track: as in :func:`loev_cli.evaluate.vectors.embed_manifest`.

    Raises:
        UsageError: missing files, or embeddings of another model.
    """
    if embeddings:
        vectors = read_embeddings(manifest, embeddings)
        if vectors.model["sha256"] != bundle.sha256:
            raise UsageError(
                f"{', '.join(map(str, embeddings))}: made by {vectors.model['name']}, "
                f"not by {bundle.name}",
                hint=f"embed the tracks with --model {bundle.path}",
            )
        return manifest, vectors.subspaces
    check_files(manifest)
    vectors, rows = embed_manifest(manifest, Model(open_encoder(bundle)), on_track=on_track)
    return manifest.select(rows), vectors.subspaces


TITLE = "Annotations"


def card_with_readouts(
    card: str, fitted: Sequence[FittedReadout], *, data: str, adapted: bool = False
) -> str:
    """The card with the section ``## Annotations``: replaces an earlier one, or is inserted before
    ``## Limits``, or at the end.

    Args:
        data: description of the manifests.
        adapted: whether the fit started from earlier readouts.
    """
    section = render("annotations.md.j2", "md", fitted=fitted, data=data, adapted=adapted)
    section = section.rstrip() + "\n\n"
    earlier = re.compile(rf"^## {TITLE}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    if earlier.search(card):
        new = earlier.sub(lambda _: section, card)
    else:
        at = re.search(r"^## Limits$", card, re.MULTILINE)
        where = at.start() if at else len(card)
        new = f"{card[:where].rstrip()}\n\n{section}{card[where:]}"
    return new.rstrip() + "\n"
