"""Train, validation and test folds; no group is on two sides of a split.

split column     train | val | test      one fold; without val, a fifth of the train groups is
no such split    grouped k-fold: fold i tests, fold i + 1 validates, the others train
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import UsageError
from loev_cli.evaluate.manifest import Manifest

DEFAULT_N_FOLDS = 5
MIN_N_FOLDS = 3
_VAL_SHARE = 0.2


@dataclass(frozen=True)
class Fold:
    """Rows to train on, to choose the regularization on, and to test on."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]

    def only(self, known: NDArray[np.bool_]) -> Fold:
        """Without the rows that have no label."""
        return Fold(*(rows[known[rows]] for rows in (self.train, self.val, self.test)))


@dataclass(frozen=True)
class Splits:
    """The folds, with a description of how they were made."""

    folds: tuple[Fold, ...]
    description: str
    notes: tuple[str, ...] = ()

    @property
    def judged(self) -> NDArray[np.int64]:
        """The test rows of all folds, sorted."""
        return np.sort(np.concatenate([fold.test for fold in self.folds]))


def split(manifest: Manifest, *, n_folds: int | None = None, seed: int = 0) -> Splits:
    """The manifest's own split if it has one with train and test, else cross-validation.

    Args:
        n_folds: forces cross-validation; at least 3. None: 5 if the manifest has no split.

    Raises:
        UsageError: fewer groups than folds, or a split whose train rows are in one group.
    """
    if n_folds is not None and n_folds < MIN_N_FOLDS:
        raise UsageError(
            f"{n_folds} folds are too few",
            hint=f"at least {MIN_N_FOLDS} are needed (train, validation, test)",
        )
    rows = np.arange(len(manifest))
    of = {name: rows[manifest.splits == name] for name in ("train", "val", "test")}
    if n_folds is None and len(of["train"]) and len(of["test"]):
        if len(of["val"]):
            fold = Fold(of["train"], of["val"], of["test"])
            return Splits((fold,), "the manifest's split")
        groups = np.unique(manifest.groups[of["train"]])
        if len(groups) < 2:
            raise UsageError(
                "all train rows are in one group, and there are no val rows",
                hint="add rows with split 'val'",
            )
        held = _shuffled(groups, seed)[: max(1, round(_VAL_SHARE * len(groups)))]
        is_val = np.isin(manifest.groups[of["train"]], held)
        fold = Fold(of["train"][~is_val], of["train"][is_val], of["test"])
        return Splits((fold,), "the manifest's split, a fifth of its train groups for validation")
    notes = []
    if n_folds is None and any(len(part) for part in of.values()):
        lacking = " or ".join(name for name in ("train", "test") if not len(of[name]))
        notes.append(f"the manifest's split has no {lacking} rows, so it is not used")
    k = n_folds or DEFAULT_N_FOLDS
    groups = np.unique(manifest.groups)
    if len(groups) < k:
        what = "tracks" if len(groups) == len(manifest) else "groups of tracks"
        raise UsageError(
            f"{k} folds need {k} {what}, the manifest has {len(groups)}",
            hint=f"--folds {len(groups)}" if len(groups) >= MIN_N_FOLDS else "more tracks",
        )
    fold_of_group = dict(zip(_shuffled(groups, seed), np.arange(len(groups)) % k, strict=True))
    fold_of_row = np.array([fold_of_group[group] for group in manifest.groups])
    folds = [
        Fold(
            train=rows[(fold_of_row != i) & (fold_of_row != (i + 1) % k)],
            val=rows[fold_of_row == (i + 1) % k],
            test=rows[fold_of_row == i],
        )
        for i in range(k)
    ]
    return Splits(tuple(folds), f"{k}-fold cross-validation over groups", tuple(notes))


def _shuffled(groups: NDArray[Any], seed: int) -> NDArray[Any]:
    return groups[np.random.default_rng(seed).permutation(len(groups))]
