"""Put the demo page and all it needs into one folder, for any static server.

    npm ci --prefix docs/demo        # onnxruntime-web; the lock file holds its checksums
    python docs/demo/build.py --out build/demo
    python -m http.server --directory build/demo 8000

The folder has the page, the shipped model as it stands, ONNX Runtime's WebAssembly, the example
clips and their vectors. The style and the result list are those of the explore page.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from loev_cli import bundle as bundles
from loev_cli.embed import Request, embed
from loev_cli.music_keys import N_PITCH_CLASSES, fifths, is_minor, parse_key
from loev_cli.search.library import open_library

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MUSIC = ROOT / "examples" / "music"
RUNTIME = HERE / "node_modules" / "onnxruntime-web" / "dist"
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
PAGE_FILES = ("index.html", "demo.css", "demo.js", "loev.js", "worker.js")
EXPLORE_FILES = ("style.css", "api.js", "colour.js", "player.js", "results.js")
MODEL_FILES = (bundles.CONFIG_FILE, bundles.ONNX_FILE, bundles.ANNOTATIONS_FILE)


def build(out: Path) -> None:
    """Write the page into the folder ``out``, which is made."""
    out.mkdir(parents=True, exist_ok=True)
    model = bundles.find(bundles.DEFAULT_MODEL)
    explore = ROOT / "loev_cli" / "explore" / "page"
    for folder, names in [
        (HERE, PAGE_FILES),
        (explore, EXPLORE_FILES),
        (RUNTIME, RUNTIME_FILES),
        (model.path, MODEL_FILES),
    ]:
        for name in names:
            shutil.copyfile(folder / name, out / name)
    shutil.copytree(
        MUSIC, out / "music", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.md", "*.csv")
    )
    (out / "examples.json").write_text(json.dumps(examples()), encoding="utf-8")


def examples() -> dict[str, Any]:
    """The example clips with their labels, and their vectors as ``loev search`` compares them."""
    with (MUSIC / "manifest.csv").open(encoding="utf-8", newline="") as file:
        labels = {row["path"]: row for row in csv.DictReader(file)}
    with tempfile.TemporaryDirectory() as folder:
        emb = Path(folder) / "emb.npz"
        embed(Request([str(MUSIC)], str(emb)))
        library = open_library(emb)
        durations = library.columns["duration_s"]
        return {
            "tracks": [
                {
                    "path": path,
                    "title": path.partition("-in-")[0].capitalize(),
                    "subtitle": "",
                    "audio": True,
                    "code": place_of(labels[path]["key"]),
                    "columns": {
                        "key": labels[path]["key"],
                        "bpm": float(labels[path]["tempo"]),
                        "duration_s": round(float(duration_s), 2),
                    },
                }
                for path, duration_s in zip(library.paths, durations, strict=True)
            ],
            "subspaces": {
                name: {
                    "center": subspace.center.tolist(),
                    "rows": [row.tolist() for row in subspace.vectors],
                }
                for name, subspace in library.subspaces.items()
            },
        }


def place_of(key_name: str) -> int:
    """0 to 11 around the circle of fifths from C, then 12 to 23 for the relative minors."""
    key = parse_key(key_name)
    assert key is not None
    return fifths(key) + N_PITCH_CLASSES * is_minor(key)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that is made")
    out = parser.parse_args().out
    if not RUNTIME.is_dir():
        print(f"{RUNTIME} is missing: npm ci --prefix {HERE}", file=sys.stderr)
        return 2
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        print(f"{out} exists and is not an empty folder: choose another --out", file=sys.stderr)
        return 2
    build(out)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
