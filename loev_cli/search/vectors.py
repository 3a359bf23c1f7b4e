"""Vectors for other databases: one per track, whose inner product is the score of ``loev search``.

With the center c and the share s = weight / sum of |weight| of every subspace (see
:mod:`loev_cli.search.library`), a track's parts

    sqrt(|s|) * (x - c) / |x - c|

are put side by side, and those of a query have the sign of their weight. So

    <row, query> = score,    |row - query|^2 = 2 - 2 * score

and inner product, cosine and Euclidean distance all give the order of ``loev search``. Rows and
queries have length 1, unless a track lies at the center of a subspace, where its part is 0; then
only the inner product is exact. With positive weights a row is its own query.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import LoevError, UsageError
from loev_cli.formats import (
    AGREEING_KEYS,
    SPACE,
    Meta,
    Row,
    check_agree,
    check_output,
    open_writer,
    read_meta,
)
from loev_cli.search.library import (
    Centering,
    Query,
    Vectors,
    check_subspace,
    default_weights,
    pooled_meta,
    pooled_rows,
    unit,
)
from loev_cli.storage.replacing import check_earlier, check_no_input

VECTOR = "vector"
_BLOCK_N_ROWS = 1024


@dataclass(frozen=True)
class Space:
    """How vectors of a library are centered and scaled.

    Attributes:
        weights: subspace -> weight, as ``loev search --weights`` takes them.
        centers: subspace -> (D,), of every subspace that has a weight.
    """

    weights: Mapping[str, float]
    centers: Mapping[str, Vectors]

    @property
    def dim(self) -> int:
        """The length d of its vectors: the sum of all D."""
        return sum(len(center) for center in self.centers.values())

    def rows(self, vectors: Mapping[str, Vectors]) -> Vectors:
        """Subspace -> (N, D) as the model gives them -> (N, d), to be stored."""
        return self._joined(vectors, signed=False)

    def queries(self, vectors: Mapping[str, Vectors]) -> Vectors:
        """Subspace -> (N, D) as the model gives them -> (N, d), to search with."""
        return self._joined(vectors, signed=True)

    def to_meta(self) -> dict[str, Any]:
        """For the ``meta`` of a file."""
        centers = {name: center.tolist() for name, center in self.centers.items()}
        return {"weights": dict(self.weights), "centers": centers}

    @classmethod
    def of(cls, meta: Meta, name: str) -> Self:
        """That of the file called ``name``.

        Raises:
            UsageError: it is no file of ``loev export-vectors``, or damaged.
        """
        if SPACE not in meta:
            raise UsageError(f"{name} was not made by 'loev export-vectors'")
        try:
            said = meta[SPACE]
            weights = {str(k): float(said["weights"][k]) for k in said["centers"]}
            centers = {k: np.array(c, np.float32) for k, c in said["centers"].items()}
            if any(c.ndim != 1 or not np.isfinite(c).all() for c in centers.values()):
                raise ValueError("a center is no vector")
            Query(weights)
        except (LoevError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{name} is damaged: its meta does not describe a space") from error
        return cls(weights, centers)

    def _joined(self, vectors: Mapping[str, Vectors], *, signed: bool) -> Vectors:
        parts = []
        for name, share in Query(self.weights).shares.items():
            x, _ = unit(np.atleast_2d(vectors[name]), self.centers[name])
            scale = np.sqrt(abs(share)) * (np.sign(share) if signed else 1.0)
            parts.append(x * np.float32(scale))
        return np.concatenate(parts, axis=1)


def space_of(emb: Path, weights: Mapping[str, float] | None = None) -> Space:
    """The space of an embedding file, which is read once, a few rows at a time.

    Args:
        weights: subspace -> weight; default as ``loev search``.

    Raises:
        UsageError: no such file, or one without rows or with NaN; or weights that do not fit it.
    """
    subspaces: dict[str, int] = read_meta(emb)["subspaces"]
    weights = default_weights(subspaces) if weights is None else weights
    for name in Query(weights).weights:
        check_subspace(name, subspaces, emb)
    centering = {name: Centering(subspaces[name], f"{emb}: '{name}'") for name in weights}
    n_rows = 0
    for block, vectors in _blocks(emb, weights):
        n_rows += len(block)
        for name, x in vectors.items():
            centering[name].add(x)
    if not n_rows:
        raise UsageError(f"{emb} holds no tracks", hint="create embeddings with loev embed")
    return Space(weights, {name: each.center for name, each in centering.items()})


def read_space(file: Path) -> Space:
    """The space of a file that :func:`export_vectors` wrote. Raises as :meth:`Space.of`."""
    return Space.of(read_meta(file), str(file))


def export_vectors(
    emb: Path,
    out: Path,
    *,
    weights: Mapping[str, float] | None = None,
    like: Path | None = None,
    queries: bool = False,
    overwrite: bool = False,
    on_rows: Callable[[int], None] = lambda n_rows: None,
) -> int:
    """Write the vectors of an embedding file for another database.

    Args:
        out: an embedding file with the tracks' other columns and one subspace, ``vector``.
        weights: subspace -> weight; default as ``loev search``.
        like: an earlier ``out``, whose weights and centers are taken.
        queries: write :meth:`Space.queries` instead of :meth:`Space.rows`.
        on_rows: called now and then with the number of rows that are written.

    Returns:
        The number of rows.

    Raises:
        UsageError: as :func:`space_of`; both ``weights`` and ``like``; ``like`` is of another
            model; ``out`` is an input, or was not made by this function.
        OutputError: it cannot be written.
    """
    check_output(str(out))
    check_no_input(out, [emb, *([] if like is None else [like])])
    meta = read_meta(emb)
    if SPACE in meta:
        raise UsageError(f"{emb} holds exported vectors", hint="pass the embedding file")
    check_earlier(out, _is_export, overwrite=overwrite)
    if like is None:
        space = space_of(emb, weights)
    else:
        if weights is not None:
            raise UsageError(f"the weights are those of {like}", hint="leave yours out")
        space = read_space(like)
        keys = [key for key in AGREEING_KEYS if key != "pooling"]
        check_agree({str(like): read_meta(like), str(emb): meta}, keys=keys)
        for name in space.weights:
            check_subspace(name, meta["subspaces"], emb)
    made = pooled_meta(meta) | {"subspaces": {VECTOR: space.dim}, SPACE: space.to_meta()}
    join = space.queries if queries else space.rows
    n_rows = 0
    with open_writer(str(out), made) as writer:
        for block, vectors in _blocks(emb, space.weights):
            for row, vector in zip(block, join(vectors), strict=True):
                writer.add(replace(row, vectors={VECTOR: vector}))
            n_rows += len(block)
            on_rows(n_rows)
        writer.commit()
    return n_rows


def _blocks(emb: Path, names: Mapping[str, Any]) -> Iterator[tuple[list[Row], dict[str, Vectors]]]:
    """The rows of a file, some at a time, and of these subspace -> (n, D).

    Raises:
        UsageError: vectors hold NaN or infinite values.
    """
    rows = pooled_rows(emb)
    while block := list(itertools.islice(rows, _BLOCK_N_ROWS)):
        yield block, {name: _stacked(emb, block, name) for name in names}


def _stacked(emb: Path, block: list[Row], name: str) -> NDArray[np.float32]:
    x = np.stack([row.vectors[name] for row in block])
    if not np.isfinite(x).all():
        raise UsageError(f"{emb}: '{name}' holds NaN or infinite values")
    return x


def _is_export(out: Path) -> bool:
    try:
        return SPACE in read_meta(out)
    except UsageError:
        return False
