"""Two-dimensional projections of a subspace: principal components, or t-SNE."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

METHODS = ("pca", "tsne")
_PERPLEXITY = 30.0


def flatten(x: NDArray[Any], method: str, *, seed: int = 0) -> NDArray[np.float64]:
    """Rows (n, D) -> (n, 2). t-SNE of fewer than eight rows is PCA."""
    x = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    if method == "tsne" and len(x) >= 8:
        perplexity = min(_PERPLEXITY, (len(x) - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        return np.asarray(tsne.fit_transform(x), np.float64)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    places = (u * s)[:, :2]
    return np.hstack([places, np.zeros((len(x), 2 - places.shape[1]))])
