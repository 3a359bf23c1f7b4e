"""How near does `loev search --like-but` come to a recording that was really changed?

    python benchmarks/like_but.py FOLDER... [--n 40]

Of N tracks, changed versions are made by the `rubberband` command (finer engine), which keeps
tempo when it shifts and pitch when it stretches. Each track asks, moved as `--like-but` moves it,
among all tracks found and the N changed ones, in the subspace of the attribute: cosine to its own
changed version (median), and how often that is the nearest. *Unmoved* is the track as it is. The
shipped model: only its pitch classes are known to turn.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from loev_cli.audio import find, load
from loev_cli.embed import Request, embed
from loev_cli.evaluate.equivariance import STRETCH_RATE_HZ, Rubberband
from loev_cli.search import open_library
from loev_cli.search.library import Subspace, Vectors
from loev_cli.search.session import model_of
from loev_cli.search.shifted_query import Asked, Change, move, parse_changes

CHANGES = ("pitch=+2", "pitch=-3", "pitch=+5", "tempo=+10%", "tempo=-15%", "tempo=+25%")


def changed(source: Path, change: Change, folder: Path) -> Path:
    """``source`` after ``change``, by rubberband."""
    shift, rate = (change.semitones, 1.0) if change.attribute == "pitch" else (0.0, change.rate)
    waveform = Rubberband()(load(source, STRETCH_RATE_HZ), rate=rate, semitones=shift)
    target = folder / "changed.wav"
    soundfile.write(target, waveform, STRETCH_RATE_HZ)
    return target


def cell(vectors: list[Vectors], space: Subspace, gallery: Vectors) -> str:
    """Of queries, as models give them, whose changed versions are the gallery's first rows."""
    similarity = np.stack([space.ready(vector) for vector in vectors]) @ gallery.T
    own = similarity[:, : len(vectors)].diagonal()
    nearest = similarity.argmax(axis=1) == np.arange(len(vectors))
    return f"{np.median(own):.2f}, {nearest.mean():.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--n", type=int, default=40, help="tracks that are changed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "emb.npz"
        folders = [str(folder) for folder in arguments.folders]
        embed(Request(folders, str(out)))
        library = open_library(out)
        model = model_of(library.meta)

        def listen(file: Path, speed: float = 1.0) -> dict[str, Vectors]:
            return model.embed_file(file, hop_s=library.meta["hop_s"], speed=speed)

        files = {source.path: source.file for source in find(folders)}
        chosen = np.linspace(0, len(library) - 1, min(arguments.n, len(library))).round()
        sources = [files[library.paths[row]] for row in chosen.astype(int).tolist()]
        queries = [listen(source) for source in sources]

        print(f"{len(library)} tracks and {len(sources)} changed ones: cosine, nearest\n")
        print("| change | unmoved | by rotating | by embedding |\n|---|---|---|---|")
        for text in CHANGES:
            (change,) = parse_changes(text)
            name, space = change.attribute, library.subspaces[change.attribute]
            vectors = [listen(changed(source, change, Path(scratch)))[name] for source in sources]
            truth = np.stack([space.ready(vector) for vector in vectors])
            gallery = np.concatenate([truth, library.vectors[name]])
            ways: dict[str, list[Vectors]] = {"unmoved": [query[name] for query in queries]}
            if name == "pitch":
                turned = [
                    move(change, Asked(library.meta, None, query.copy), listen) for query in queries
                ]
                ways["by rotating"] = [moved.vectors[name] for moved in turned]
            played = [move(change, Asked(library.meta, source), listen) for source in sources]
            ways["by embedding"] = [moved.vectors[name] for moved in played]
            cells = [
                cell(ways[way], space, gallery) if way in ways else ""
                for way in ("unmoved", "by rotating", "by embedding")
            ]
            print(f"| {text} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
