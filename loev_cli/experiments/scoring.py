"""From what models say to scores of methods and tests of their differences.

Which subspace speaks for a method is decided without the test rows:

chosen      the one (or all together) whose probe is best on the val rows, the mean over seeds;
            under cross-validation for each fold by its own val rows
all         all subspaces side by side
own         the subspace of what the label is about, where a method has one: `pitch` for keys,
            `tempo` for tempos, else one that is called like the label
invariant   for finding a track again after it was changed

Tests are made of ``chosen`` for labels, by the first probe, and of ``invariant`` for finding again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.evaluate import retrieval
from loev_cli.evaluate.geometry import effective_rank, linear_cka
from loev_cli.evaluate.labels import Column
from loev_cli.evaluate.probes import Reading
from loev_cli.evaluate.statistics import Estimate
from loev_cli.evaluate.tasks import TASKS
from loev_cli.evaluate.vectors import CONCATENATION, with_concatenation
from loev_cli.experiments.comparison import (
    CHOSEN,
    INVARIANT,
    OWN,
    Contestant,
    Difference,
    Entry,
    own_subspace,
)
from loev_cli.experiments.inference import (
    Draws,
    Score,
    holm,
    mean_of,
    sensitivity_of,
    statistic_of,
)

_FEW_DRAWS = 1000  # for figures that are not a sum over tracks, and not tested


def compare_labels(
    contestants: Sequence[Contestant],
    columns: Sequence[Column],
    groups: NDArray[Any],
    probes: Sequence[str],
    *,
    n_seeds: int,
    seed: int,
) -> tuple[list[Entry], list[Difference]]:
    """Scores of every label, subspace, probe and rule; tests of the main metric, uncorrected."""
    entries: list[Entry] = []
    differences: list[Difference] = []
    for column, probe in itertools.product(columns, probes):
        task = TASKS[column.kind]()
        first = contestants[0].runs[0].readings
        rows = next(r.rows for key, r in first.items() if key[0] == column.name)
        draws = Draws(groups[rows], n_seeds, seed=seed)
        tested: dict[str, Score] = {}
        for contestant in contestants:
            shown = {
                subspace: ("", subspace, [r.readings[column.name, subspace, probe] for r in
                                          contestant.runs])
                for subspace in with_concatenation(contestant.runs[0].vectors.subspaces)
            }  # fmt: skip
            ruled = [(CHOSEN, *choose({s: of for s, (_, _, of) in shown.items()}))]
            ruled += [
                (rule, name, shown[name][2])
                for rule, name in ((CONCATENATION, CONCATENATION), (OWN, own_subspace(column)))
                if name in shown
            ]
            for rule, subspace, readings in [*ruled, *shown.values()]:
                for metric in task.metrics:
                    is_tested = rule == CHOSEN and metric == task.main_metric
                    score = draws.score(
                        [statistic_of(task, metric, reading) for reading in readings],
                        n_draws=None if is_tested else _FEW_DRAWS,
                    )
                    if is_tested:
                        tested[contestant.name] = score
                    chance = task.chance(metric, readings[0].learned, readings[0].truth)
                    estimate = draws.estimate(score, chance=chance)
                    entries.append(
                        Entry(column.name, column.kind, probe, metric, contestant.name, rule,
                              subspace, estimate, score.of_seeds)
                    )  # fmt: skip
        if probe == probes[0]:
            differences += _differences(column.name, task.main_metric, contestants, tested, draws)
    return entries, differences


def choose(
    readings: Mapping[str, Sequence[Reading]],
) -> tuple[str, list[Reading]]:
    """The subspace best on the val rows, the mean over seeds, in every fold; and what it says.

    Args:
        readings: subspace -> one per seed.
    """
    names = list(readings)
    reached = np.array([np.mean([r.reached for r in readings[name]], axis=0) for name in names])
    best = [names[i] for i in reached.argmax(axis=0)]
    first = readings[names[0]]
    chosen = []
    for s, one in enumerate(first):
        output = one.output.copy()
        for fold, name in enumerate(best):
            at = one.fold_of == fold
            output[at] = readings[name][s].output[at]
        chosen.append(replace(one, output=output))
    counts = {name: best.count(name) for name in names if name in best}
    if len(counts) == 1:
        return best[0], chosen
    return ", ".join(f"{name} in {k}" for name, k in counts.items()), chosen


def compare_search(
    contestants: Sequence[Contestant],
    columns: Sequence[Column],
    chosen: Mapping[tuple[str, str], str],
    judged: NDArray[np.int64],
    groups: NDArray[Any],
    *,
    n_seeds: int,
    seed: int,
) -> list[Entry]:
    """Tracks that share a label, searched in the subspace that was chosen for it.

    Args:
        chosen: (label, contestant) -> subspace.
        judged: the rows that ask and answer.
    """
    entries = []
    for column in columns:
        if column.kind == "number":
            continue
        rows = judged[column.known[judged]]
        alike = retrieval.same_label(column, rows)
        allowed = groups[rows][:, None] != groups[rows][None, :]
        asks = (alike & allowed).any(axis=1)
        if asks.sum() < 2:
            continue
        question = "tempo within 4 %" if column.kind == "tempo" else f"same {column.name}"
        right, answers = (alike & allowed)[asks], allowed[asks]
        chances = retrieval.chance(answers.sum(axis=1), right.sum(axis=1))
        draws = Draws(groups[rows][asks], n_seeds, seed=seed)
        for contestant in contestants:
            subspace = chosen[column.name, contestant.name]
            found = []
            for run in contestant.runs:
                x = with_concatenation(run.vectors.subspaces)[subspace][rows]
                hits = retrieval.ranked_hits(x[asks], x, right, answers, seed=seed)
                found.append(retrieval.metrics(hits, right.sum(axis=1)))
            for metric in ("mAP", "recall@1"):
                score = draws.score([mean_of(of[metric]) for of in found])
                estimate = draws.estimate(score, chance=float(chances[metric].mean()))
                entries.append(
                    Entry(question, "search", "", metric, contestant.name, "", subspace,
                          estimate, score.of_seeds)
                )  # fmt: skip
    return entries


def compare_changed(
    contestants: Sequence[Contestant], *, n_seeds: int, seed: int
) -> tuple[list[Entry], list[Difference], dict[str, dict[str, dict[str, Estimate]]]]:
    """Finding a track again after a change, by ``invariant``; and how far each subspace moves."""
    entries: list[Entry] = []
    differences: list[Difference] = []
    able = [c for c in contestants if all(run.heard is not None for run in c.runs)]
    sensitivity: dict[str, dict[str, dict[str, Estimate]]] = {}
    for change in ("pitch", "tempo"):
        question, tested = f"same track, other {change}", {}
        draws: Draws | None = None
        for contestant in able:
            for subspace in contestant.subspaces:
                statistics, n_answers = [], 1
                for run in contestant.runs:
                    assert run.heard is not None
                    x = run.vectors.subspaces[subspace]
                    hits, owner = retrieval.changed_hits(x, run.heard, change, subspace, seed=seed)
                    draws = draws or Draws(run.heard.groups[owner], n_seeds, seed=seed)
                    statistics.append(mean_of(hits[:, 0].astype(np.float64)))
                    n_answers = hits.shape[1]
                assert draws is not None
                score = draws.score(statistics)
                rule = INVARIANT if subspace == INVARIANT else ""
                if rule:
                    tested[contestant.name] = score
                entries.append(
                    Entry(question, "found again", "", "recall@1", contestant.name, rule, subspace,
                          draws.estimate(score, chance=1 / n_answers), score.of_seeds)
                )  # fmt: skip
        if draws is not None:
            differences += _differences(question, "recall@1", able, tested, draws)
    for contestant in able:
        sensitivity[contestant.name] = _sensitivity(contestant, n_seeds, seed)
    return entries, differences, sensitivity


def _sensitivity(contestant: Contestant, n_seeds: int, seed: int) -> dict[str, dict[str, Estimate]]:
    first = contestant.runs[0].heard
    assert first is not None
    draws = Draws(first.groups, n_seeds, seed=seed)
    rows: dict[str, dict[str, Estimate]] = {s: {} for s in contestant.subspaces}
    for subspace, change in itertools.product(contestant.subspaces, first.changed):
        statistics = []
        for run in contestant.runs:
            assert run.heard is not None
            base = run.heard.plain[subspace].astype(np.float64)
            versions = run.heard.changed[change][subspace].astype(np.float64)
            moved = np.linalg.norm(versions - base[:, None], axis=2).mean(axis=1)
            between = np.linalg.norm(base[:, None] - base[None, :], axis=2)
            statistics.append(sensitivity_of(moved, between))
        rows[subspace][change] = draws.estimate(draws.score(statistics))
    return rows


def describe_geometry(
    contestants: Sequence[Contestant], judged: NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """Mean over seeds of each subspace's effective rank, and of the CKA of every two."""
    found: dict[str, dict[str, Any]] = {}
    for contestant in contestants:
        of_runs = [
            {name: x[judged] for name, x in run.vectors.subspaces.items()}
            for run in contestant.runs
        ]
        found[contestant.name] = {
            "effective_rank": {
                name: float(np.mean([effective_rank(of[name]) for of in of_runs]))
                for name in contestant.subspaces
            },
            "cka": {
                f"{a} ~ {b}": float(np.mean([linear_cka(of[a], of[b]) for of in of_runs]))
                for a, b in itertools.combinations(contestant.subspaces, 2)
            },
        }
    return found


def _differences(
    question: str,
    metric: str,
    contestants: Sequence[Contestant],
    scores: Mapping[str, Score],
    draws: Draws,
) -> list[Difference]:
    """Every two contestants of which at least one is a method."""
    result = []
    for a, b in itertools.combinations(contestants, 2):
        if not (a.is_method or b.is_method) or a.name not in scores or b.name not in scores:
            continue
        estimate, p = draws.difference(scores[a.name], scores[b.name])
        result.append(Difference(question, metric, a.name, b.name, estimate, p))
    return result


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """With Holm's correction over all of them."""
    p_values = holm([d.p for d in differences])
    return [replace(d, p_corrected=p) for d, p in zip(differences, p_values, strict=True)]
