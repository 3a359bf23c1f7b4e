"""Fails unless an embedding file holds the example clips, finite, in an install without torch."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

embedding, music = Path(sys.argv[1]), Path(sys.argv[2])
n_clips = sum(f.suffix not in (".md", ".csv") for f in music.iterdir())
assert n_clips >= 6
with np.load(embedding, allow_pickle=False) as data:
    assert len(data["path"]) == n_clips, data["path"]
    subspaces = json.loads(str(data["meta"]))["subspaces"]
    assert list(subspaces) == ["invariant", "pitch", "tempo"]
    for name, dim in subspaces.items():
        assert data[name].shape == (n_clips, dim) and np.isfinite(data[name]).all()
assert importlib.util.find_spec("torch") is None
print(f"{embedding.name}: {n_clips} clips, {subspaces}")
