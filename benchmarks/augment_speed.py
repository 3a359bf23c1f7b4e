"""How fast are views made, against the way of the paper's research code?

    pip install pedalboard librosa
    python benchmarks/augment_speed.py [--rows 60] [--rounds 5]

Views of 3 s at 16 kHz per second and core, all on one core in one process:

- waveforms: a batch through :func:`retime` and the base chain.
- features: a batch cut from cached log-frequency features (shift, interpolation), and the chain.
- research way: one example at a time, pedalboard PitchShift, librosa time_stretch, and the same
  base chain with the same probabilities from pedalboard's effects and numpy.

Each with pitch and tempo in every view, which is what subspaces of pitch and tempo are trained
with, and with the probabilities of the config; and pitch and tempo alone. The contestants take
turns, round by round, so that whatever else the machine does slows all of them; what counts is the
processor's time in the best round of each.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loev_cli import audio
from loev_cli.model.frontend import Features, FrontendConfig
from loev_cli.train.augment import AugmentationsConfig, apply_chain, cut_view
from loev_cli.train.augment.retime import retime
from loev_cli.train.augment.spectrum import FILTER_KINDS
from loev_cli.train.data import FeatureContent

try:
    import librosa
    import pedalboard
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install pedalboard librosa")

RATE_HZ = 16000
VIEW_S = 3
N_SAMPLES = VIEW_S * RATE_HZ
MUSIC = Path(__file__).parents[1] / "examples/music/ballad-in-c-major-72bpm.mp3"
FRONTEND = FrontendConfig()
CONFIG = AugmentationsConfig()
CHAIN = CONFIG.base_chain


class Plans:
    """What is drawn for every row: the same for all contestants."""

    def __init__(self, n_rows: int, track_s: float, always_cut: bool) -> None:
        rng = np.random.default_rng(0)

        def draw(name: str) -> np.ndarray:
            return np.stack([CONFIG[name].draw(rng) for _ in range(n_rows)])

        names = ["pitch", "tempo", *(part.name for part in CHAIN)]
        self.params = {name: draw(name) for name in names}
        # To exactly its share of the rows: a chance too many of the dear ones would decide.
        self.applied = {name: rng.permutation(n_rows) < CONFIG[name].p * n_rows for name in names}
        if always_cut:
            for name in ("pitch", "tempo"):
                self.applied[name][:] = True
        self.seeds = {name: rng.integers(0, 2**32, n_rows, dtype=np.uint32) for name in self.params}
        self.semitones = np.where(self.applied["pitch"], self.params["pitch"][:, 0], 0.0)
        self.rates = np.where(self.applied["tempo"], self.params["tempo"][:, 0], 1.0)
        self.starts = rng.uniform(0, track_s - 1.5 * VIEW_S, n_rows)

    def segment(self, track: np.ndarray, row: int) -> np.ndarray:
        first = int(self.starts[row] * RATE_HZ)
        return track[first : first + round(self.rates[row] * N_SAMPLES)]


def on_waveforms(track: np.ndarray, plans: Plans, chain: bool = True) -> None:
    rows = range(len(plans.rates))
    segments = [torch.from_numpy(plans.segment(track, row)) for row in rows]
    x = retime(segments, plans.rates, plans.semitones, N_SAMPLES, RATE_HZ)
    if chain:
        apply_chain(CHAIN, x, plans.params, plans.applied, plans.seeds, FRONTEND)


def on_features(track: np.ndarray, plans: Plans, chain: bool = True) -> None:
    n_frames = N_SAMPLES // FRONTEND.spectrum_hop + 1
    cuts = [
        cut_view(
            track,
            n_frames,
            FRONTEND,
            start_frame=plans.starts[row] * RATE_HZ / FRONTEND.spectrum_hop,
            rate=plans.rates[row],
            shift_bins=round(plans.semitones[row] * FRONTEND.bins_per_semitone),
        )
        for row in range(len(plans.rates))
    ]
    views = Features(
        torch.from_numpy(np.stack([spectrum for spectrum, _ in cuts])),
        torch.from_numpy(np.stack([bands for _, bands in cuts])),
    )
    if chain:
        apply_chain(CHAIN, views, plans.params, plans.applied, plans.seeds, FRONTEND)


def research_way(track: np.ndarray, plans: Plans, chain: bool = True) -> None:
    for row in range(len(plans.rates)):
        x = plans.segment(track, row)
        if plans.semitones[row]:
            x = pedalboard.PitchShift(semitones=plans.semitones[row])(x, RATE_HZ)
        if plans.rates[row] != 1:
            x = librosa.effects.time_stretch(x, rate=plans.rates[row])
        x = np.pad(x, (0, max(0, N_SAMPLES - len(x))))[:N_SAMPLES]
        if chain:
            for name, effect in EFFECTS.items():
                if plans.applied[name][row]:
                    x = effect(x, plans.params[name][row])


def board(*effects: Any) -> Callable[[np.ndarray], np.ndarray]:
    return partial(pedalboard.Pedalboard(list(effects)), sample_rate=RATE_HZ)


def research_eq(x: np.ndarray, params: np.ndarray) -> np.ndarray:
    hz = 29 * 2 ** np.linspace(0.5, 7.5, len(params))
    return board(
        *(pedalboard.PeakFilter(f, gain, 0.7) for f, gain in zip(hz, params, strict=True))
    )(x)


def research_filter(x: np.ndarray, params: np.ndarray) -> np.ndarray:
    kind, low_hz, high_hz = FILTER_KINDS[int(params[0])], params[1], params[2]
    if kind == "low-pass":
        return board(pedalboard.LowpassFilter(high_hz))(x)
    if kind == "high-pass":
        return board(pedalboard.HighpassFilter(low_hz))(x)
    if kind == "band-pass":
        return board(pedalboard.HighpassFilter(low_hz), pedalboard.LowpassFilter(high_hz))(x)
    middle_hz = np.sqrt(low_hz * high_hz)
    return board(pedalboard.PeakFilter(middle_hz, -30, middle_hz / (high_hz - low_hz)))(x)


def research_noise(x: np.ndarray, params: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(np.random.default_rng().standard_normal(len(x)))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** ((params[1] - 3) / 6.02)
    noise = np.fft.irfft(spectrum, len(x))
    ratio = 10 ** (-params[0] / 20) * np.sqrt((x * x).mean() / (noise * noise).mean())
    return (x + ratio * noise).astype(np.float32)


EFFECTS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "compression": lambda x, p: board(pedalboard.Compressor(-20, 1 / min(p[0], 1)))(x),
    "eq": research_eq,
    "filter": research_filter,
    "distortion": lambda x, p: board(pedalboard.Distortion(p[0] + 20))(x),
    "reverb": lambda x, p: board(pedalboard.Reverb(min(p[0], 1), wet_level=p[1]))(x),
    "noise": research_noise,
    "codec": lambda x, p: board(pedalboard.MP3Compressor(10 * p[1]))(x),
    "gain": lambda x, p: board(pedalboard.Gain(p[0]))(x),
    "polarity": lambda x, p: x * np.float32(p[0]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60, help="views of a batch")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    track = audio.load(MUSIC, RATE_HZ)
    features = FeatureContent(FRONTEND).from_waveform(track)

    print(f"{args.rows} views of {VIEW_S} s, one core; * against the research way\n")
    print("| what | how | views per s | ms per view | * |\n|---|---|---|---|---|")
    for what, always_cut, chain in (
        ("pitch and tempo always, chain as configured", True, True),
        ("everything with its probability in the config", False, True),
        ("pitch and tempo always, nothing else", True, False),
    ):
        plans = Plans(args.rows, len(track) / RATE_HZ, always_cut)
        contestants: dict[str, Callable[[], None]] = {
            "research way": partial(research_way, track, plans, chain),
            "waveforms": partial(on_waveforms, track, plans, chain),
            "features": partial(on_features, features, plans, chain),
        }
        best_s = dict.fromkeys(contestants, np.inf)
        for _ in range(args.rounds + 1):
            for how, work in contestants.items():
                began = time.process_time()
                work()
                best_s[how] = min(best_s[how], (time.process_time() - began) / args.rows)
        for how, seconds in best_s.items():
            ratio = best_s["research way"] / seconds
            print(f"| {what} | {how} | {1 / seconds:.0f} | {1e3 * seconds:.2f} | {ratio:.1f}x |")


if __name__ == "__main__":
    main()
