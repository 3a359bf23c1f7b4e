"""CL against LOEV++ in any domain: train both, probe every subspace, ask what augmentations matter.

Used by ``examples/images.py`` and ``examples/speech.py``, which bring items and their labels.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loev_cli.evaluate.manifest import Column, Fold
from loev_cli.evaluate.probes import TASKS, read_label, statistic_of
from loev_cli.evaluate.statistics import Draws, Score
from loev_cli.experiments.advise import Verdict, judge, kept
from loev_cli.experiments.advise_evidence import destroyed, gained
from loev_cli.experiments.advise_vectors import draw_changes
from loev_cli.model import GLOBAL, LoevModel
from loev_cli.train import pipeline
from loev_cli.train.batches import BatchMaker
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Cache
from loev_cli.train.items import Item
from loev_cli.train.views import PlannedView

Vectors = dict[str, np.ndarray]
WHOLE = "whole"  # all subspaces of a LOEV++ model side by side
N_DRAWS = 4  # of an augmentation, to see what it does to a label
TOLERANCE = 0.1  # share of a label that may be lost to invariance
_ROWS_AT_ONCE = 128


@dataclass(frozen=True)
class Labeled:
    """Items to probe, none of which is trained on.

    Attributes:
        own: label -> the subspace that should say it best.
    """

    items: Sequence[Item]
    columns: Sequence[Column]
    folds: Sequence[Fold]
    own: Mapping[str, str]


def labels(name: str, values: Sequence[Any] | np.ndarray) -> Column:
    """A column of numbers (NaN: unknown), or of classes by name ("": unknown)."""
    values = np.asarray(values)
    if values.dtype.kind == "f":
        return Column(name, "number", values, np.isfinite(values))
    classes = tuple(sorted(set(values[values != ""].tolist())))
    index = {one: i for i, one in enumerate(classes)}
    numbers = np.array([index.get(one, -1) for one in values.tolist()], np.int64)
    return Column(name, "class", numbers, numbers >= 0, classes)


def options(text: str, n_steps: int) -> argparse.ArgumentParser:
    """The options that every study has; ``text`` is its module's."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, report.md")
    parser.add_argument("--steps", type=int, default=n_steps)
    parser.add_argument("--seeds", type=int, default=3)
    return parser


def study(config: TrainConfig, labeled: Labeled, out: Path, n_seeds: int) -> list[Verdict]:
    """Train, embed, probe; writes ``report.md`` and ``results.json`` into ``out``.

    Args:
        config: of the LOEV++ model with all subspaces; CL is the same with method ``cl``, and
            for the advice every augmentation alone gets a subspace in a model of its own. The
            untrained model is LOEV++ as initialized.
    """
    found: dict[str, list[Vectors]] = defaultdict(list)  # variant -> of each seed
    heads: dict[str, list[Vectors]] = defaultdict(list)
    changed: dict[str, np.ndarray] = {}
    variants = {"cl": dataclasses.replace(config, method="cl"), "loev++": config}
    variants |= {aug: dataclasses.replace(config, augs=(aug,)) for aug in config.augs}
    for seed in range(n_seeds):
        for name, of in variants.items():
            of = dataclasses.replace(of, seed=seed)
            model = trained(of, out / "runs" / f"{name}-seed{seed}")
            found[name].append(embed(model, of, labeled.items))
            if name in ("cl", "loev++"):
                heads[name].append(embed(model, of, labeled.items, of_heads=True))
            if name == "loev++":
                torch.manual_seed(seed)
                untrained = LoevModel(model.spec).eval()
                found["untrained"].append(embed(untrained, of, labeled.items))
            if name == "loev++" and seed == 0:
                for aug in config.augs:
                    draws = draw_changes(config.augmentations, aug, N_DRAWS)
                    rows = [
                        embed(model, of, labeled.items, {aug: draw.params})[WHOLE] for draw in draws
                    ]
                    changed[aug] = np.stack(rows)
    groups = np.arange(len(labeled.items))
    wholes = {name: [x[WHOLE] for x in of_seeds] for name, of_seeds in found.items()}
    beside = {name: wholes[name] for name in ("cl", "untrained")}
    table = compared(found["loev++"], beside, labeled, groups)
    heads_beside = {"cl": [x[WHOLE] for x in heads["cl"]]}
    of_heads = compared(heads["loev++"], heads_beside, labeled, groups)
    verdicts = []
    for column in labeled.columns:
        lost = destroyed(wholes["loev++"][0], changed, column, labeled.folds, groups)
        keeping = {aug: wholes[aug] for aug in config.augs}
        gain = gained(wholes["cl"], keeping, column, labeled.folds, groups)
        verdicts += [judge(column, aug, lost[aug], gain[aug], TOLERANCE) for aug in config.augs]
    write(out, config, labeled, {"table": table, "heads": of_heads}, verdicts, n_seeds)
    return verdicts


def trained(config: TrainConfig, out: Path) -> LoevModel:
    """The model of a run; one that is there is read."""
    if not (out / pipeline.CONFIG_FILE).exists() or not (out / "curves.png").exists():
        resume = (out / "checkpoints" / "last.pt").exists()
        cache = Cache(out.parents[1] / "cache")
        pipeline.run(config, out, resume=resume, cache=cache, n_workers=0)
    return pipeline.read_checkpoint(out / "checkpoints" / "last.pt").model.eval()


def embed(
    model: LoevModel,
    config: TrainConfig,
    items: Sequence[Item],
    changes: Mapping[str, np.ndarray] | None = None,
    *,
    of_heads: bool = False,
) -> Vectors:
    """Subspace -> (N, D), and ``whole``; of items as they are, or all changed alike.

    Args:
        of_heads: what the heads make of the subspaces, and the loss compares, instead.
    """
    domain = BatchMaker(config, model.spec).domain
    names, rng = config.augmentations.names(), np.random.default_rng(0)
    # Draws of what is not applied only fill their places.
    params = {name: config.augmentations[name].draw(rng) for name in names} | dict(changes or {})
    applied = {name: name in (changes or {}) for name in names}
    view = PlannedView(0.0, params, applied, {}, dict.fromkeys(names, 0))
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(items), _ROWS_AT_ONCE):
        rows = [(item, view) for item in items[start : start + _ROWS_AT_ONCE]]
        with torch.inference_mode():
            views = domain.make_views(rows)
            rows_of = model.project(views).projections if of_heads else model.encode(views)
            for name, x in rows_of.items():
                parts.setdefault(name, []).append(x.float().numpy())
    vectors = {name: np.concatenate(rows) for name, rows in parts.items()}
    whole = [GLOBAL] if GLOBAL in vectors else list(vectors)
    return vectors | {WHOLE: np.concatenate([vectors[name] for name in whole], axis=1)}


def compared(
    found: Sequence[Vectors],
    beside: Mapping[str, Sequence[np.ndarray]],
    labeled: Labeled,
    groups: np.ndarray,
) -> list[dict[str, Any]]:
    """Per label: the score of every subspace, of CL and untrained, and differences; intervals."""
    table = []
    for column in labeled.columns:
        task = TASKS[column.kind]()
        tested = np.concatenate([fold.only(column.known).test for fold in labeled.folds])
        draws = Draws(groups[tested], len(found))

        def score(of_seeds: Sequence[np.ndarray]) -> Score:
            reads = [read_label(x, column, labeled.folds, "linear") for x in of_seeds]  # noqa: B023
            metric = task.main_metric  # noqa: B023
            return draws.score([statistic_of(task, metric, one) for one in reads])  # noqa: B023

        scores = {name: score([x[name] for x in found]) for name in found[0]}
        scores |= {name: score(of_seeds) for name, of_seeds in beside.items()}
        own = labeled.own[column.name]
        subspaces = [name for name in found[0] if name != WHOLE]
        other = max((name for name in subspaces if name != own), key=lambda n: scores[n].value)
        table.append(
            {
                "label": column.name,
                "metric": task.main_metric,
                "own": own,
                "scores": {name: draws.estimate(one) for name, one in scores.items()},
                "other": other,
                "own_less_other": draws.difference(scores[own], scores[other])[0],
            }
            | {
                f"whole_less_{name}": draws.difference(scores[WHOLE], scores[name])[0]
                for name in beside
            }
        )
    return table


def write(
    out: Path,
    config: TrainConfig,
    labeled: Labeled,
    tables: Mapping[str, Sequence[dict[str, Any]]],
    verdicts: Sequence[Verdict],
    n_seeds: int,
) -> None:
    """``report.md`` and ``results.json``."""
    advice = ["| label | augmentation | share lost if invariant | gain of a subspace | verdict |"]
    advice.append("|---" * 5 + "|")
    for one in verdicts:
        share, gain = one.destroyed.share, one.gained.gain
        advice.append(f"| {one.label} | {one.augmentation} | {share} | {gain} | {one.word} |")
    names = ", ".join(kept(verdicts, config.augs)) or "none"
    n_test = sum(len(fold.test) for fold in labeled.folds)
    text = [
        "# CL against LOEV++",
        "",
        *_lines(tables["table"]),
        "",
        f"Linear probes, {n_test} test items, {n_seeds} seeds, {config.steps} steps of "
        f"{config.batch_size} items; 95 % intervals over items and seeds. In bold: the subspace "
        "that should say the label best. Untrained: LOEV++ as initialized.",
        "",
        "The same from the outputs of the heads, which the loss compares:",
        "",
        *_lines(tables["heads"]),
        "",
        *advice,
        "",
        f"Augmentations to keep a subspace for: {names}.",
    ]
    (out / "report.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    record: dict[str, Any] = {name: _records(table) for name, table in tables.items()}
    record |= {
        "advice": [verdict.record() for verdict in verdicts],
        "kept": kept(verdicts, config.augs),
        "seeds": n_seeds,
        "steps": config.steps,
    }
    text_of = json.dumps(record, indent=1, default=float)
    (out / "results.json").write_text(text_of + "\n", encoding="utf-8")
    print("\n".join(text))


def _lines(table: Sequence[dict[str, Any]]) -> list[str]:
    """A Markdown table; bold is the subspace made for the label."""
    names, less = list(table[0]["scores"]), [key for key in table[0] if "_less_" in key]
    head = ["label", *names, *(key.replace("_", " ") for key in less)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in table:
        cells = [f"{row['label']} ({row['metric']})"]
        for name in names:
            cells.append(
                f"**{row['scores'][name]}**" if name == row["own"] else str(row["scores"][name])
            )
        cells += [
            f"{row[key]} ({row['other']})" if key == "own_less_other" else str(row[key])
            for key in less
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _records(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with every estimate as numbers."""
    return [
        row
        | {"scores": {name: one.as_dict() for name, one in row["scores"].items()}}
        | {key: one.as_dict() for key, one in row.items() if "_less_" in key}
        for row in table
    ]
