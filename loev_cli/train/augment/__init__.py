"""Augmentations: what views of a track may differ in."""

from loev_cli.train.augment.base import Augmentation, apply_chain
from loev_cli.train.augment.config import CUT, EQUIVARIANT, AugmentationsConfig
from loev_cli.train.augment.features import Cut, cut_view

__all__ = [
    "CUT",
    "EQUIVARIANT",
    "Augmentation",
    "AugmentationsConfig",
    "Cut",
    "apply_chain",
    "cut_view",
]
