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
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
from loev_cli.errors import InputError, UsageError
from loev_cli.evaluate.calibration import Reliability, best_temperature, reliability
from loev_cli.evaluate.labels import Column
from loev_cli.evaluate.manifest import Manifest, check_files
from loev_cli.evaluate.splits import Fold, split
from loev_cli.evaluate.statistics import Bootstrap, Estimate
from loev_cli.evaluate.tasks import (
    ACC1_FACTORS,
    ACC2_FACTORS,
    TEMPO_SPREAD,
    key_weights,
    tempo_hits,
    tempo_targets,
)
from loev_cli.evaluate.vectors import Subspaces, embed_manifest, read_embeddings
from loev_cli.model.names import GLOBAL
from loev_cli.music_keys import KEYS, N_PITCH_CLASSES

# Readout -> its subspace; a model without it uses the global one.
SUBSPACE_OF = {"key": "pitch", "tempo": "tempo"}
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


@dataclass(frozen=True)
class _Design:
    """Parameters -> weights and bias of the linear readout."""

    parameters: list[Tensor]
    linear: Callable[[], tuple[Tensor, Tensor]]  # (n, D), (n,)

    @property
    def penalised(self) -> Tensor:
        return self.parameters[0]


def _free(n_logits: int, dim: int) -> _Design:
    weight = torch.zeros(n_logits, dim, requires_grad=True)
    bias = torch.zeros(n_logits, requires_grad=True)
    return _Design([weight, bias], lambda: (weight, bias))


def _tied(n_logits: int, dim: int) -> _Design:
    n_modes = n_logits // N_PITCH_CLASSES
    per_class = dim // N_PITCH_CLASSES
    template = torch.zeros(n_modes, N_PITCH_CLASSES, per_class, requires_grad=True)
    bias = torch.zeros(n_modes, requires_grad=True)

    def linear() -> tuple[Tensor, Tensor]:
        return turned(template), bias.repeat_interleave(N_PITCH_CLASSES)

    return _Design([template, bias], linear)


def turned(template: Tensor) -> Tensor:
    """Templates (modes, 12, D / 12) -> weights (modes x 12, D), one row per mode and tonic."""
    tonics = [torch.roll(template, tonic, dims=1) for tonic in range(N_PITCH_CLASSES)]
    return torch.stack(tonics, dim=1).flatten(0, 1).flatten(1)


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
    centre = x[fold.train].mean(axis=0, dtype=np.float64)
    scale = float(np.sqrt(x[fold.train].var(axis=0, dtype=np.float64).mean())) or 1.0
    prepared = torch.from_numpy(((x - centre) / scale).astype(np.float32))
    targets = torch.from_numpy(soft_targets(readout, truth[fold.train]))

    designs = {"free": _free(readout.n_logits, x.shape[1])}
    if name == "key" and x.shape[1] % N_PITCH_CLASSES == 0:
        designs["tied"] = _tied(readout.n_logits, x.shape[1])
    losses: dict[str, float] = {}
    best: tuple[str, float, float, Tensor, Tensor] | None = None
    for kind, design in designs.items():
        for strength, weight, bias in _path(design, prepared[fold.train], targets):
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
    offset = bias.numpy().astype(np.float64) - weights @ centre
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


def _path(design: _Design, x: Tensor, targets: Tensor) -> Iterator[tuple[float, Tensor, Tensor]]:
    """(strength, weights, bias) for every strength."""
    for strength in _STRENGTHS:
        optimiser = torch.optim.LBFGS(
            design.parameters,
            max_iter=_MAX_ITERATIONS,
            tolerance_change=_LEAST_GAIN,
            line_search_fn="strong_wolfe",
        )

        def loss(strength: float = strength, optimiser: torch.optim.LBFGS = optimiser) -> float:
            optimiser.zero_grad()
            weight, bias = design.linear()
            value = F.cross_entropy(x @ weight.T + bias, targets)
            value = value + strength * design.penalised.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value.item()

        optimiser.step(loss)  # type: ignore[no-untyped-call]
        weight, bias = design.linear()
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
