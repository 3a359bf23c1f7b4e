"""Notes to sound: a soundfont player in process, and mono audio files.

parts (notes in seconds) -> events on a 64-sample grid -> tinysoundfont -> (N,) float32 mono
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import soundfile

if TYPE_CHECKING:
    import tinysoundfont

Waveform = npt.NDArray[np.float32]

DRUM_CHANNEL = 9
# tinysoundfont updates envelopes every 64 samples: finer event times would gain nothing.
GRID = 64
_ALL_SOUNDS_OFF_SAMPLES = 8192


@dataclass(frozen=True, slots=True)
class Note:
    """One note: onset and duration in seconds, MIDI pitch and velocity (1 to 127)."""

    onset_s: float
    duration_s: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Part:
    """The notes of one instrument. `program` is General MIDI, from 0; a drum kit for drums."""

    name: str
    program: int
    notes: tuple[Note, ...]
    level_db: float = 0.0
    is_drums: bool = False


class Player:
    """Soundfonts, loaded when first asked for and kept: loading takes seconds, playing does not."""

    def __init__(self, sample_rate_hz: int) -> None:
        self.sample_rate_hz = sample_rate_hz
        self._synths: dict[Path, tuple[tinysoundfont.Synth, int]] = {}

    def render(
        self, parts: Sequence[Part], soundfont: Path, duration_s: float, tuning_cents: float = 0.0
    ) -> Waveform:
        """Play `parts` from 0 to `duration_s`; (N,) float32 mono, not normalized.

        `tuning_cents` is what all but the drums are tuned above A = 440 Hz.
        The result depends on the arguments only, not on what was played before.
        """
        synth = self._ready(soundfont)
        self._set_up(synth, parts, tuning_cents)
        n_samples = round(duration_s * self.sample_rate_hz)
        stereo = np.zeros((n_samples, 2), dtype=np.float32)
        view = stereo.data.cast("B")
        done = 0
        for at, is_on, channel, pitch, velocity in self._events(parts):
            if at >= n_samples:
                break
            if at > done:
                synth.generate_simple(at - done, buffer=view[done * 8 : at * 8])
                done = at
            if is_on:
                synth.noteon(channel, pitch, velocity)
            else:
                synth.noteoff(channel, pitch)
        if done < n_samples:
            synth.generate_simple(n_samples - done, buffer=view[done * 8 :])
        mono: Waveform = stereo.mean(axis=1)
        return mono

    def _ready(self, soundfont: Path) -> tinysoundfont.Synth:
        """The soundfont's synthesizer, silent and with its channels reset."""
        if soundfont not in self._synths:
            synth = _new_synth(self.sample_rate_hz)
            self._synths[soundfont] = (synth, synth.sfload(str(soundfont)))
        synth, sfid = self._synths[soundfont]
        synth.soundfonts[sfid].reset()
        synth.generate_simple(_ALL_SOUNDS_OFF_SAMPLES)  # what was sounding fades out in here
        return synth

    def _set_up(
        self, synth: tinysoundfont.Synth, parts: Sequence[Part], tuning_cents: float
    ) -> None:
        (sfid,) = synth.soundfonts
        for part, channel in zip(parts, _channels(parts), strict=True):
            synth.program_select(channel, sfid, 0, part.program, part.is_drums)
            # The player cubes the controller (gain = (value / 127)^3), hence 60 and not 20.
            volume = round(127 * 10 ** (min(part.level_db, 0.0) / 60))
            synth.control_change(channel, 7, volume)
            synth.set_tuning(channel, 0.0 if part.is_drums else tuning_cents / 100)

    def _events(self, parts: Sequence[Part]) -> list[tuple[int, bool, int, int, int]]:
        """(sample, is_on, channel, pitch, velocity), sorted; at one sample offs come first."""
        events = []
        for part, channel in zip(parts, _channels(parts), strict=True):
            for note in part.notes:
                on = max(0, round(note.onset_s * self.sample_rate_hz / GRID)) * GRID
                end_s = note.onset_s + note.duration_s
                off = max(on + GRID, round(end_s * self.sample_rate_hz / GRID) * GRID)
                events.append((on, True, channel, note.pitch, note.velocity))
                events.append((off, False, channel, note.pitch, 0))
        events.sort()
        return events


def _new_synth(sample_rate_hz: int) -> tinysoundfont.Synth:
    # Imported late: composing and labeling work without it. It names pyaudio as a requirement,
    # needs it only to play aloud, and installs without it.
    try:
        import tinysoundfont
    except ImportError as error:
        raise RuntimeError(
            "rendering needs tinysoundfont: pip install --no-deps tinysoundfont"
        ) from error
    return tinysoundfont.Synth(samplerate=sample_rate_hz)


def _channels(parts: Sequence[Part]) -> list[int]:
    """A MIDI channel per part; drums go where General MIDI has them."""
    melodic = iter(c for c in range(16) if c != DRUM_CHANNEL)
    channels = [DRUM_CHANNEL if part.is_drums else next(melodic, -1) for part in parts]
    if -1 in channels:
        raise ValueError(f"{len(parts)} parts do not fit into 15 channels")
    return channels


def finish(wave: Waveform, sample_rate_hz: int, peak_dbfs: float, fade_s: float = 0.03) -> Waveform:
    """Scale (N,) to a peak of `peak_dbfs` and fade both ends over `fade_s`; silence is an error."""
    n_fade = min(math.ceil(fade_s * sample_rate_hz), len(wave) // 2)
    faded = wave.copy()
    if n_fade:
        ramp = np.linspace(0, 1, n_fade, dtype=np.float32)
        faded[:n_fade] *= ramp
        faded[-n_fade:] *= ramp[::-1]
    peak = float(np.abs(faded).max(initial=0.0))
    if peak < 1e-5:
        raise ValueError("the rendering is silent")
    return faded * np.float32(10 ** (peak_dbfs / 20) / peak)


def write_audio(path: Path, wave: Waveform, sample_rate_hz: int, **options: str | float) -> None:
    """Write (N,) float32 to `path`, appearing whole or not at all.

    The suffix gives the container (`.opus` is Opus in OGG); `options` go to soundfile.
    """
    suffix = path.suffix.lower()
    if suffix == ".opus":
        container: dict[str, str | float] = {"format": "OGG", "subtype": "OPUS"}
    else:
        container = {"format": suffix[1:].upper()}
    partial = path.with_name(f".{path.name}.partial")
    block = sample_rate_hz  # libsndfile's Vorbis encoder overflows the stack on one long call
    with soundfile.SoundFile(
        partial, "w", sample_rate_hz, channels=1, **(container | options)
    ) as file:
        for start in range(0, len(wave), block):
            file.write(wave[start : start + block])
    partial.replace(path)
