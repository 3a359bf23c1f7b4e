"""What the training core does not know: what is trained on, and how a view of it is made.

    config --domain--> listing --load--> items --plan (views.py)--> planned views
                                                                        |
            features of R rows <--make_views--  place in their items <--'

Views, draws, losses, branches, the loop and the checkpoints are the same whatever an item is. A
domain of one's own is a class like :class:`loev_cli.train.music.Music` and an entry of
:data:`DOMAINS`; the encoder that reads its views is one of
:data:`loev_cli.model.encoders.ENCODERS`. ``examples/images`` has all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from loev_cli.errors import entry
from loev_cli.model import ModelSpec
from loev_cli.train.augment import Augmentations, AugmentationsConfig
from loev_cli.train.items import Changes, Item, Look
from loev_cli.train.music import Music
from loev_cli.train.views import PlannedView

if TYPE_CHECKING:
    from loev_cli.train.config import TrainConfig
    from loev_cli.train.data import Cache, Skipped


class Domain(Protocol):
    """A kind of items, made for one run's config, model and device.

    Attributes:
        made_on: what views are made on, for a plan: `features`, `waveforms`, `pixels`.
        view_s: seconds of audio in a view; None where there is no audio.
    """

    made_on: str
    view_s: float | None

    def listing(self) -> Sequence[Any]:
        """What ``config.data`` means; nothing is read that takes long. Raises UsageError."""
        ...

    def look(self, listed: Sequence[Any]) -> Look:
        """What a dry run says of it."""
        ...

    def load(
        self,
        listed: Sequence[Any],
        cache: Cache | None,
        *,
        n_workers: int,
        on_progress: Callable[[int, int], None],
    ) -> tuple[Sequence[Item], list[Skipped]]:
        """The items that can be used; those of the split ``test`` are left out."""
        ...

    def place(
        self, views: Sequence[PlannedView], item: Any, rng: np.random.Generator
    ) -> list[PlannedView]:
        """The views of one item, or of its takes, with where in it they start."""
        ...

    def make_views(self, views: Sequence[tuple[Any, PlannedView]]) -> Any:
        """R planned views -> what the encoder reads: a tensor (R, ...), or a named tuple."""
        ...

    def changes(self, items: Sequence[Any], n: int) -> Changes:
        """Of ``n`` items or fewer, always the same; what the model is validated on."""
        ...


@dataclass(frozen=True)
class DomainKind:
    """How a domain is made, and the class of its augmentations' settings."""

    make: Callable[[TrainConfig, ModelSpec, torch.device], Domain]
    augmentations: type[Augmentations]


# By the name that a config chooses it by. A program may add its own.
DOMAINS = {"music": DomainKind(Music, AugmentationsConfig)}


def domain_kind(name: str) -> DomainKind:
    """The entry of the domain called ``name``.

    Raises:
        UsageError: there is none.
    """
    return entry(DOMAINS, name, "domain")
