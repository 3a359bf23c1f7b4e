"""Waveform -> features: one definition per frontend for training, export and inference."""

from loev_cli.model.frontend.log_frequency import (
    EPSILON_POWER,
    Features,
    FrontendConfig,
    LogFrequency,
)

__all__ = ["EPSILON_POWER", "Features", "FrontendConfig", "LogFrequency"]
