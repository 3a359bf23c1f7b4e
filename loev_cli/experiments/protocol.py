"""What is measured under known changes of pitch and tempo, besides finding a track again.

The evaluation of the paper's research code, on excerpts of the tracks that ``compare`` changes:

neighbors       labels of the nearest excerpts, clean or changed, as estimates of the label of the
                query, clean or changed; the key moves with pitch, the tempo with tempo
moved           R2 of the changed embedding, predicted from the original and the size of the change;
                its chance is the R2 of the original itself. Of the movement: the share of the
                squared distance between the two that the prediction explains
size            R2 of the size of the change, predicted from two versions
own - other     that of the subspace called like the change, less that of the other change's:
                how much each parameter is kept to its own subspace

Predictions are for held-out tracks (:mod:`loev_cli.evaluate.equivariance`). Nothing is tested.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from loev_cli.evaluate.equivariance import predicted_embeddings, predicted_sizes
from loev_cli.evaluate.job import Stage
from loev_cli.evaluate.manifest import Column
from loev_cli.evaluate.probes import TASKS
from loev_cli.evaluate.retrieval import neighbor_grid
from loev_cli.evaluate.statistics import Draws, Statistic, mean_of, r2_of, share
from loev_cli.evaluate.vectors import Subspaces, with_concatenation
from loev_cli.experiments.cache import ArrayCache, Arrays
from loev_cli.experiments.judging import PROBES, Judged
from loev_cli.experiments.scoring import CHOSEN, Contestant, Entry

NEIGHBORS, MOVED, SIZE, APART = "neighbors", "moved", "size", "own - other"
# A change, and the kind of label that moves with it.
CHANGES = {"pitch": "key", "tempo": "tempo"}
MOVEMENT = "R2 of the movement"
_N_DRAWS = 1000
_VERSION = 1  # goes up whenever the same vectors would say something else


def compare_under_change(
    contestants: Sequence[Contestant],
    columns: Sequence[Column],
    chosen: Mapping[tuple[str, str], str],
    out: Path,
    *,
    n_seeds: int,
    n_parallel: int,
    seed: int,
    on_event: Callable[[Stage], None],
) -> list[Entry]:
    """All figures of every contestant that heard changes, in every subspace.

    Args:
        chosen: (label, contestant) -> subspace that its probe selected; its entries have the rule.
        out: folder of the comparison; predicted sizes, which take longest, are kept in it.
    """
    able = [c for c in contestants if all(run.heard is not None for run in c.runs)]
    parts = [
        part
        for change in CHANGES
        for contestant in able
        for part in (
            partial(_neighbors, contestant, change, columns, chosen),
            partial(_predictions, contestant, change, out),
        )
    ]
    entries: list[Entry] = []
    # On matrices as small as these, BLAS threads on busy cores mostly wait for each other.
    with threadpool_limits(limits=1):
        work = Parallel(n_jobs=n_parallel, return_as="generator")(
            delayed(part)(n_seeds, seed) for part in parts
        )
        on_event(Stage("predictions", 0, len(parts)))
        for i, found in enumerate(work):
            entries += found
            on_event(Stage("predictions", i + 1, len(parts)))
    return entries


def versions_of(run: Judged, change: str) -> Subspaces:
    """Subspace, and all together, -> (n, 1 + S, D): excerpts and their versions."""
    assert run.heard is not None
    plain, changed = run.heard.plain, run.heard.changed[change]
    of = {s: np.concatenate([x[:, None], changed[s]], axis=1) for s, x in plain.items()}
    n, n_versions, _ = next(iter(of.values())).shape
    flat = with_concatenation({s: x.reshape(n * n_versions, -1) for s, x in of.items()})
    return {s: x.reshape(n, n_versions, -1) for s, x in flat.items()}


def _neighbors(
    contestant: Contestant,
    change: str,
    columns: Sequence[Column],
    chosen: Mapping[tuple[str, str], str],
    n_seeds: int,
    seed: int,
) -> list[Entry]:
    entries: list[Entry] = []
    heard = contestant.runs[0].heard
    assert heard is not None
    vectors = [versions_of(run, change) for run in contestant.runs]
    for column in columns:
        known = np.flatnonzero(column.known[heard.rows])
        groups = heard.groups[known]
        if column.kind != CHANGES[change] or len(np.unique(groups)) < 2:
            continue
        metric = TASKS[column.kind]().main_metric
        draws = Draws(groups, n_seeds, seed=seed)
        grid = neighbor_grid(column, heard.rows[known], groups, heard.sizes[change])
        for cell, subspace in itertools.product(grid, vectors[0]):
            of_runs = [cell.scores(of[subspace][known], seed=seed) for of in vectors]
            rule = CHOSEN if subspace == chosen.get((column.name, contestant.name)) else ""
            question = f"{column.name}: {cell.query} query, {cell.neighbors} neighbors"
            for k in cell.ranks:
                score = draws.score([mean_of(of[k]) for of in of_runs], n_draws=_N_DRAWS)
                entries.append(
                    Entry(question, NEIGHBORS, "", f"{metric}@{k}", contestant.name, rule, subspace,
                          draws.estimate(score, chance=cell.chance), score.of_seeds)
                )  # fmt: skip
    return entries


def sizes_or_keep(
    folder: Path, x: NDArray[np.float32], sizes: NDArray[Any], groups: NDArray[Any], seed: int
) -> Arrays | None:
    """:func:`predicted_sizes` of (n, 1 + S, D) as ``wanted`` and ``told``, kept in ``folder``.

    Raises:
        OutputError: they cannot be kept.
    """
    cache, key = ArrayCache(folder), (["sizes", _VERSION, seed], x, sizes, groups)
    found = cache.find(*key)
    if found is None:
        as_double = x.astype(np.float64)
        pair = predicted_sizes(as_double[:, 0], as_double[:, 1:], sizes, groups, seed=seed)
        if pair is None:
            return None
        found = dict(zip(("wanted", "told"), pair, strict=True))
        cache.keep(found, *key)
    return found


def _predictions(
    contestant: Contestant, change: str, out: Path, n_seeds: int, seed: int
) -> list[Entry]:
    heard = contestant.runs[0].heard
    assert heard is not None
    draws, sizes = Draws(heard.groups, n_seeds, seed=seed), np.array(heard.sizes[change])
    vectors = [versions_of(run, change) for run in contestant.runs]
    entries: list[Entry] = []

    def add(kind: str, metric: str, subspace: str, of: Sequence[Statistic], chance: float) -> None:
        score = draws.score(of, n_draws=_N_DRAWS)
        estimate = draws.estimate(score, chance=chance, bounds=(-np.inf, 1.0))
        entries.append(
            Entry(change, kind, "", metric, contestant.name, "", subspace, estimate, score.of_seeds)
        )

    said: dict[str, list[Statistic]] = {}
    for subspace in contestant.subspaces:
        moved, movement, at_rest = [], [], []
        for of in vectors:
            pair = sizes_or_keep(out / PROBES, of[subspace], sizes, heard.groups, seed)
            x = of[subspace].astype(np.float64)
            predicted = predicted_embeddings(x[:, 0], x[:, 1:], heard.groups, seed=seed)
            if pair is None or predicted is None:
                return []
            said.setdefault(subspace, []).append(r2_of(pair["wanted"], pair["told"]))
            unmoved = np.repeat(x[:, :1], len(sizes), axis=1)
            moved.append(_r2_of_vectors(x[:, 1:], predicted))
            movement.append(_explained(x[:, 1:] - predicted, x[:, 1:] - unmoved))
            at_rest.append(_value(_r2_of_vectors(x[:, 1:], unmoved), len(x)))
        add(MOVED, "R2", subspace, moved, float(np.mean(at_rest)))
        add(MOVED, MOVEMENT, subspace, movement, 0.0)
        add(SIZE, "R2", subspace, said[subspace], 0.0)
    other = next(name for name in CHANGES if name != change)
    if {change, other} <= set(said):
        own, less = (draws.score(said[s], n_draws=_N_DRAWS) for s in (change, other))
        apart, _ = draws.difference(own, less)
        of_seeds = np.subtract(own.of_seeds, less.of_seeds)
        entries.append(
            Entry(change, APART, "", "R2", contestant.name, "", f"{change} - {other}", apart,
                  tuple(of_seeds.tolist()))
        )  # fmt: skip
    return entries


def _r2_of_vectors(truth: NDArray[np.float64], output: NDArray[np.float64]) -> Statistic:
    """Of (n, S, D): every dimension about its own mean."""
    mean = truth.mean(axis=(0, 1))
    return r2_of(truth - mean, output - mean)


def _explained(left: NDArray[np.float64], whole: NDArray[np.float64]) -> Statistic:
    """Share of the squares of ``whole`` (n, S, D) that are not ``left``."""
    parts, totals = (np.square(x).sum(axis=(1, 2)) for x in (left, whole))
    return lambda drawn: 1 - share(drawn @ parts, drawn @ totals)


def _value(statistic: Statistic, n: int) -> float:
    return float(statistic(np.ones((1, n), np.int64))[0])
