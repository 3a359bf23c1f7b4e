"""A subspace on a plane: the two principal components of its vectors.

Fast (a matrix product over the rows and the eigenvectors of a D x D matrix) and the same every
time: of the two directions an axis may point in, the one is taken in which its largest loading is
positive.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loev_cli.search.library import Vectors

_BLOCK_N_ROWS = 8192


def flatten(x: Vectors) -> NDArray[np.float32]:
    """Vectors (N, D) -> places (N, 2), centred; an axis along which nothing varies is 0."""
    n, dim = x.shape
    mean = x.mean(axis=0, dtype=np.float64)
    scatter = np.zeros((dim, dim))
    for start in range(0, n, _BLOCK_N_ROWS):
        block = x[start : start + _BLOCK_N_ROWS] - mean.astype(np.float32)
        scatter += block.T @ block
    _, axes = np.linalg.eigh(scatter / n)  # ascending
    axes = axes[:, ::-1][:, :2]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, range(axes.shape[1])])
    places = np.zeros((n, 2), np.float32)
    places[:, : axes.shape[1]] = (x - mean.astype(np.float32)) @ axes.astype(np.float32)
    return places
