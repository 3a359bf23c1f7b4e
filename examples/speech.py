"""LOEV++ on speech: spoken digits, and espeak-ng at pitches and rates that are known.

    python -m examples.speech --digits fsdd.tar.xz --out runs/speech

The archive holds the Free Spoken Digit Dataset (Jakobovski and contributors, CC BY-SA 4.0);
espeak-ng (GPL-3.0-or-later, ``apt-get install espeak-ng``) is run as a program. Subspaces `pitch`
and `tempo` are to tell fundamental frequency and rate; speaker and digit are for `invariant`. The
domain is that of music, at 8 kHz: windows of a second, short lags, silence after shorter clips.
"""

from __future__ import annotations

import dataclasses
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from examples.study import Labeled, labels, options, study
from loev_cli.errors import UsageError
from loev_cli.evaluate.manifest import Fold
from loev_cli.manifest import Listed
from loev_cli.train.batches import BatchMaker
from loev_cli.train.config import TrainConfig
from loev_cli.train.loop import model_spec

RATE_HZ = 8000
WINDOW_N_SAMPLES = 8192
FRONTEND = {
    "sample_rate_hz": RATE_HZ,
    "top_hz": 3675.845,
    "n_octaves": 7,
    "n_band_octaves": 6,
    "spectrum_hop": 128,
    "band_hop": 32,
}
N_TEST = 10  # recordings of every speaker and digit that are not trained on: the first ones
VOICES = ("en+m1", "en+m3", "en+m7", "en+f2", "en+f4")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclasses.dataclass(frozen=True)
class Clip:
    """A spoken digit; the rate, in words per minute, is known of synthetic speech."""

    file: Path
    speaker: str
    digit: int
    is_test: bool
    rate_wpm: float = float("nan")


def recorded(archive: Path, folder: Path) -> list[Clip]:
    """The digits of the archive, unpacked once."""
    if not folder.exists():
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise UsageError(f"cannot read {archive}: {error}") from error
    clips = []
    for file in sorted(folder.rglob("*.wav")):
        digit, speaker, number = file.stem.split("_")
        clips.append(Clip(file, speaker, int(digit), int(number) < N_TEST))
    return clips


def spoken(folder: Path, n: int) -> list[Clip]:
    """``n`` synthetic clips; what each says, and how, follows from its number.

    Raises:
        UsageError: there is no espeak-ng.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clips, rng = [], np.random.default_rng(0)
    for i in range(n):
        digit, voice = int(rng.integers(10)), VOICES[rng.integers(len(VOICES))]
        pitch, wpm = int(rng.integers(10, 90)), int(rng.integers(110, 290))
        file = folder / f"{i:05}.wav"
        if not file.exists():
            how = ["-z", "-v", voice, "-p", str(pitch), "-s", str(wpm), "-w", str(file)]
            try:
                subprocess.run(["espeak-ng", *how, DIGITS[digit]], check=True, capture_output=True)
            except FileNotFoundError as error:
                raise UsageError("no espeak-ng", hint="apt-get install espeak-ng") from error
        clips.append(Clip(file, f"espeak {voice}", digit, i % 3 == 0, wpm))
    return clips


def f0_hz(file: Path) -> float:
    """Median fundamental frequency of voiced frames, by autocorrelation; NaN if there are none."""
    x, rate_hz = soundfile.read(file, dtype="float32")
    n = round(0.05 * rate_hz)
    lags = np.arange(rate_hz // 400, rate_hz // 60)
    window = np.hanning(n)
    overlap = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * n)) ** 2)[: lags[-1] + 1]
    found = []
    for start in range(0, len(x) - n, n // 3):
        frame = x[start : start + n]
        if frame.std() < 0.3 * x.std():
            continue
        spectrum = np.abs(np.fft.rfft((frame - frame.mean()) * window, 2 * n)) ** 2
        correlation = np.fft.irfft(spectrum)[: lags[-1] + 1] / overlap * overlap[0]
        # Whole samples favor multiples of the period; the first peak that is nearly as high is it.
        near = correlation[lags[0] - 1 : lags[-1] + 1]
        is_peak = (near[1:-1] >= near[:-2]) & (near[1:-1] >= near[2:])
        high = is_peak & (near[1:-1] > 0.85 * correlation[lags].max())
        if high.any() and correlation[lags[high.argmax()]] > 0.6 * correlation[0]:
            found.append(rate_hz / lags[high.argmax()])
    return float(np.median(found)) if found else float("nan")


def config_of(data: Path, **settings: Any) -> TrainConfig:
    """The LOEV++ run; CL is the same with method `cl`."""
    options = {"frontend": FRONTEND, "min_lag_s": 0.02, "n_lag_octaves": 4, "pad_short": True}
    usual: dict[str, Any] = {"batch_size": 32, "val_fraction": 0.0, "encoder_options": options}
    return TrainConfig(
        data=str(data),
        augs=("pitch", "tempo"),
        window_n_samples=WINDOW_N_SAMPLES,
        **usual | settings,
    )


def labeled(config: TrainConfig, clips: list[Clip]) -> Labeled:
    """The test clips with what is known of them."""
    of_file = {clip.file: clip for clip in clips if clip.is_test}
    domain = BatchMaker(config, model_spec(config)).domain
    listed = [Listed(file) for file in of_file]
    items, _ = domain.load(listed, None, n_workers=0, on_progress=lambda done, total: None)
    known = [of_file[item.path] for item in items]
    rows = np.random.default_rng(0).permutation(len(items))
    half, part = len(rows) // 2, len(rows) * 2 // 3
    real = [clip.speaker if np.isnan(clip.rate_wpm) else "" for clip in known]
    columns = [
        labels("speaker", real),
        labels("digit", [str(clip.digit) for clip in known]),
        labels("log2 F0", np.log2([f0_hz(clip.file) for clip in known])),
        labels("log2 rate", np.log2([clip.rate_wpm for clip in known])),
    ]
    return Labeled(
        items,
        [column for column in columns if column.known.any()],
        [Fold(*(np.sort(part) for part in np.split(rows, [half, part])))],
        {"speaker": "invariant", "digit": "invariant", "log2 F0": "pitch", "log2 rate": "tempo"},
    )


def main() -> None:
    parser = options(__doc__, n_steps=120)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--n-spoken", type=int, default=900)
    parser.add_argument("--repeat", action="store_true", help="repeat short clips, do not pad them")
    args = parser.parse_args()
    clips = recorded(args.digits, args.out / "digits") + spoken(args.out / "espeak", args.n_spoken)
    rows = [f"{clip.file.absolute()},{'test' if clip.is_test else 'train'}" for clip in clips]
    manifest = args.out / "manifest.csv"
    manifest.write_text("\n".join(["path,split", *rows]) + "\n", encoding="utf-8")
    config = config_of(manifest, steps=args.steps)
    if args.repeat:
        repeating = config.encoder_options | {"pad_short": False}
        config = dataclasses.replace(config, encoder_options=repeating)
    study(config, labeled(config, clips), args.out, args.seeds)


if __name__ == "__main__":
    main()
