"""The results in sentences, each with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loev_cli.evaluate.equivariance import Response
from loev_cli.evaluate.geometry import Leak, Shape
from loev_cli.evaluate.probes import ProbeResult
from loev_cli.evaluate.results import Results
from loev_cli.evaluate.retrieval import RetrievalResult
from loev_cli.evaluate.statistics import Estimate
from loev_cli.evaluate.tasks import TASKS
from loev_cli.evaluate.vectors import CONCATENATION

_FEW_GROUPS = 30


def shown(estimate: Estimate) -> str:
    """``0.82 [0.76, 0.87]``."""
    if not np.isfinite(estimate.value):
        return "not defined"
    value, low, high = (round(x, 2) + 0.0 for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"  # adding 0 makes -0 0


def beats_chance(estimate: Estimate) -> bool:
    """Whether the whole interval lies above chance."""
    return estimate.chance is not None and estimate.low > estimate.chance


def main_scores(results: Sequence[ProbeResult], label: str, probe: str) -> dict[str, Estimate]:
    """Subspace -> the label's main metric."""
    return {
        r.subspace: r.scores[TASKS[r.kind]().main_metric]
        for r in results
        if r.label == label and r.probe == probe
    }


def of_data(results: Results) -> list[str]:
    judged = results.splits.judged
    n_groups = len(np.unique(results.manifest.groups[judged]))
    said = [
        f"{len(results.manifest)} tracks in {results.n_groups} groups; results are for "
        f"{len(judged)} tracks in {n_groups} groups ({results.splits.description}). Brackets are "
        "95 % confidence intervals over groups of tracks."
    ]
    if n_groups < _FEW_GROUPS:
        said.append(
            f"With {n_groups} groups the intervals are wide and themselves uncertain; "
            "smaller differences are not significant."
        )
    if results.skipped:
        said.append(f"{len(results.skipped)} files were skipped: {results.skipped[0]}")
    return said + [f"Note: {note}." for note in results.notes]


def of_probes(results: Sequence[ProbeResult]) -> list[str]:
    said = []
    for label in dict.fromkeys(r.label for r in results):
        probe = next(r.probe for r in results if r.label == label)
        scores = main_scores(results, label, probe)
        metric = TASKS[next(r.kind for r in results if r.label == label)]().main_metric
        alone = {name: e for name, e in scores.items() if name != CONCATENATION}
        best = max(alone, key=lambda name: np.nan_to_num(alone[name].value, nan=-np.inf))
        top = alone[best]
        if not beats_chance(top):
            said.append(
                f"{label}: no subspace is significantly above chance; the best, {best}, has "
                f"{metric} {shown(top)}, chance {top.chance:.2f}."
            )
            continue
        text = f"{label}: highest probe score in {best}: {metric} {shown(top)}, "
        text += f"chance {top.chance:.2f}."
        able = [name for name, e in alone.items() if name != best and beats_chance(e)]
        rivals = [name for name in able if alone[name].high >= top.low]
        knows = [name for name in able if name not in rivals]
        blind = [name for name in alone if name != best and name not in able]
        if rivals:
            text += f" {listed(rivals)} may be as good: the intervals overlap."
        if knows:
            text += f" Also above chance: {listed(knows)}."
        if blind:
            text += f" Not significantly above chance: {listed(blind)}."
        whole = scores.get(CONCATENATION)
        if whole is not None and whole.high < top.low:
            text += " Concatenating all subspaces lowers the score."
        said.append(text)
    return said


def of_responses(responses: Sequence[Response], stretcher: str, n_tracks: int) -> list[str]:
    said = [
        f"Excerpts of {n_tracks} tracks were transformed by known amounts; pitch and tempo with "
        f"{stretcher}. Distances are relative: 0 is unmoved, 1 is as far as another track."
    ]
    changes = dict.fromkeys(r.change for r in responses)
    subspaces = dict.fromkeys(r.subspace for r in responses)
    at = {(r.subspace, r.change): r for r in responses}
    for change in changes:
        own = at.get((change, change))
        rest = [at[name, change].sensitivity for name in subspaces if name != change]
        if own is None:
            moved = ", ".join(f"{s} {shown(at[s, change].sensitivity)}" for s in subspaces)
            said.append(f"No subspace is named {change}; distances moved: {moved}.")
            continue
        others = max((e.value for e in rest), default=0.0)
        ratio = own.sensitivity.value / others if others > 0 else np.inf
        clear = all(own.sensitivity.low > e.high for e in rest)
        said.append(
            f"{change}: moves its own subspace by {shown(own.sensitivity)}, the others by at most "
            f"{others:.2f}"
            + (f", {ratio:.1f} times less." if clear else ", which is not clearly less.")
            + f" The size is predicted from the two embeddings with R2 {shown(own.predicted)}; "
            f"its rank correlation with the distance is {own.monotonicity.value:.2f}."
        )
    return said


def of_retrieval(results: Sequence[RetrievalResult]) -> list[str]:
    said = []
    for question in dict.fromkeys(r.question for r in results):
        of = {r.subspace: r.scores["recall@1"] for r in results if r.question == question}
        best = max(of, key=lambda name: of[name].value)
        top = of[best]
        if beats_chance(top):
            equal = [name for name in of if name != best and of[name].high >= top.low]
            where = " or ".join([best, *equal])
            said.append(
                f"{question}: best searched by {where}; the nearest neighbor is correct for "
                f"{100 * top.value:.0f} % of queries [{100 * top.low:.0f}, {100 * top.high:.0f}], "
                f"chance {100 * (top.chance or 0):.0f} %."
            )
        else:
            said.append(f"{question}: no subspace is better than chance.")
    return said


def of_geometry(shapes: Sequence[Shape], leaks: Sequence[Leak]) -> list[str]:
    said = [
        f"{s.subspace} has an effective rank of {s.effective_rank.value:.0f} in {s.dim} dimensions "
        "on these tracks."
        for s in shapes
    ]
    seen: set[frozenset[str]] = set()
    for leak in leaks:
        pair = frozenset((leak.source, leak.target))
        if pair in seen:
            continue
        seen.add(pair)
        if leak.cka.value > 0.5:
            said.append(
                f"{leak.source} and {leak.target} are similar (CKA {shown(leak.cka)}): they "
                "arrange these tracks alike, even if a probe finds a label in only one of them."
            )
        elif np.isfinite(leak.cka.value):
            said.append(f"{leak.source} and {leak.target} share little (CKA {shown(leak.cka)}).")
    return said


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
