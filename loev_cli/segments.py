"""Key and tempo along a track: where they change, read from its windows.

    windows (M, D) --readouts--> logits (M, n) --Viterbi--> cuts --least squares--> boundaries

1. In each window every key, and every tempo but for its octave, has a probability, never below 1 %.
   The most probable sequence of keys, and that of tempi, costs 5 nats for every change, so that a
   change has to persist: one window never makes one. Octaves are left out since a readout that
   is not sure of the octave jumps between two of them in music that does not change.
2. A cut is a place between two windows. Cuts of key and tempo up to a window apart are one.
3. A window that contains a change is taken to be the mix of the two sides, by their shares of the
   window. The boundary is where the mixes fit the logits best (least squares), in steps of 0.1 s.
4. Each segment is annotated from its own windows, as a track is.

benchmarks/segment_boundaries.py measures them on pieces made of two recordings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from loev_cli.annotations import TEMPO_TOLERANCE, Annotator, Answer, TempoReadout, softmax

_LEAST = 0.01  # probability
_CHANGE_NATS = 5.0
_STEP_S = 0.1
_PURE = 0.6  # share of a window that has to be of a side, in one window at least, to fit it
_WHOLE = 0.9  # share of a window in a segment from which on it is annotated from it

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Segment:
    """A stretch of a track, in seconds, and what the readouts say of it."""

    start_s: float
    end_s: float
    answer: Answer


def find_segments(
    annotator: Annotator,
    vectors: Mapping[str, NDArray[np.float32]],
    start_s: NDArray[np.float32],
    *,
    window_s: float,
    duration_s: float,
    silent: bool = False,
) -> list[Segment]:
    """The segments of a track, one or more, without gaps.

    Args:
        vectors: subspace -> (M, D), of those that are read, as the model gives them.
        start_s: (M,), where the windows start; half a window apart is meant.
        silent: the track has no answer, and no changes.
    """
    starts = np.asarray(start_s, np.float64)
    logits = annotator.logits(vectors)
    cuts: list[list[int]] = []  # the first windows after a change, of key and tempo together
    changes = {i for name in logits for i in _changes(_log_p(annotator, name, logits[name]))}
    for i in sorted(changes) if not silent else ():
        if cuts and starts[i] - starts[cuts[-1][-1]] <= window_s:
            cuts[-1].append(i)
        else:
            cuts.append([i])
    both = np.concatenate([x / x.std() for x in logits.values()], axis=1)
    bounds_s = [0.0]
    for n, cut in enumerate(cuts):
        first = cuts[n - 1][-1] if n else 0
        last = cuts[n + 1][0] if n + 1 < len(cuts) else len(starts)
        near = slice(first, last)
        low, high = starts[cut[0] - 1], starts[cut[-1]] + window_s
        bound = _best_boundary(both[near], starts[near], window_s, low, high)
        bounds_s.append(float((low + high) / 2) if bound is None else bound)
    bounds_s.append(duration_s)
    segments = []
    for start, end in pairwise(bounds_s):
        inside = np.minimum(starts + window_s, end) - np.maximum(starts, start)
        share = inside / window_s
        chosen = (share >= min(_WHOLE, share.max())) | (len(cuts) == 0)
        answer = annotator.answer({name: x[chosen] for name, x in vectors.items()}, silent=silent)
        segments.append(Segment(round(start, 2), round(end, 2), answer))
    return segments


def _log_p(annotator: Annotator, name: str, logits: Floats) -> Floats:
    """(M, n) log-probabilities of keys, or (M, bins of an octave) of tempi within 4 %."""
    readout = annotator.readouts[name]
    p = softmax(logits, readout.temperature)
    if isinstance(readout, TempoReadout):
        n = readout.bins_per_octave
        p = np.pad(p, ((0, 0), (0, -p.shape[1] % n))).reshape(len(p), -1, n).sum(axis=1)
        half = max(1, int(np.log2(1 + TEMPO_TOLERANCE) * n))
        p = np.sum([np.roll(p, shift, axis=1) for shift in range(-half, half + 1)], axis=0)
    return np.log(np.maximum(p, _LEAST))


def _changes(log_p: Floats) -> list[int]:
    """Windows that begin another state of the best sequence (Viterbi): log_p (M, states)."""
    score, came_from = log_p[0], []
    for now in log_p[1:]:
        best = int(score.argmax())
        stays = score >= score[best] - _CHANGE_NATS
        came_from.append(np.where(stays, np.arange(len(score)), best))
        score = np.where(stays, score, score[best] - _CHANGE_NATS) + now
    states = [int(score.argmax())]
    for before in reversed(came_from):
        states.append(int(before[states[-1]]))
    states.reverse()
    return [i for i in range(1, len(states)) if states[i] != states[i - 1]]


def _best_boundary(
    x: Floats, starts: Floats, window_s: float, low: float, high: float
) -> float | None:
    """Where between ``low`` and ``high`` seconds two sides explain the windows x (M, n) best; None
    where no window is mostly of one of them."""
    best: tuple[float, float] | None = None
    for boundary in np.arange(low, high, _STEP_S):
        before = np.clip((boundary - starts) / window_s, 0, 1)
        shares = np.stack([before, 1 - before], axis=1)
        if shares.max(axis=0).min() < _PURE:
            continue
        sides, *_ = np.linalg.lstsq(shares, x, rcond=None)
        error = float(((x - shares @ sides) ** 2).sum())
        if best is None or error < best[0]:
            best = error, float(boundary)
    return None if best is None else best[1]
