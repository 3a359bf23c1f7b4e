"""The paper's view scheme on rendered POP909: `docs/lab/results/compare-paper-scheme` made again.

    python benchmarks/paper_scheme.py --songs POP909 --soundfont A.sf2 [--soundfont B.sf2] --out OUT
                                      [--steps 80] [--seeds 3]

Renders a clip of 20 s of each of songs 1 to 300 to train on, two of songs 750 to 799 to choose
subspaces by and three of songs 800 to 849 to judge on (corpus/README.md says what is needed), and
runs `loev compare` with `paper_scheme.toml`. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Folder, songs, clips of each; a second line adds clips to the first.
RENDERED = (("train", "1-300", 1), ("eval", "750-849", 2), ("eval", "800-849", 3))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--songs", type=Path, required=True)
    parser.add_argument("--soundfont", type=Path, required=True, action="append")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    for folder, songs, n_clips in RENDERED:
        command = [sys.executable, "-m", "corpus.pop909", "--songs", args.songs.resolve()]
        command += ["--out", (args.out / folder).resolve(), "--range", songs, "--clip-s", "20"]
        command += ["--arrangements", n_clips, "--sample-rate-hz", "16000", "--seed", "0"]
        for soundfont in args.soundfont:
            command += ["--soundfont", soundfont.resolve()]
        done = subprocess.run([str(part) for part in command], cwd=ROOT)
        if done.returncode not in (0, 3):  # 3: songs 17 and 18 have wrong keys and no clips
            return done.returncode
    command = [sys.executable, "-m", "loev_cli", "compare"]
    command += ["--data", "train/manifest.csv", "--data", "eval/manifest.csv"]
    command += ["--config", Path(__file__).with_suffix(".toml").resolve(), "--steps", args.steps]
    command += ["--methods", "loev++,loev,looc,cl,untrained"]
    command += ["--seeds", args.seeds, "--label", "key", "--label", "tempo", "--changed", "120"]
    command += ["--stretcher", "signalsmith", "--jobs", args.jobs, "--out", "cmp"]
    return subprocess.run([str(part) for part in command], cwd=args.out).returncode


if __name__ == "__main__":
    sys.exit(main())
