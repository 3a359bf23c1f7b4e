"""Does a label survive when a model becomes invariant to an augmentation? Two kinds of evidence.

destroyed   Does the label itself change with it? Every track is changed by the same M draws. One
            probe per draw may answer differently for each; one that is fitted to all draws mixed
            must answer alike, as an invariant model would. Both learn from as many rows and are
            judged on the same vectors. What the second loses is lost to invariance. The cost of
            artifacts, or of leaving what the reference model knows, is paid by both, and so is
            not counted.
gained      Does keeping it help? Models of which one keeps a subspace for the augmentation, and
            one is trained to be invariant to it, over several seeds, all else alike.

``fallen`` is a third figure, for show: readings fitted to unchanged tracks, judged on changed ones
with their label kept. It also falls where the label is as it was and only its vectors moved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.evaluate.manifest import Column, Fold
from loev_cli.evaluate.probes import TASKS, Reading, Task, bounds_of, read_label, statistic_of
from loev_cli.evaluate.statistics import (
    Draws,
    Estimate,
    Score,
    Statistic,
    fewest_groups,
    holm,
)

PROBE = "linear"
_N_COMPONENTS = 192
_N_DRAWS_SLOW = 400  # of rankings, which are counted anew in every draw

Vectors = NDArray[np.float32]
# Vectors (n, D), labels, folds -> what a probe says of the test rows.
Read = Callable[[Vectors, Column, Sequence[Fold]], Reading]


def read_linear(x: Vectors, column: Column, folds: Sequence[Fold]) -> Reading:
    """By a linear probe."""
    return read_label(x, column, folds, PROBE)


@dataclass(frozen=True)
class Destroyed:
    """What invariance to one augmentation costs one label.

    Attributes:
        known: score of the readings that know the draw, with chance.
        blind: score of the one that must serve all draws.
        lost: the first less the second.
        share: the same as a share of what is known above chance; 1 is all. NaN if nothing is
            known.
        fallen: score of unchanged tracks less that of changed ones, by a reading that has only
            seen unchanged ones.
    """

    known: Estimate
    blind: Estimate
    lost: Estimate
    share: Estimate
    fallen: Estimate

    @property
    def is_readable(self) -> bool:
        """Whether anything is known of the label at all."""
        return self.known.chance is not None and self.known.low > self.known.chance


@dataclass(frozen=True)
class Gained:
    """What a subspace of its own for one augmentation brings one label.

    Attributes:
        kept, blind: score of the models with and without it, mean over seeds.
        gain: the difference, paired by track and seed.
        p: of there being none; ``p_holm`` corrected for the number of candidates, NaN where the
            groups of tracks are too few for a test.
        of_seeds: the difference in each seed.
    """

    kept: Estimate
    blind: Estimate
    gain: Estimate
    p: float
    p_holm: float
    of_seeds: tuple[float, ...]


def compact(x: Vectors) -> Vectors:
    """(n, D) -> (n, 192) principal components, or fewer where there is less.

    Some hundred labeled tracks fit a probe of some hundred dimensions; and models of which one
    has more dimensions than the other are read alike. No label takes part in it.
    """
    centered = x - x.mean(axis=0, dtype=np.float64).astype(np.float32)
    covariance = (centered.T @ centered).astype(np.float64)
    _, axes = np.linalg.eigh(covariance)
    return np.asarray(centered @ axes[:, ::-1][:, :_N_COMPONENTS].astype(np.float32))


def destroyed(
    plain: Vectors,
    changed: Mapping[str, Vectors],
    column: Column,
    folds: Sequence[Fold],
    groups: NDArray[Any],
    *,
    read: Read = read_linear,
    seed: int = 0,
) -> dict[str, Destroyed]:
    """Of one label, for every augmentation.

    Args:
        plain: (N, D), the tracks as they are.
        changed: augmentation -> (M, N, D), under M draws that all tracks share.
        groups: (N,).
        read: how labels are read of vectors.
    """
    task = TASKS[column.kind]()
    bounds = bounds_of(task.main_metric)
    fallen = _fallen(task, plain, changed, column, folds, groups, read, seed)
    found = {}
    for name, x in changed.items():
        n = x.shape[1]
        known = _together([read(one, column, folds) for one in x], n)
        blind = [
            _in_order(one, known) for one in _blind_readings(x, column, folds, read, seed=seed)
        ]
        draws = Draws(groups[known.rows % n], 1, seed=seed)
        scores = [
            draws.score(
                [_mean([statistic_of(task, task.main_metric, one) for one in reads])],
                n_draws=_n_draws(task),
            )
            for reads in ([known], blind)
        ]
        chance = task.chance(task.main_metric, known.learned, known.truth)
        found[name] = Destroyed(
            known=draws.estimate(scores[0], chance=chance, bounds=bounds),
            blind=draws.estimate(scores[1], chance=chance, bounds=bounds),
            lost=draws.difference(*scores)[0],
            share=draws.estimate(_share(scores[0], scores[1], chance)),
            fallen=fallen[name],
        )
    return found


def gained(
    blind: Sequence[Vectors],
    kept: Mapping[str, Sequence[Vectors]],
    column: Column,
    folds: Sequence[Fold],
    groups: NDArray[Any],
    *,
    read: Read = read_linear,
    seed: int = 0,
) -> dict[str, Gained]:
    """Of one label, for every augmentation.

    Args:
        blind: (N, D) of the model without any subspace of its own, per seed.
        kept: augmentation -> the same of the models with one.
        groups: (N,).
        read: how labels are read of vectors.
    """
    task = TASKS[column.kind]()

    without = [read(x, column, folds) for x in blind]
    draws = Draws(groups[without[0].rows], len(blind), seed=seed)
    chance = task.chance(task.main_metric, without[0].learned, without[0].truth)
    bounds = bounds_of(task.main_metric)
    baseline = _score(task, without, draws)
    found = {}
    for name, vectors in kept.items():
        score = _score(task, [read(x, column, folds) for x in vectors], draws)
        gain, p = draws.difference(score, baseline)
        found[name] = Gained(
            kept=draws.estimate(score, chance=chance, bounds=bounds),
            blind=draws.estimate(baseline, chance=chance, bounds=bounds),
            gain=gain,
            p=p,
            p_holm=p,
            of_seeds=tuple(a - b for a, b in zip(score.of_seeds, baseline.of_seeds, strict=True)),
        )
    if draws.n_groups < fewest_groups(len(found)):
        return {name: dataclasses.replace(one, p_holm=float("nan")) for name, one in found.items()}
    corrected = holm([one.p for one in found.values()])
    return {
        name: dataclasses.replace(one, p_holm=p)
        for (name, one), p in zip(found.items(), corrected, strict=True)
    }


def _score(task: Task, reads: Reading | Sequence[Reading], draws: Draws) -> Score:
    each = [reads] if isinstance(reads, Reading) else reads
    return draws.score(
        [statistic_of(task, task.main_metric, read) for read in each], n_draws=_n_draws(task)
    )


def _n_draws(task: Task) -> int | None:
    return _N_DRAWS_SLOW if task.is_judged_by_fold else None


def _mean(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of the same figure of several readings."""
    return lambda drawn: np.asarray(np.mean([one(drawn) for one in statistics], axis=0))


def _blind_readings(
    x: Vectors, column: Column, folds: Sequence[Fold], read: Read, *, seed: int
) -> list[Reading]:
    """Readings that meet each track under one draw, others under others, and must serve all.

    One per turn of the draws, so that every track is learned from under every draw, and each
    fitted to as many rows as a reading of one draw: none wins by having seen more.

    Args:
        x: (M, N, D).
    """
    n_draws, n = x.shape[:2]
    place = np.random.default_rng(seed).permutation(n)
    stacked, repeated = x.reshape(n_draws * n, -1), _repeated(column, n_draws)
    readings = []
    for turn in range(n_draws):
        row = (place + turn) % n_draws * n + np.arange(n)
        mixed = [
            Fold(row[fold.train], row[fold.val], _repeated_rows(fold.test, n_draws, n))
            for fold in folds
        ]
        readings.append(read(stacked, repeated, mixed))
    return readings


def _share(known: Score, blind: Score, chance: float) -> Score:
    """(known - blind) / (known - chance); NaN where nothing is known."""

    def of(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        readable = a - chance
        undefined = np.full(a.shape, np.nan)
        return np.asarray(np.divide(a - b, readable, out=undefined, where=readable > 1e-9))

    values = of(np.array(known.of_seeds), np.array(blind.of_seeds))
    return Score(tuple(values.tolist()), of(known.draws, blind.draws))


def _fallen(
    task: Task,
    plain: Vectors,
    changed: Mapping[str, Vectors],
    column: Column,
    folds: Sequence[Fold],
    groups: NDArray[Any],
    read: Read,
    seed: int,
) -> dict[str, Estimate]:
    """Of readings of unchanged tracks: their score there less that under every augmentation."""
    n = len(plain)
    blocks = [plain[None], *changed.values()]
    stacked = np.concatenate(blocks)  # (1 + all draws, N, D)
    said = read(
        stacked.reshape(len(stacked) * n, -1),
        _repeated(column, len(stacked)),
        [Fold(fold.train, fold.val, _repeated_rows(fold.test, len(stacked), n)) for fold in folds],
    )
    block_of_draw = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    block_of_row = block_of_draw[said.rows // n]
    parts = [_part(said, np.flatnonzero(block_of_row == b)) for b in range(len(blocks))]
    found = {}
    for name, part in zip(changed, parts[1:], strict=True):
        # As often as the tracks that were changed, so that both have the same rows to draw.
        copies = len(part.rows) // len(parts[0].rows)
        as_is = _together([parts[0]] * copies, n)
        draws = Draws(groups[part.rows % n], 1, seed=seed)
        found[name], _ = draws.difference(
            _score(task, as_is, draws), _score(task, _in_order(part, as_is), draws)
        )
    return found


def _repeated(column: Column, times: int) -> Column:
    """The labels of N tracks, then the same again."""
    values = np.concatenate([column.values] * times)
    return dataclasses.replace(column, values=values, known=np.tile(column.known, times))


def _repeated_rows(rows: NDArray[np.int64], times: int, n: int) -> NDArray[np.int64]:
    return np.concatenate([rows + i * n for i in range(times)])


def _together(reads: Sequence[Reading], n: int) -> Reading:
    """One reading of (draw, track) out of one per draw, each with folds of its own."""
    n_folds = 1 + max(int(read.fold_of.max(initial=0)) for read in reads)
    return Reading(
        rows=np.concatenate([read.rows % n + i * n for i, read in enumerate(reads)]),
        fold_of=np.concatenate([read.fold_of + i * n_folds for i, read in enumerate(reads)]),
        is_judged_by_fold=reads[0].is_judged_by_fold,
        truth=np.concatenate([read.truth for read in reads]),
        output=np.concatenate([read.output for read in reads]),
        learned=reads[0].learned,
        strength=tuple(s for read in reads for s in read.strength),
        reached=tuple(r for read in reads for r in read.reached),
    )


def _part(read: Reading, keep: NDArray[np.int64]) -> Reading:
    """Some of the answers."""
    return dataclasses.replace(
        read,
        rows=read.rows[keep],
        fold_of=read.fold_of[keep],
        truth=read.truth[keep],
        output=read.output[keep],
    )


def _in_order(read: Reading, like: Reading) -> Reading:
    """The same answers in the order, and with the folds, of another reading of these rows."""
    order = np.empty(len(like.rows), np.int64)
    order[np.argsort(like.rows)] = np.argsort(read.rows)
    return dataclasses.replace(_part(read, order), rows=like.rows, fold_of=like.fold_of)
