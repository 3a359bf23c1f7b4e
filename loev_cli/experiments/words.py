"""The summary sentences of a comparison, and its table as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from loev_cli.evaluate.words import listed, shown
from loev_cli.experiments.comparison import (
    CHOSEN,
    INVARIANT,
    Comparison,
    Contestant,
    Difference,
    Entry,
    own_subspace,
)

# The claim that the paper makes is of these two.
_CLAIMED, _BASELINE = "loev++", "cl"
_FEW_SEEDS = 5


def probability(p: float) -> str:
    """``p = 0.012``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def of_setting(c: Comparison) -> list[str]:
    """What was trained and judged on what."""
    t, judged = c.training, c.splits.judged
    n_groups = len(np.unique(c.manifest.groups[judged]))
    methods = [one.name for one in c.contestants if one.is_method]
    seeds = t["seeds"]
    said = [
        f"{listed(methods)} were trained with the same settings: encoder {t['encoder']}, "
        f"{t['n_tracks']} tracks without labels, {t['steps']} steps of {t['batch_size']} tracks, "
        f"augmentations with a subspace of their own {listed(t['augs'])}, "
        f"{plural(len(seeds), 'seed')} each.",
        f"Probes are evaluated on {len(judged)} tracks in {n_groups} groups "
        f"({c.splits.description}).",
        f"A score is the mean over seeds. Brackets are 95 % confidence intervals over "
        f"tracks{' and seeds' if len(seeds) > 1 else ''}. p is corrected for the "
        f"{len(c.differences)} tests (Holm).",
        "The subspace reported for each method is selected on the validation tracks; the test "
        "tracks are not used for selection.",
    ]
    if len(seeds) == 1:
        said.append(
            "With one seed, training variance is not estimated: another seed may change the order."
        )
    elif len(seeds) < _FEW_SEEDS:
        said.append(f"{len(seeds)} seeds give only a rough estimate of training variance.")
    return said + [f"Note: {note}." for note in c.notes]


def of_claim(c: Comparison) -> list[str]:
    """Does LOEV++ beat CL, where, and at what cost? Empty if one of them was not trained."""
    names = [one.name for one in c.contestants]
    if _CLAIMED not in names or _BASELINE not in names:
        return []
    subspaces = next(one for one in c.contestants if one.name == _CLAIMED).subspaces
    kept = [column.name for column in c.columns if own_subspace(column) in subspaces]
    found = {q: d for q in c.tested if (d := c.difference(q, _CLAIMED, _BASELINE)) is not None}
    own = {q: d for q, d in found.items() if q in kept}
    rest = {q: d for q, d in found.items() if q not in kept}
    said = []
    if own:
        won, lost = better(own), worse(own)
        if won:
            only = "" if len(won) == len(own) else " only"
            verdict = f"LOEV++ is better than CL on {listed(won)}{only}"
        else:
            verdict = f"LOEV++ is not significantly better than CL on {listed(list(own))}"
        said.append(verdict + (f", and worse on {listed(lost)}." if lost else "."))
    if rest:
        won, lost = better(rest), worse(rest)
        cost = f"worse on {listed(lost)}" if lost else "no significant loss"
        said.append(f"On other questions: {cost}." + (f" Better: {listed(won)}." if won else ""))
    return said + [of_difference(c, d) for d in (*own.values(), *rest.values())]


def better(of: Mapping[str, Difference]) -> list[str]:
    """Questions on which the first of two is clearly better."""
    return [question for question, d in of.items() if d.is_clear and d.estimate.value > 0]


def worse(of: Mapping[str, Difference]) -> list[str]:
    """Questions on which the first of two is clearly worse."""
    return [question for question, d in of.items() if d.is_clear and d.estimate.value < 0]


def of_difference(c: Comparison, d: Difference) -> str:
    """One comparison of two, with what each scores and where."""
    a, b = c.entry(d.question, d.a), c.entry(d.question, d.b)
    assert a is not None and b is not None
    p = probability(d.p_corrected)
    both = (
        f"{d.metric} {shown(a.estimate)} by {a.subspace} against {shown(b.estimate)} by "
        f"{b.subspace}"
    )
    if not d.is_clear:
        return (
            f"{d.question}: no significant difference between {d.a} and {d.b}, {signed(d)} ({p}): "
            f"{both}."
        )
    how = "better" if d.estimate.value > 0 else "worse"
    return f"{d.question}: {d.a} is {how} than {d.b}, {signed(d)} ({p}): {both}."


def scored(name: str, entry: Entry) -> str:
    """``loev++ 0.81 [0.78, 0.84] (pitch)``."""
    return f"{name} {shown(entry.estimate)} ({entry.subspace})"


def signed(d: Difference) -> str:
    """``+0.21 [+0.15, +0.27]``."""
    e = d.estimate
    value, low, high = (f"{round(x, 2) + 0.0:+.2f}" for x in (e.value, e.low, e.high))
    return f"{value} [{low}, {high}]"


def of_others(c: Comparison) -> list[str]:
    """Per question: who is best, who may be as good, who is not."""
    said = []
    for question in c.tested:
        of = ranking(c, question)
        if len(of) < 2:
            continue
        (best, top), *others = of
        against = [(name, c.difference(question, best, name)) for name, _ in others]
        below = [name for name, d in against if d is not None and d.is_clear]
        equal = [name for name, d in against if d is not None and not d.is_clear]
        text = f"{question}: {scored(best, top)} is highest"
        if below:
            text += f", significantly above {listed(below)}"
        if equal:
            text += f"; no significant difference to {listed(equal)}"
        said.append(text + ".")
    return said


def ranking(c: Comparison, question: str) -> list[tuple[str, Entry]]:
    """Contestants that answer a question under the tested rule, the best first."""
    of = [(one.name, c.entry(question, one.name)) for one in c.contestants]
    known = [(name, e) for name, e in of if e is not None and np.isfinite(e.estimate.value)]
    return sorted(known, key=lambda pair: -pair[1].estimate.value)


def of_sensitivity(c: Comparison) -> list[str]:
    """How well each method's subspaces keep to their own change."""
    said = []
    for name, rows in c.sensitivity.items():
        parts = []
        for change in (s for s in rows if s in next(iter(rows.values()))):
            others = max(of[change].value for s, of in rows.items() if s not in (change, "global"))
            parts.append(
                f"{change} moves its own subspace by {rows[change][change].value:.2f}, the others "
                f"by at most {others:.2f}"
            )
        blind = rows.get(INVARIANT)
        if not parts and blind is not None:
            moved = " and ".join(
                f"{change} by {blind[change].value:.2f}" for change in c.training["augs"]
                if change in blind
            )  # fmt: skip
            parts.append(f"no subspace for a transformation; {INVARIANT} moves: {moved}")
        if parts:
            said.append(f"{name}: {'; '.join(parts)}.")
    return said


def table(c: Comparison) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """The paper's table: a row per contestant, a column per tested question.

    Returns:
        Header, and cells of a score and the subspace it is of; empty where there is none.
    """
    metric = {d.question: d.metric for d in c.differences}
    header = ["", *(f"{question}, {metric[question]}" for question in c.tested)]
    rows = []
    for one in c.contestants:
        row = [(one.name, kind_of(one))]
        for question in c.tested:
            entry = c.entry(question, one.name)
            row.append((shown(entry.estimate), entry.subspace) if entry else ("–", ""))
        rows.append(row)
    chances = [next((e.estimate.chance for e in c.entries if e.question == q and e.rule), None)
               for q in c.tested]  # fmt: skip
    rows.append([("chance", ""), *((f"{x:.2f}" if x is not None else "–", "") for x in chances)])
    return header, rows


def kind_of(one: Contestant) -> str:
    """What stands below a contestant's name."""
    return plural(len(one.runs), "seed") if one.is_method else "not trained here"


def markdown(c: Comparison) -> str:
    """The table and the tests, to be pasted."""
    header, rows = table(c)
    lines = ["# Comparison of methods", "", f"    {c.command}", ""]
    lines += [f"- {text}" for text in of_setting(c)]
    lines += ["", *_grid(header, [[f"{a} ({b})" if b else a for a, b in row] for row in rows]), ""]
    lines += [f"- {text}" for text in [*of_claim(c), *of_others(c)]]
    lines += ["", "Pairwise differences, with p uncorrected and corrected (Holm):", ""]
    lines += _grid(
        ["question", "metric", "methods", "difference", "p", "corrected"],
        [
            [
                d.question,
                d.metric,
                f"{d.a} - {d.b}",
                signed(d),
                f"{d.p:.4f}",
                f"{d.p_corrected:.3f}",
            ]
            for d in c.differences
        ],
    )
    return "\n".join(lines) + "\n"


def of_rules(c: Comparison, label: str) -> list[Entry]:
    """Entries of a label's main metric under every rule, by the first probe."""
    metric = next(d.metric for d in c.differences if d.question == label)
    return [
        e for e in c.entries
        if (e.question, e.metric) == (label, metric) and e.rule
        and e.probe == c.settings["probes"][0]
    ]  # fmt: skip


def labels_of(c: Comparison) -> list[str]:
    """Labels that were read by probes."""
    return list(dict.fromkeys(e.question for e in c.entries if e.rule == CHOSEN))


def plural(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(header), line(["---"] * len(header)), *(line(row) for row in rows)]
