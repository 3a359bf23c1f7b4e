"""Audio transformations of known size, to measure the response of each subspace.

name    size in               made by
pitch   semitones             an external stretcher
tempo   log2 of the rate      an external stretcher
gain    dB                    multiplication
noise   the music's level     white noise added

The stretcher is not the one used in training, so that the result does not depend on artifacts the
model may have learned: ``rubberband`` (its finer engine, as a command), or
Signalsmith Stretch (the package python-stretch) where that is not installed.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from loev_cli.errors import LoevError, UsageError, needs_extra

Waveform = NDArray[np.float32]

STRETCHERS = ("auto", "rubberband", "signalsmith")
# Sample rate for the transformations, at least that of the models.
STRETCH_RATE_HZ = 44100


class Stretcher(Protocol):
    """Changes speed and pitch of audio.

    Attributes:
        name: for the report.
    """

    name: str

    def __call__(self, waveform: Waveform, *, rate: float, semitones: float) -> Waveform:
        """(N,) at ``STRETCH_RATE_HZ`` -> about (N / rate,)."""
        ...


class Rubberband:
    """The ``rubberband`` command (Breakfast Quay; Debian package rubberband-cli)."""

    name = "rubberband"

    def __call__(self, waveform: Waveform, *, rate: float, semitones: float) -> Waveform:
        with tempfile.TemporaryDirectory(prefix="loev-") as folder:
            source, target = Path(folder) / "source.wav", Path(folder) / "target.wav"
            soundfile.write(source, waveform, STRETCH_RATE_HZ, subtype="FLOAT")
            command = ["rubberband", "-q", "-3", f"--tempo={rate:.9g}", f"--pitch={semitones:.9g}"]
            try:
                subprocess.run([*command, source, target], check=True, capture_output=True)
                changed, _ = soundfile.read(target, dtype="float32")
            except (OSError, subprocess.CalledProcessError, soundfile.LibsndfileError) as error:
                raise LoevError(
                    f"rubberband failed: {error}", hint="try --stretcher signalsmith"
                ) from error
        return np.asarray(changed, np.float32)


class Signalsmith:
    """Signalsmith Stretch, as the package python-stretch binds it (both MIT)."""

    name = "signalsmith"

    def __call__(self, waveform: Waveform, *, rate: float, semitones: float) -> Waveform:
        from python_stretch import Signalsmith as Library

        stretch = Library.Stretch()
        stretch.preset(1, STRETCH_RATE_HZ)
        stretch.setTransposeSemitones(semitones)
        stretch.timeFactor = rate
        return np.array(stretch.process(waveform[None]), np.float32).reshape(-1)


def open_stretcher(name: str) -> Stretcher:
    """``auto`` takes rubberband if its command is there.

    Raises:
        UsageError: an unknown name, or a stretcher that is not installed.
    """
    if name not in STRETCHERS:
        raise UsageError(f"unknown stretcher '{name}'", hint=", ".join(STRETCHERS))
    has_rubberband = shutil.which("rubberband") is not None
    if name == "rubberband" and not has_rubberband:
        raise UsageError(
            "command 'rubberband' not found",
            hint="install it (Debian: rubberband-cli), or use --stretcher signalsmith",
        )
    if name != "signalsmith" and has_rubberband:
        return Rubberband()
    with needs_extra("stretching audio", "eval"):
        import python_stretch  # noqa: F401  (availability check)
    return Signalsmith()


class Change(Protocol):
    """One audio transformation of known size."""

    @property
    def name(self) -> str:
        """The name of the corresponding augmentation."""
        ...

    @property
    def unit(self) -> str:
        """Of the sizes."""
        ...

    @property
    def sizes(self) -> tuple[float, ...]:
        """The sizes to apply; 0 is the identity."""
        ...

    def __call__(self, waveform: Waveform, size: float, rng: np.random.Generator) -> Waveform:
        """(N,) at ``STRETCH_RATE_HZ`` -> changed."""
        ...


@dataclass(frozen=True)
class Pitch:
    """Pitch shift at constant duration."""

    stretcher: Stretcher
    name: str = "pitch"
    unit: str = "semitones"
    sizes: tuple[float, ...] = (-6, -4, -2, -1, 1, 2, 4, 6)

    def __call__(self, waveform: Waveform, size: float, rng: np.random.Generator) -> Waveform:
        return self.stretcher(waveform, rate=1.0, semitones=size)


@dataclass(frozen=True)
class Tempo:
    """Time stretch at constant pitch. 1 is twice as fast, -1 half."""

    stretcher: Stretcher
    name: str = "tempo"
    unit: str = "log2 of the rate"
    sizes: tuple[float, ...] = (-0.4, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.4)

    def __call__(self, waveform: Waveform, size: float, rng: np.random.Generator) -> Waveform:
        return self.stretcher(waveform, rate=2.0**size, semitones=0.0)


@dataclass(frozen=True)
class Gain:
    """Louder or softer, without clipping."""

    name: str = "gain"
    unit: str = "dB"
    sizes: tuple[float, ...] = (-24, -12, -6, 6)

    def __call__(self, waveform: Waveform, size: float, rng: np.random.Generator) -> Waveform:
        return waveform * np.float32(10 ** (size / 20))


@dataclass(frozen=True)
class Noise:
    """White noise, ``size`` times as loud as the music on average (0.1: 20 dB below it)."""

    name: str = "noise"
    unit: str = "of the music's level"
    sizes: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)

    def __call__(self, waveform: Waveform, size: float, rng: np.random.Generator) -> Waveform:
        level = size * float(np.sqrt(np.square(waveform, dtype=np.float64).mean()))
        noise = rng.standard_normal(len(waveform), dtype=np.float32)
        return waveform + np.float32(level) * noise


def changes(stretcher: Stretcher) -> Sequence[Change]:
    """All transformations, in the order of the report."""
    return [Pitch(stretcher), Tempo(stretcher), Gain(), Noise()]
