"""Waveform -> features: one definition per frontend for training, export and inference.

A frontend has its ``config`` (with ``sample_rate_hz``), ``block_n_samples``, of which a window's
length is a multiple, ``fewest_n_samples`` of a window, and ``center``, which takes the part of its
features that an encoder reads.
"""

from typing import TypeAlias

from loev_cli.model.frontend.log_frequency import (
    EPSILON_POWER,
    Features,
    FrontendConfig,
    LogFrequency,
)
from loev_cli.model.frontend.mel import MelConfig, MelSpectrogram

AnyFrontendConfig: TypeAlias = FrontendConfig | MelConfig

__all__ = [
    "EPSILON_POWER",
    "AnyFrontendConfig",
    "Features",
    "FrontendConfig",
    "LogFrequency",
    "MelConfig",
    "MelSpectrogram",
]
