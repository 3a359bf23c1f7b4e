"""What views may differ in: ranges, units and probabilities of every augmentation."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from loev_cli.errors import UsageError


@dataclass(frozen=True)
class PitchConfig:
    """Transposition by whole semitones, all of ``semitones`` equally likely.

    The default spans 11: two draws an octave apart would be negatives with the same pitch classes.
    """

    semitones: tuple[int, int] = (-6, 5)

    def __post_init__(self) -> None:
        _check_range("pitch.semitones", self.semitones)


@dataclass(frozen=True)
class TempoConfig:
    """Time stretch; ``rate`` 2 plays twice as fast. Draws differ by ``min_gap`` (0.05: 5 %)."""

    rate: tuple[float, float] = (0.65, 1.5)
    min_gap: float = 0.05

    def __post_init__(self) -> None:
        _check_range("tempo.rate", self.rate)
        if self.rate[0] <= 0:
            raise UsageError("augmentations.tempo.rate must be above 0")


@dataclass(frozen=True)
class EqConfig:
    """A smooth random curve over log-frequency, up to ``gain_db`` either way."""

    gain_db: float = 6.0
    n_knots: int = 6
    p: float = 0.8


@dataclass(frozen=True)
class NoiseConfig:
    """Coloured noise at a random signal-to-noise ratio; slope in dB per octave."""

    snr_db: tuple[float, float] = (5.0, 30.0)
    slope_db: tuple[float, float] = (-6.0, 3.0)
    p: float = 0.4

    def __post_init__(self) -> None:
        _check_range("noise.snr_db", self.snr_db)
        _check_range("noise.slope_db", self.slope_db)


@dataclass(frozen=True)
class CompressionConfig:
    """Loudness contrast over time scaled by a factor in ``ratio`` (below 1: compressed)."""

    ratio: tuple[float, float] = (0.7, 1.1)
    p: float = 0.5

    def __post_init__(self) -> None:
        _check_range("compression.ratio", self.ratio)


@dataclass(frozen=True)
class BlurConfig:
    """Onsets smeared over up to ``width_s``, as reverberation and slow attacks do.

    It also hides the width of an onset, which a time stretch made by interpolation changes and
    which would otherwise give the stretch away without listening to the rhythm.
    """

    width_s: float = 0.05
    p: float = 0.7


@dataclass(frozen=True)
class AugmentationsConfig:
    pitch: PitchConfig = field(default_factory=PitchConfig)
    tempo: TempoConfig = field(default_factory=TempoConfig)
    eq: EqConfig = field(default_factory=EqConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    blur: BlurConfig = field(default_factory=BlurConfig)

    def __post_init__(self) -> None:
        for part in fields(self):
            p = getattr(getattr(self, part.name), "p", None)
            if p is not None and not 0 <= p <= 1:
                raise UsageError(f"augmentations.{part.name}.p is {p}, it must be within 0 and 1")


# Augmentations that may have a subspace of their own.
EQUIVARIANT: tuple[str, ...] = ("pitch", "tempo")


def _check_range(key: str, bounds: tuple[float, float]) -> None:
    low, high = bounds
    if low > high:
        raise UsageError(
            f"augmentations.{key} is upside down: [{low}, {high}]", hint=f"write [{high}, {low}]"
        )
