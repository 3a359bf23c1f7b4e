"""Which views of an item a step compares, and by what they differ.

Every view has parameters for each augmentation, and per augmentation a *draw*: a number that two
views of one track share exactly if they share the parameters.

`shared` scheme, V = max(3, K + 1) views for K augmentations with a head. View 0 draws parameters
for every augmentation; view k = 1..K has view 0's parameters of augmentation k and new ones for
the others:

    --augs pitch,tempo      view 0   view 1   view 2
              pitch           p1       p1       p2
              tempo           t1       t2       t1

so every head has a pair that agrees in its own augmentation and differs in all the rest, and a
pair that is the same recording and still a negative. With K = 1 a last view shares nothing.
Augmentations with a head, and cuts such as pitch and tempo, are always applied; the others with
their probability p.

Variants of a track that a manifest names are drawn in the same way, and a draw is the variant
itself: a view takes the file that shares, and differs, in what it should. Where a track has too
few variants for that, views that were to differ share one, and its draw says so.

`independent` scheme, that of the paper (V = 2 unless told otherwise): each view draws everything
for itself and applies each augmentation with its probability p; draw 0 says that it did not.

Where in its item a view lies is for the domain to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from loev_cli.errors import UsageError
from loev_cli.train.augment import Augmentation, Augmentations
from loev_cli.train.items import Item
from loev_cli.train.losses import ViewScheme

_N_TRIES = 1000


@dataclass(frozen=True)
class PlannedView:
    """One view to make.

    Attributes:
        start: where in the item it begins, in what its domain counts in: seconds of a track.
        params: augmentation -> (P,), what it was drawn with.
        applied: augmentation -> whether it is applied at all.
        draws: augmentation -> number of the draw, see the module's text.
        seeds: augmentation -> what feeds its noise, different in every view.
        take: which of the track's files it is cut from.
    """

    start: float
    params: dict[str, np.ndarray]
    applied: dict[str, bool]
    draws: dict[str, int]
    seeds: dict[str, int]
    take: int = 0


def usual_n_views(scheme: ViewScheme, heads: Sequence[str]) -> int:
    """V, views per track, for augmentations ``heads`` that have a head."""
    return 2 if scheme == "independent" else max(3, len(heads) + 1)


class ViewPlanner:
    """Draws the views of one item.

    Args:
        heads: augmentations with a head of their own.
        n_views: V; None for what the scheme needs.

    Raises:
        UsageError: fewer views than the shared scheme needs for its heads.
    """

    def __init__(
        self,
        config: Augmentations,
        heads: Sequence[str],
        *,
        scheme: ViewScheme,
        n_views: int | None,
    ) -> None:
        self.augmentations = {name: config[name] for name in config.names()}
        self.heads = tuple(heads)
        self.scheme = scheme
        self.n_views = n_views or usual_n_views(scheme, heads)
        if scheme == "shared" and self.n_views < len(heads) + 1:
            raise UsageError(
                f"{self.n_views} views are too few for {len(heads)} augmentations with a subspace",
                hint=f"set n_views to {len(heads) + 1} or more",
            )

    def plan(self, rng: np.random.Generator, takes: Sequence[Item] = ()) -> list[PlannedView]:
        """V views of an item, or of its variants ``takes``; all start at 0."""
        views = [PlannedView(0.0, {}, {}, {}, {}) for _ in range(self.n_views)]
        for name, augmentation in self.augmentations.items():
            draws, applied = self._pattern(name, augmentation.p, rng)
            must_differ = name in self.heads
            by_draw: dict[int, np.ndarray] = {}
            for view, draw, is_applied in zip(views, draws, applied, strict=True):
                if draw not in by_draw:
                    taken = list(by_draw.values()) if must_differ else []
                    by_draw[draw] = _different(augmentation, taken, rng)
                view.params[name] = by_draw[draw]
                view.applied[name] = is_applied
                view.draws[name] = draw
                view.seeds[name] = int(rng.integers(2**32))
        chosen = self._takes(takes, rng) if takes else [0] * self.n_views
        for view, take in zip(views, chosen, strict=True):
            view.draws.update(takes[take].variant if takes else {})
        return [replace(view, take=take) for view, take in zip(views, chosen, strict=True)]

    def _takes(self, takes: Sequence[Item], rng: np.random.Generator) -> list[int]:
        """Which file each view is cut from.

        A view that shares a variant with view 0 takes a file of it. In all other variants files
        that differ from those of the views before, of view 0 above all, come first.
        """
        chosen = [int(rng.integers(len(takes)))]
        for view in range(1, self.n_views):
            head = self.heads[view - 1] if view <= len(self.heads) else ""

            def unlike_wanted(take: int, shared: str = head) -> tuple[bool, int, int]:
                variant, before = takes[take].variant, [takes[i].variant for i in chosen]
                is_wrong = shared in variant and variant[shared] != before[0][shared]
                others = [name for name in variant if name != shared]
                alike = [sum(b[name] == variant[name] for name in others) for b in before]
                return is_wrong, sum(alike), alike[0]

            chosen.append(min(map(int, rng.permutation(len(takes))), key=unlike_wanted))
        return chosen

    def _pattern(
        self, name: str, p: float, rng: np.random.Generator
    ) -> tuple[list[int], list[bool]]:
        """Draw number of every view, and whether the augmentation is applied to it."""
        views = range(self.n_views)
        if self.scheme == "shared":
            if name in self.heads:
                sharing = (0, 1 + self.heads.index(name))
                return [0 if view in sharing else view for view in views], [True] * self.n_views
            if self.augmentations[name].is_cut:
                return list(views), [True] * self.n_views
        applied = [bool(rng.random() < p) for _ in views]
        return [view + 1 if applied[view] else 0 for view in views], applied


def _different(
    augmentation: Augmentation, taken: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """A draw that differs from all in ``taken``."""
    for _ in range(_N_TRIES):
        params = augmentation.draw(rng)
        if all(augmentation.differ(params, other) for other in taken):
            return params
    raise UsageError(
        f"augmentations.{augmentation.name}: range too narrow for {len(taken) + 1} distinct values",
        hint="widen the range",
    )
