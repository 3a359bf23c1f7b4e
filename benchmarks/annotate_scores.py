"""How right and how honest `loev annotate` is, beside plain signal processing.

    python benchmarks/annotate_scores.py CORPUS/manifest.csv [--model M] [--embeddings EMB]
        [--floors floors.npz] [--librosa] [--changed FOLDER [--stretcher S]] --out DIR

Judges the rows with split=test. DIR gets results.json and reliability.png. --embeddings is a file
of `loev embed` with that model that holds the tracks, whose pooled vectors give the very answers
(readouts are linear); without it the tracks are annotated. Floors, on the same
tracks: from the features of benchmarks/floor_features.py a key by correlation with the profiles of
Krumhansl & Kessler (1982), and a tempo by the highest peak of the autocorrelation under librosa's
log-normal prior around 120 BPM; with --librosa also librosa.feature.tempo.

--changed transposes and stretches the recordings of a folder with an outside stretcher: does the
tonic move by as many semitones, the tempo by that rate (or by that and an octave)?
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from loev_cli import audio
from loev_cli.annotations import Answer
from loev_cli.bundle import DEFAULT_MODEL
from loev_cli.embed import Request, annotate
from loev_cli.evaluate import readouts
from loev_cli.evaluate.equivariance import STRETCH_RATE_HZ, STRETCHERS, Stretcher, open_stretcher
from loev_cli.evaluate.figures import save_png
from loev_cli.evaluate.manifest import Manifest, read_manifests
from loev_cli.evaluate.probes import ACC1_FACTORS, ACC2_FACTORS, tempo_hits
from loev_cli.formats import read
from loev_cli.model.encoders import small
from loev_cli.model.encoders.small import PitchBranch
from loev_cli.music_keys import KEYS, TONICS

# Mean ratings of the 12 tones after a context in the key, from its tonic on.
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
_LOWEST_PITCH_CLASS = 4  # the frontend counts from E
_PRIOR_BPM, _PRIOR_OCTAVES = 120.0, 1.0  # librosa's
_SEMITONES = (-5, -2, 2, 5)
_RATES = (0.8, 0.9, 1.1, 1.25)
_EXCERPT_S = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, nargs="+")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--embeddings", type=Path)
    parser.add_argument("--floors", type=Path)
    parser.add_argument("--librosa", action="store_true")
    parser.add_argument("--changed", type=Path)
    parser.add_argument("--stretcher", default="auto", choices=STRETCHERS)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    whole = read_manifests(args.manifest)
    manifest = whole.select(np.flatnonzero(whole.splits == "test"))
    truth = {name: manifest.column(name).values for name in ("key", "tempo")}
    if args.embeddings:
        said = {f"loev {args.model}": _from_vectors(manifest, args.embeddings, args.model)}
    else:
        said = {f"loev {args.model}": _annotated([str(f) for f in manifest.files], args.model)}
    if args.floors:
        said["plain features"] = _from_features(manifest, args.floors)
    if args.librosa:
        said["librosa"] = [_by_librosa(file) for file in manifest.files]
    results: dict[str, object] = {"n_tracks": len(manifest)}
    curves = {}
    for who, answers in said.items():
        judged = readouts.judge(answers, truth, manifest.groups)
        for name, (scores, curve) in judged.items():
            record = {metric: estimate.as_dict() for metric, estimate in scores.items()}
            if who.startswith("loev"):
                curves[name] = curve
                record |= {"ece": curve.ece, "reliability": curve.records()}
            results[f"{who}: {name}"] = record
            line = ", ".join(
                f"{m} {e.value:.3f} [{e.low:.2f}, {e.high:.2f}]" for m, e in scores.items()
            )
            print(f"{who}: {name}: {line}" + (f", ECE {curve.ece:.3f}" if "ece" in record else ""))
    save_png(readouts.draw(curves), args.out / "reliability.png")
    if args.changed:
        results["changed"] = _changed(args.changed, args.model, args.stretcher)
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def _annotated(files: list[str], model: str) -> list[Answer]:
    answers: dict[str, Answer] = {}
    annotate(
        Request(files, None, model=model, device="cpu", strict=True),
        lambda row: answers.update({row.path: dict(row.annotations)}),
    )
    return [answers[file] for file in files]


def _from_vectors(manifest: Manifest, path: Path, model: str) -> list[Answer]:
    """The readouts applied to the manifest's tracks in an embedding file, found by file name."""
    answers: dict[str, Answer] = {}
    annotate(
        Request([str(path)], None, model=model),
        lambda row: answers.update({Path(row.path).name: dict(row.annotations)}),
    )
    return [answers[f.name] for f in manifest.files]


def _from_features(manifest: Manifest, path: Path) -> list[Answer]:
    file = read(path)
    row_of = {Path(name).name: i for i, name in enumerate(file.paths)}
    rows = [row_of[f.name] for f in manifest.files]
    chroma = file.vectors["chroma"].reshape(len(file.paths), -1, 12)
    chroma = chroma[:, : PitchBranch.N_REGISTERS].sum(axis=1)  # the means, not the deviations
    n_lags = small.N_LAG_OCTAVES * small.LAGS_PER_OCTAVE
    periodicity = file.vectors["autocorrelation"].reshape(len(file.paths), -1, n_lags)[:, -1]
    return [
        {
            "key": _krumhansl(np.roll(chroma[i], _LOWEST_PITCH_CLASS)),
            "key_confidence": 0.0,
            "bpm": _peak(periodicity[i]),
            "bpm_confidence": 0.0,
        }
        for i in rows
    ]


def _krumhansl(chroma: np.ndarray) -> str:
    profiles = [np.roll(profile, k) for profile in (_MAJOR, _MINOR) for k in range(12)]
    return KEYS[int(np.argmax([np.corrcoef(chroma, profile)[0, 1] for profile in profiles]))]


def _peak(periodicity: np.ndarray) -> float:
    octaves = np.arange(len(periodicity)) / small.LAGS_PER_OCTAVE
    log2_bpm = np.log2(60 / small.MIN_LAG_S) - octaves
    prior = -0.5 * ((log2_bpm - np.log2(_PRIOR_BPM)) / _PRIOR_OCTAVES) ** 2
    score = np.log1p(1e6 * np.maximum(periodicity, 0)) + prior
    best = int(score[1:-1].argmax()) + 1
    left, mid, right = periodicity[best - 1 : best + 2]
    bend = left - 2 * mid + right
    offset = 0.5 * (left - right) / bend if bend < 0 else 0.0  # of a parabola through the three
    return float(2 ** (log2_bpm[best] - np.clip(offset, -0.5, 0.5) / small.LAGS_PER_OCTAVE))


def _by_librosa(file: Path) -> Answer:
    import librosa

    rate_hz = 22050
    bpm = librosa.feature.tempo(y=audio.load(file, rate_hz), sr=rate_hz)
    return {"bpm": float(np.ravel(bpm)[0]), "bpm_confidence": 0.0}


def _changed(folder: Path, model: str, name: str) -> dict[str, object]:
    stretcher = open_stretcher(name)
    with tempfile.TemporaryDirectory(prefix="loev-") as scratch:
        made = [
            change
            for source in audio.find([str(folder)])
            for change in _changes(source.file, stretcher, Path(scratch))
        ]
        answers = _annotated([str(file) for file, *_ in made], model)
    origin: dict[str, Answer] = {}
    tonic_moves, bpm_moves, octaves = [], [], []
    kept_key, kept_bpm = [], []
    for (_, name, kind, size), answer in zip(made, answers, strict=True):
        if kind == "none":
            origin[name] = answer
            print(f"{name}: {answer}")
            continue
        steps = int(size) if kind == "pitch" else 0
        rate = size if kind == "tempo" else 1.0
        moved = (_tonic(answer) - _tonic(origin[name])) % 12 == steps % 12
        right_key = moved and answer["mode"] == origin[name]["mode"]
        wanted, got = np.array([float(origin[name]["bpm"]) * rate]), np.array([answer["bpm"]])
        right_bpm = bool(tempo_hits(wanted, got, ACC1_FACTORS)[0])
        if kind == "pitch":
            tonic_moves.append(right_key)
            kept_bpm.append(right_bpm)
        else:
            bpm_moves.append(right_bpm)
            octaves.append(bool(tempo_hits(wanted, got, ACC2_FACTORS)[0]))
            kept_key.append(right_key)
    figures = {
        "transposed: key moved by as much": float(np.mean(tonic_moves)),
        "transposed: bpm stayed": float(np.mean(kept_bpm)),
        "stretched: bpm moved by as much": float(np.mean(bpm_moves)),
        "stretched: bpm moved, octaves allowed": float(np.mean(octaves)),
        "stretched: key stayed": float(np.mean(kept_key)),
        "n": len(tonic_moves),
    }
    print(figures)
    return {**figures, "unchanged": origin, "stretcher": stretcher.name}


def _changes(
    source: Path, stretcher: Stretcher, scratch: Path
) -> list[tuple[Path, str, str, float]]:
    """(file, recording, what was changed, by how much) of every change of an excerpt."""
    waveform = audio.load(source, STRETCH_RATE_HZ)
    middle = max(0, (len(waveform) - _EXCERPT_S * STRETCH_RATE_HZ) // 2)
    excerpt = waveform[middle : middle + _EXCERPT_S * STRETCH_RATE_HZ]
    wanted = [("none", 0.0)]
    wanted += [("pitch", float(k)) for k in _SEMITONES] + [("tempo", r) for r in _RATES]
    made = []
    for kind, size in wanted:
        file = scratch / f"{source.stem}_{kind}_{size:g}.wav"
        changed = excerpt
        if kind != "none":
            changed = stretcher(
                excerpt,
                rate=size if kind == "tempo" else 1.0,
                semitones=size if kind == "pitch" else 0.0,
            )
        soundfile.write(file, changed, STRETCH_RATE_HZ, subtype="FLOAT")
        made.append((file, source.name, kind, size))
    return made


def _tonic(answer: Answer) -> int:
    return TONICS.index(str(answer["key"]).split()[0])


if __name__ == "__main__":
    main()
