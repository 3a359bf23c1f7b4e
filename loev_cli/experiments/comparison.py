"""What a comparison found: scores of every method, differences and how sure they are, its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from loev_cli import __version__
from loev_cli.evaluate.labels import Column
from loev_cli.evaluate.manifest import Manifest
from loev_cli.evaluate.results import plain
from loev_cli.evaluate.splits import Splits
from loev_cli.evaluate.statistics import Estimate
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
        said = {name: getattr(self, name) for name in names}
        return said | self.estimate.as_dict() | {"of_seeds": list(self.of_seeds)}


@dataclass(frozen=True)
class Difference:
    """``a`` - ``b`` under the rule of the question, and its test."""

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

    def record(self) -> dict[str, Any]:
        names = ("question", "metric", "a", "b")
        said = {name: getattr(self, name) for name in names}
        found = {k: v for k, v in self.estimate.as_dict().items() if k != "chance"}
        return said | found | {"p": self.p, "p_holm": self.p_corrected}


@dataclass(frozen=True)
class Comparison:
    """All of it.

    Attributes:
        training: what all runs share, and what each method took.
        sensitivity: contestant -> subspace -> change -> figure.
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
    geometry: dict[str, dict[str, Any]] = field(default_factory=dict)

    def entry(self, question: str, contestant: str, *, rule: str = "") -> Entry | None:
        """The tested metric of a question under a rule; without one, under the tested rule."""
        for e in self.entries:
            if (e.question, e.contestant) == (question, contestant) and (
                e.rule == rule if rule else e.rule in (CHOSEN, INVARIANT)
            ):
                return e
        return None

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
            f"{len(self.differences)} tests",
            "skipped": list(self.skipped),
            "notes": list(self.notes),
            "scores": [entry.record() for entry in self.entries],
            "differences": [difference.record() for difference in self.differences],
            "sensitivity": {
                name: {s: {c: e.as_dict() for c, e in of.items()} for s, of in rows.items()}
                for name, rows in self.sensitivity.items()
            },
            "geometry": self.geometry,
        }  # fmt: skip
        return dict(plain(document))


def own_subspace(column: Column) -> str:
    """What the subspace of a label is called, if a method has one."""
    return {"key": "pitch", "tempo": "tempo"}.get(column.kind, column.name)
