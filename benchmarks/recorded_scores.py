"""Key and tempo on labeled recordings: loev bundles and other tools on the same files.

    python benchmarks/recorded_scores.py MANIFEST... --model A [--model B ...] [--split test]
        [--peer essentia ...] [--answers NAME=FILE.csv ...] --out results.json

Manifests have `path`, `key` or `tempo`, and `group` (album, package), as for `loev evaluate`.
Measures: weighted key score of MIREX and exact key; tempo Acc1, and Acc2 (octaves and triples
allowed), both within 4 %; ECE of loev's confidences, and the ECE to be expected if they were the
exact probabilities: with few files it is far from 0. Intervals of 95 % by a bootstrap over groups.
The differences from the first model are on the same draws.

Peers are used if they can be imported here; those that cannot are named as left out. --answers
takes those of a tool that lives in another environment: a CSV with `path` as in the manifest, and
`key` or `bpm`. `--list` only writes the files' paths, for such a tool.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loev_cli import audio
from loev_cli.embed import Request, annotate
from loev_cli.evaluate.manifest import Manifest, read_manifests
from loev_cli.evaluate.probes import ACC1_FACTORS, ACC2_FACTORS, key_weights, tempo_hits
from loev_cli.evaluate.readouts import reliability
from loev_cli.evaluate.statistics import Bootstrap
from loev_cli.music_keys import parse_key

RATE_HZ = 44100


@dataclass(frozen=True)
class Answer:
    """What a tool says of a file; None where it says nothing."""

    key: int | None = None
    key_confidence: float | None = None
    bpm: float | None = None
    bpm_confidence: float | None = None


# ---------------------------------------------------------------- tools


def loev(files: list[Path], model: str) -> list[Answer]:
    """The answers of a bundle."""
    said: dict[str, Mapping[str, Any]] = {}
    annotate(
        Request([str(file) for file in files], None, model=model, device="cpu", strict=True),
        lambda row: said.update({row.path: row.annotations}),
    )
    rows = [said[str(file)] for file in files]
    return [
        Answer(
            parse_key(str(row.get("key", ""))),
            row.get("key_confidence"),
            row.get("bpm"),
            row.get("bpm_confidence"),
        )
        for row in rows
    ]


def essentia(file: Path) -> Answer:
    """RhythmExtractor2013 (multifeature) and KeyExtractor (profile bgate)."""
    import essentia.standard as es  # type: ignore[import-not-found]

    waveform = audio.load(file, RATE_HZ)
    bpm = float(es.RhythmExtractor2013(method="multifeature")(waveform)[0])
    tonic, mode, _ = es.KeyExtractor(profileType="bgate", sampleRate=RATE_HZ)(waveform)
    return Answer(parse_key(f"{tonic} {mode}"), bpm=bpm)


def tempocnn(file: Path) -> Answer:
    """The network `fcn` of tempo-cnn (Schreiber & Mueller, ISMIR 2018)."""
    from tempocnn.classifier import TempoClassifier  # type: ignore[import-not-found]
    from tempocnn.feature import read_features  # type: ignore[import-not-found]

    return Answer(bpm=float(TempoClassifier("fcn").estimate_tempo(read_features(str(file)))))


def madmom(file: Path) -> Answer:
    """RNN beats and comb filters, the default of its TempoEstimationProcessor."""
    from madmom.features.beats import RNNBeatProcessor  # type: ignore[import-not-found]
    from madmom.features.tempo import TempoEstimationProcessor  # type: ignore[import-not-found]

    tempi = TempoEstimationProcessor(fps=100)(RNNBeatProcessor()(str(file)))
    return Answer(bpm=float(tempi[0][0]))


PEERS: dict[str, Callable[[Path], Answer]] = {
    "essentia": essentia,
    "tempocnn": tempocnn,
    "madmom": madmom,
}


def from_csv(manifest: Manifest, path: Path) -> list[Answer]:
    """Answers that another environment gave; files it does not name have none."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    answers = []
    for written in manifest.paths:
        row = rows.get(written, {})
        bpm = row.get("bpm")
        answers.append(Answer(parse_key(row.get("key") or ""), bpm=float(bpm) if bpm else None))
    return answers


# ---------------------------------------------------------------- scores


def scores_of(
    answers: list[Answer], key: np.ndarray, tempo: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Label -> measure -> (n,) score; NaN where there is no label or the tool has no such answer.

    A file for which a tool that answers others says nothing counts as wrong.

    Args:
        key: (n,) index into ``KEYS``, -1 if unknown.
        tempo: (n,) BPM, NaN if unknown.
    """
    scores: dict[str, dict[str, np.ndarray]] = {}
    if any(answer.key is not None for answer in answers):
        said = np.array([-1 if answer.key is None else answer.key for answer in answers])
        weighted = np.where(said >= 0, key_weights()[key, said], 0.0)
        exact = (said == key).astype(np.float64)
        scores["key"] = {
            "weighted": np.where(key >= 0, weighted, np.nan),
            "exact": np.where(key >= 0, exact, np.nan),
        }
    if any(answer.bpm is not None for answer in answers):
        bpm = np.array([answer.bpm or np.nan for answer in answers])
        with np.errstate(invalid="ignore"):
            scores["tempo"] = {
                name: np.where(np.isfinite(tempo), tempo_hits(tempo, bpm, factors), np.nan)
                for name, factors in (("Acc1", ACC1_FACTORS), ("Acc2", ACC2_FACTORS))
            }
    return scores


def ece(confidence: np.ndarray, right: np.ndarray) -> float:
    known = np.isfinite(right) & np.isfinite(confidence)
    return reliability(confidence[known], right[known] > 0).ece if known.any() else float("nan")


def ece_if_exact(confidence: np.ndarray) -> dict[str, float]:
    """Mean and 95 % range of the ECE of answers that are right with exactly these probabilities."""
    drawn = np.random.default_rng(0).random((1000, len(confidence))) < confidence
    errors = [ece(confidence, right.astype(np.float64)) for right in drawn]
    low, high = np.quantile(errors, [0.025, 0.975])
    return {"value": float(np.mean(errors)), "low": float(low), "high": float(high)}


def report(
    answers: dict[str, list[Answer]], key: np.ndarray, tempo: np.ndarray, groups: np.ndarray
) -> dict[str, Any]:
    """Tool -> label -> measure -> estimate; differences from the first tool under ``minus``."""
    bootstrap = Bootstrap(groups)
    n_of = {"key": int((key >= 0).sum()), "tempo": int(np.isfinite(tempo).sum())}
    all_scores = {who: scores_of(said, key, tempo) for who, said in answers.items()}
    first = next(iter(answers))
    results: dict[str, Any] = {"n": n_of, "n_groups": len(np.unique(groups)), "tools": {}}
    for who, scores in all_scores.items():
        record: dict[str, Any] = {}
        for label, measures in scores.items():
            if n_of[label] == 0:
                continue
            record[label] = {name: bootstrap.mean(x).as_dict() for name, x in measures.items()}
            of = {"key": "key_confidence", "tempo": "bpm_confidence"}[label]
            confidence = np.array(
                [np.nan if getattr(a, of) is None else getattr(a, of) for a in answers[who]]
            )
            if np.isfinite(confidence).any():
                right = measures["exact" if label == "key" else "Acc1"]
                record[label]["ECE"] = bootstrap.of(
                    lambda drawn, c=confidence, r=right: np.array(
                        [ece(np.repeat(c, times), np.repeat(r, times)) for times in drawn]
                    )
                ).as_dict()
                judged = np.isfinite(confidence) & np.isfinite(right)
                record[label]["ECE if exact"] = ece_if_exact(confidence[judged])
            if who != first and label in all_scores[first]:
                record[label][f"minus {first}"] = {
                    name: bootstrap.mean(x - all_scores[first][label][name]).as_dict()
                    for name, x in measures.items()
                }
        results["tools"][who] = record
    return results


def say(results: dict[str, Any]) -> None:
    def figure(e: Mapping[str, float]) -> str:
        return f"{e['value']:.3f} [{e['low']:.2f}, {e['high']:.2f}]"

    for who, record in results["tools"].items():
        for label, measures in record.items():
            plain = ", ".join(f"{m} {figure(e)}" for m, e in measures.items() if "value" in e)
            print(f"{who}: {label} (n = {results['n'][label]}): {plain}")
            for versus, differences in measures.items():
                if "value" not in differences:
                    said = ", ".join(f"{m} {figure(e)}" for m, e in differences.items())
                    print(f"    {versus}: {said}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, nargs="+")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="default: all")
    parser.add_argument("--answers", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--split", help="only the rows of this split")
    parser.add_argument("--list", action="store_true", help="print the files, and stop")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    manifest = read_manifests(args.manifest)
    if args.split:
        manifest = manifest.select(np.flatnonzero(manifest.splits == args.split))
    if args.list:
        for written, file in zip(manifest.paths, manifest.files, strict=True):
            print(f"{written}\t{file}")
        return 0
    n = len(manifest)
    key, tempo = np.full(n, -1), np.full(n, np.nan)
    if "key" in manifest.cells:
        column = manifest.column("key", "key")
        key = np.where(column.known, column.values, -1).astype(np.int64)
    if "tempo" in manifest.cells:
        column = manifest.column("tempo", "tempo")
        tempo = np.where(column.known, column.values, np.nan)
    answers: dict[str, list[Answer]] = {}
    for model in args.model:
        answers[f"loev {model}"] = loev(manifest.files, model)
    left_out = []
    for name in args.peer or PEERS:
        try:
            importlib.import_module(name)
        except ImportError as error:
            left_out.append(name)
            print(f"left out: {name}: {error}", file=sys.stderr)
            continue
        answers[name] = [PEERS[name](file) for file in manifest.files]
    for given in args.answers:
        name, _, path = given.partition("=")
        answers[name] = from_csv(manifest, Path(path))
    if not answers:
        parser.error("nothing to score: name a --model, or install a peer")
    results = report(answers, key, tempo, manifest.groups) | {"left_out": left_out}
    say(results)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
