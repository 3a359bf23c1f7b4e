"""Augmentations: what views of a track may differ in, in the order in which they are applied.

Adding one is a class in a file of its own and a field of :class:`AugmentationsConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from loev_cli.train.augment.base import Augmentation, Augmentations, apply_chain
from loev_cli.train.augment.degradations import Codec, Noise
from loev_cli.train.augment.level import Compression, Distortion, Gain, Polarity
from loev_cli.train.augment.pitch_tempo import Pitch, Tempo, cut_view
from loev_cli.train.augment.room import Blur, Reverb
from loev_cli.train.augment.spectrum import Eq, Filter

__all__ = [
    "EQUIVARIANT",
    "Augmentation",
    "Augmentations",
    "AugmentationsConfig",
    "apply_chain",
    "cut_view",
]


@dataclass(frozen=True)
class AugmentationsConfig(Augmentations):
    """Settings of all augmentations of music: the tables ``[augmentations.NAME]`` of a config."""

    pitch: Pitch = field(default_factory=Pitch)
    tempo: Tempo = field(default_factory=Tempo)
    blur: Blur = field(default_factory=Blur)
    compression: Compression = field(default_factory=Compression)
    eq: Eq = field(default_factory=Eq)
    filter: Filter = field(default_factory=Filter)
    distortion: Distortion = field(default_factory=Distortion)
    reverb: Reverb = field(default_factory=Reverb)
    noise: Noise = field(default_factory=Noise)
    codec: Codec = field(default_factory=Codec)
    gain: Gain = field(default_factory=Gain)
    polarity: Polarity = field(default_factory=Polarity)


# Augmentations of music that may have a subspace of their own: all.
EQUIVARIANT = AugmentationsConfig.names()
