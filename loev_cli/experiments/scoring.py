"""From predictions to scores of methods, and tests of their differences.

Which subspace stands for a method is decided without the test rows:

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
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli import __version__
from loev_cli.evaluate import retrieval
from loev_cli.evaluate.equivariance import distances
from loev_cli.evaluate.geometry import effective_rank, linear_cka
from loev_cli.evaluate.job import plain
from loev_cli.evaluate.manifest import Column, Manifest, Splits
from loev_cli.evaluate.probes import TASKS, Reading, bounds_of, statistic_of
from loev_cli.evaluate.statistics import (
    Draws,
    Estimate,
    Score,
    fewest_groups,
    holm,
    mean_of,
    sensitivity_of,
)
from loev_cli.evaluate.vectors import CONCATENATION, with_concatenation
from loev_cli.experiments.judging import Judged

FORMAT_VERSION = 1
CHOSEN, OWN, INVARIANT = "chosen", "own", "invariant"


@dataclass(frozen=True)
class Contestant:
    """A method with its seeds, or a foreign file.

    Attributes:
        is_method: trained here; else a file of ``--against``.
        runs: one per seed.
    """

    name: str
    is_method: bool
    runs: Sequence[Judged]

    @property
    def subspaces(self) -> list[str]:
        return list(self.runs[0].vectors.subspaces)

    @property
    def description(self) -> str:
        """Below its name."""
        n = len(self.runs)
        return f"{n} seed{'s' if n > 1 else ''}" if self.is_method else "not trained here"


@dataclass(frozen=True)
class Entry:
    """A figure of one contestant.

    Attributes:
        question: a label, or what is looked for.
        rule: how the subspace was decided on; empty for a subspace that is simply shown.
        subspace: which it is; several, with their numbers of folds, where folds chose differently.
        of_seeds: the figure of each seed.
    """

    question: str
    kind: str
    probe: str
    metric: str
    contestant: str
    rule: str
    subspace: str
    estimate: Estimate
    of_seeds: tuple[float, ...]

    def record(self) -> dict[str, Any]:
        names = ("question", "kind", "probe", "metric", "contestant", "rule", "subspace")
        named = {name: getattr(self, name) for name in names}
        return named | self.estimate.as_dict() | {"of_seeds": list(self.of_seeds)}


@dataclass(frozen=True)
class Difference:
    """``a`` - ``b`` under the rule of the question, and its test.

    Attributes:
        p, p_corrected: NaN where too few groups of tracks answer the question for a test.
    """

    question: str
    metric: str
    a: str
    b: str
    estimate: Estimate
    p: float
    p_corrected: float = 1.0

    @property
    def is_clear(self) -> bool:
        return self.p_corrected < 0.05

    @property
    def is_tested(self) -> bool:
        return bool(np.isfinite(self.p_corrected))

    @property
    def signed(self) -> str:
        """``+0.21 [+0.15, +0.27]``."""
        return re.sub(r"(?<![-\d.])(?=\d+\.)", "+", str(self.estimate))

    def record(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("question", "metric", "a", "b")}
        found = {k: v for k, v in self.estimate.as_dict().items() if k != "chance"}
        return named | found | {"p": self.p, "p_holm": self.p_corrected}


@dataclass(frozen=True)
class Comparison:
    """All of it.

    Attributes:
        training: what all runs share, and what each method took.
        sensitivity: contestant -> subspace -> change -> figure.
        under_change: neighbors and predictions (:mod:`loev_cli.experiments.protocol`).
        geometry: contestant -> subspace -> mean effective rank over seeds; and CKA of pairs.
    """

    command: str
    created: str
    manifest: Manifest
    columns: Sequence[Column]
    splits: Splits
    contestants: Sequence[Contestant]
    settings: dict[str, Any]
    training: dict[str, Any]
    skipped: Sequence[str]
    notes: Sequence[str]
    entries: Sequence[Entry] = ()
    differences: Sequence[Difference] = ()
    sensitivity: dict[str, dict[str, dict[str, Estimate]]] = field(default_factory=dict)
    under_change: Sequence[Entry] = ()
    geometry: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Contestants that were trained here."""
        return [one.name for one in self.contestants if one.is_method]

    def entry(self, question: str, contestant: str) -> Entry | None:
        """The tested metric of a question under the tested rule."""
        for e in self.entries:
            named = (e.question, e.contestant) == (question, contestant)
            if named and e.rule in (CHOSEN, INVARIANT):
                return e
        return None

    def is_below_best(self, question: str, contestant: str) -> bool:
        """Whether it is significantly below the highest score."""
        found = {one.name: self.entry(question, one.name) for one in self.contestants}
        values = {name: e.estimate.value for name, e in found.items() if e is not None}
        known = {name: value for name, value in values.items() if np.isfinite(value)}
        if not known:
            return False
        d = self.difference(question, max(known, key=lambda name: known[name]), contestant)
        return d is not None and d.is_clear

    def difference(self, question: str, a: str, b: str) -> Difference | None:
        """``a`` - ``b``, whichever way it was tested."""
        for d in self.differences:
            if (d.question, d.a, d.b) == (question, a, b):
                return d
            if (d.question, d.a, d.b) == (question, b, a):
                e = d.estimate
                turned = replace(e, value=-e.value, low=-e.high, high=-e.low)
                return replace(d, a=a, b=b, estimate=turned)
        return None

    @property
    def untested(self) -> list[str]:
        """Questions that too few groups of tracks answer for a test, and how many it takes."""
        n_needed = fewest_groups(len(self.differences))
        groups = {d.question: d.estimate.n_groups for d in self.differences if not d.is_tested}
        return [
            f"not tested: {question}, of {n} groups of tracks; {n_needed} are needed for "
            f"{len(self.differences)} tests"
            for question, n in groups.items()
        ]

    @property
    def tested(self) -> list[str]:
        """Questions, labels first."""
        return list(dict.fromkeys(d.question for d in self.differences))

    def as_dict(self) -> dict[str, Any]:
        """For ``results.json``; figures that are not defined are null."""
        judged = self.splits.judged
        document = {
            "format_version": FORMAT_VERSION,
            "command": self.command,
            "created": self.created,
            "loev_version": __version__,
            "data": {
                "n_tracks": len(self.manifest),
                "n_judged": len(judged),
                "n_groups_judged": len(np.unique(self.manifest.groups[judged])),
                "split": self.splits.description,
                "labels": {c.name: {"kind": c.kind, "n_known": int(c.known.sum())}
                           for c in self.columns},
            },
            "settings": self.settings,
            "training": self.training,
            "contestants": {
                c.name: {
                    "is_method": c.is_method,
                    "subspaces": dict(c.runs[0].vectors.model["subspaces"]),
                    "runs": [{"name": r.name, "seed": r.seed,
                              "sha256": r.vectors.model.get("sha256")} for r in c.runs],
                }
                for c in self.contestants
            },
            "interval": "95 %, Student's t over groups of tracks (bootstrap) and seeds",
            "test": "two-sided, Student's t of the difference, paired by track and seed; Holm over "
            f"{sum(d.is_tested for d in self.differences)} tests",
            "skipped": list(self.skipped),
            "notes": list(self.notes),
            "scores": [entry.record() for entry in self.entries],
            "differences": [difference.record() for difference in self.differences],
            "sensitivity": {
                name: {s: {c: e.as_dict() for c, e in of.items()} for s, of in rows.items()}
                for name, rows in self.sensitivity.items()
            },
            "under_change": [entry.record() for entry in self.under_change],
            "geometry": self.geometry,
        }  # fmt: skip
        return dict(plain(document))


def own_subspace(column: Column) -> str:
    """What the subspace of a label is called, if a method has one."""
    return {"key": "pitch", "tempo": "tempo"}.get(column.kind, column.name)


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
                    estimate = draws.estimate(score, chance=chance, bounds=bounds_of(metric))
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
        question, rows, right, answers = retrieval.label_task(column, judged, groups)
        asks = right.any(axis=1)
        if asks.sum() < 2:
            continue
        right, answers = right[asks], answers[asks]
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
            moved, between = distances(run.heard, subspace, change)
            statistics.append(sensitivity_of(moved.mean(axis=1), between))
        rows[subspace][change] = draws.estimate(draws.score(statistics), bounds=None)
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
    """With Holm's correction over all that have enough groups of tracks to pass it."""
    n_needed = fewest_groups(len(differences))
    tested = [d for d in differences if d.estimate.n_groups >= n_needed and np.isfinite(d.p)]
    p_of = dict(zip(map(id, tested), holm([d.p for d in tested]), strict=True))
    return [replace(d, p_corrected=p_of.get(id(d), float("nan"))) for d in differences]
