"""What does each subspace know? Linear probes for key, tempo and melody instrument.

    loev embed CORPUS/train/audio --out train.npz
    loev embed CORPUS/eval/audio --out eval.npz
    python benchmarks/pop909_probes.py --train train.npz CORPUS/train/manifest.csv \\
                                       --eval eval.npz CORPUS/eval/manifest.csv --out probes.json

Corpora come from ``python -m corpus.pop909`` (see corpus/README.md). Probes are multinomial
logistic regressions on standardised track embeddings of songs 1-749; their regularisation is
chosen on songs 750-799; scores are of songs 800-849, with 95 % intervals from a bootstrap over
songs. Tempo is classified into bins of 3 % and read off as the mean of the best bin and its
neighbours, weighted by their probability.

``--floors`` adds what the same probes get from plain features of the same audio: the mean and
deviation of a 12-bin chroma, and the log-lag autocorrelation of onsets (both from the model's own
frontend, without anything learned). A subspace that does not beat its floor has only forgotten.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mir_eval
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

C_GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
TEMPO_BIN = math.log(1.03)
TEMPO_TOLERANCE = 0.04
N_BOOTSTRAP = 1000


@dataclass(frozen=True)
class Corpus:
    """Rows of a manifest with their embeddings."""

    vectors: dict[str, np.ndarray]
    rows: list[dict[str, str]]

    def column(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self.rows])

    def select(self, split: str) -> Corpus:
        index = np.flatnonzero(self.column("split") == split)
        return Corpus({k: v[index] for k, v in self.vectors.items()}, [self.rows[i] for i in index])


def read_corpus(embeddings: Path, manifest: Path) -> Corpus:
    with np.load(embeddings, allow_pickle=False) as data:
        subspaces = list(json.loads(str(data["meta"]))["subspaces"])
        row_of = {Path(str(path)).name: i for i, path in enumerate(data["path"])}
        arrays = {name: data[name] for name in subspaces}
    with manifest.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if Path(row["path"]).name in row_of]
    order = [row_of[Path(row["path"]).name] for row in rows]
    return Corpus({name: array[order] for name, array in arrays.items()}, rows)


def weighted_key(reference: str, estimate: str) -> float:
    """Weighted score of two keys spelled like "F# minor" (mir_eval.key)."""
    return float(mir_eval.key.weighted_score(reference, estimate))


def tempo_hit(reference: float, estimate: float, factors: tuple[float, ...]) -> bool:
    return any(abs(estimate - f * reference) <= TEMPO_TOLERANCE * f * reference for f in factors)


ACC1 = (1.0,)
ACC2 = (1.0, 2.0, 3.0, 1 / 2, 1 / 3)


def fit_and_predict(
    train: np.ndarray,
    labels: np.ndarray,
    val: np.ndarray,
    test: np.ndarray,
    decode: Callable[[np.ndarray, np.ndarray], np.ndarray],
    score_val: Callable[[np.ndarray], float],
) -> tuple[np.ndarray, float]:
    """Predictions for ``test`` of the probe whose C does best on ``val``, and that C."""
    best: tuple[float, float, np.ndarray] | None = None
    for c in C_GRID:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            probe.fit(train, labels)
        classes = probe[-1].classes_
        score = score_val(decode(probe.predict_proba(val), classes))
        if best is None or score > best[0]:
            best = (score, c, decode(probe.predict_proba(test), classes))
    assert best is not None
    return best[2], best[1]


def argmax_class(probability: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return classes[probability.argmax(axis=1)]


def tempo_of_bins(probability: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """BPM from probabilities of log-tempo bins."""
    full = np.zeros((len(probability), classes.max() + 2))
    full[:, classes] = probability
    best = full.argmax(axis=1)
    near = best[:, None] + np.array([-1, 0, 1])
    weight = np.take_along_axis(full, near.clip(0, full.shape[1] - 1), axis=1)
    centre = (weight * near).sum(axis=1) / weight.sum(axis=1)
    return np.exp((centre + 0.5) * TEMPO_BIN)


def interval(scores: np.ndarray, songs: np.ndarray) -> dict[str, float]:
    """Mean and its 95 % interval, resampling whole songs."""
    rng = np.random.default_rng(0)
    names = np.unique(songs)
    sums = np.array([scores[songs == s].sum() for s in names])
    counts = np.array([(songs == s).sum() for s in names])
    draws = rng.integers(0, len(names), (N_BOOTSTRAP, len(names)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"score": float(scores.mean()), "low": float(low), "high": float(high)}


def probe_all(
    train: Corpus, val: Corpus, test: Corpus, name: str
) -> dict[str, dict[str, float] | float]:
    """All scores of one array of vectors."""
    x_train, x_val, x_test = (c.vectors[name] for c in (train, val, test))
    songs = test.column("song")
    results: dict[str, dict[str, float] | float] = {"dim": x_train.shape[1]}

    def key_scores(reference: np.ndarray, estimate: np.ndarray) -> np.ndarray:
        return np.array([weighted_key(r, e) for r, e in zip(reference, estimate, strict=True)])

    keys, c = fit_and_predict(
        x_train,
        train.column("key"),
        x_val,
        x_test,
        argmax_class,
        lambda e: float(key_scores(val.column("key"), e).mean()),
    )
    results["key_weighted"] = interval(key_scores(test.column("key"), keys), songs)
    results["key_accuracy"] = interval((test.column("key") == keys).astype(float), songs)
    results["key_c"] = c

    def tempo_scores(
        reference: np.ndarray, estimate: np.ndarray, factors: tuple[float, ...]
    ) -> np.ndarray:
        pairs = zip(reference, estimate, strict=True)
        return np.array([tempo_hit(r, e, factors) for r, e in pairs], dtype=float)

    bpm = {k: c.column("tempo").astype(float) for k, c in {"train": train, "val": val}.items()}
    reference = test.column("tempo").astype(float)
    bins = np.floor(np.log(bpm["train"]) / TEMPO_BIN).astype(int)
    tempi, c = fit_and_predict(
        x_train,
        bins,
        x_val,
        x_test,
        tempo_of_bins,
        lambda e: float(tempo_scores(bpm["val"], e, ACC1).mean()),
    )
    results["tempo_acc1"] = interval(tempo_scores(reference, tempi, ACC1), songs)
    results["tempo_acc2"] = interval(tempo_scores(reference, tempi, ACC2), songs)
    results["tempo_c"] = c

    families, c = fit_and_predict(
        x_train,
        train.column("melody_family"),
        x_val,
        x_test,
        argmax_class,
        lambda e: float((val.column("melody_family") == e).mean()),
    )
    hits = (test.column("melody_family") == families).astype(float)
    results["melody_family_accuracy"] = interval(hits, songs)
    return results


def floor_features(manifest: Path, rows: list[dict[str, str]]) -> dict[str, np.ndarray]:
    """Chroma and autocorrelation of whole clips, window by window, averaged."""
    import torch

    from loev_cli import audio, windows
    from loev_cli.model import LoevModel, ModelSpec
    from loev_cli.model.encoders.small import PitchBranch, TempoBranch, loudness

    model = LoevModel(ModelSpec()).eval()
    pitch, tempo = model.encoder.branches["pitch"], model.encoder.branches["tempo"]
    assert isinstance(pitch, PitchBranch) and isinstance(tempo, TempoBranch)
    window = model.spec.window_n_samples
    chroma, periodicity = [], []
    for row in rows:
        waveform = audio.load(manifest.parent / row["path"], model.spec.frontend.sample_rate_hz)
        cuts = windows.cut(waveform, window, window // 2)
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack([cut.samples for cut in cuts]))
            features = model.frontend.centre(model.frontend(batch))
            chroma.append(pitch.chroma(loudness(features.spectrum)).flatten(1).mean(dim=0).numpy())
            periodicity.append(tempo.periodicity(features.bands).flatten(1).mean(dim=0).numpy())
    return {"floor:chroma": np.stack(chroma), "floor:autocorrelation": np.stack(periodicity)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", nargs=2, type=Path, required=True, metavar=("NPZ", "CSV"))
    parser.add_argument("--eval", nargs=2, type=Path, required=True, metavar=("NPZ", "CSV"))
    parser.add_argument("--floors", action="store_true", help="probe plain features too")
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    args = parser.parse_args()

    train, evaluation = read_corpus(*args.train), read_corpus(*args.eval)
    if args.floors:
        train.vectors.update(floor_features(args.train[1], train.rows))
        evaluation.vectors.update(floor_features(args.eval[1], evaluation.rows))
    val, test = evaluation.select("val"), evaluation.select("test")
    print(f"probes: {len(train.rows)} train, {len(val.rows)} val, {len(test.rows)} test clips")
    metrics = ("key_weighted", "key_accuracy", "tempo_acc1", "tempo_acc2", "melody_family_accuracy")
    print("| vectors | " + " | ".join(m.replace("_", " ") for m in metrics) + " |")
    print("|---|" + "---|" * len(metrics))
    results = {}
    for name in train.vectors:
        results[name] = scores = probe_all(train, val, test, name)
        cells = [scores[m] for m in metrics]
        print(
            f"| {name} | "
            + " | ".join(f"{c['score']:.3f} [{c['low']:.2f}, {c['high']:.2f}]" for c in cells)
            + " |",
            flush=True,
        )
    if args.out:
        args.out.write_text(
            json.dumps({"command": " ".join(sys.argv), "results": results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
