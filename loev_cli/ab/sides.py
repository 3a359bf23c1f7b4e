"""Two searches to compare, and the files that describe what came of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loev_cli.errors import UsageError, known_names
from loev_cli.experiments.foreign import SUFFIXES, is_ours, read_vectors
from loev_cli.search.find import RowQuery
from loev_cli.search.library import (
    Library,
    Query,
    default_weights,
    open_library,
    parse_weights,
    subspace_of,
)


@dataclass(frozen=True)
class Side:
    """A library, searched with fixed weights.

    Attributes:
        name: as the user wrote it: ``emb.npz``, ``emb.npz@tempo``, ``emb.npz@pitch=1,tempo=0.5``.
    """

    name: str
    library: Library
    weights: Mapping[str, float]

    def path_of(self, text: str) -> str:
        """The row that ``text`` means.

        Raises:
            UsageError: none, or several.
        """
        found = self.library.find(text)
        if not isinstance(found, RowQuery):
            raise UsageError(
                f"{self.library.source} has no track '{text}'",
                hint="queries are tracks of both libraries: add the file to them with loev embed",
            )
        return found.path

    def ranked(self, path: str, k: int) -> list[tuple[str, float]]:
        """Path and score of the ``k`` rows nearest to a row, best first, without itself."""
        library = self.library
        vectors = library.of_row(library.row_of[path])
        hits = library.search(vectors, Query(self.weights, k, exclude=frozenset({path})))
        return [(hit.path, hit.score) for hit in hits]


def open_side(text: str) -> Side:
    """``FILE`` or ``FILE@WEIGHTS``, where one weight of 1 is the subspace's name.

    The file may be another tool's, as ``loev compare --against`` takes it.

    Raises:
        UsageError: no such library or subspace, or weights that do not parse.
    """
    source, at, weights = text.rpartition("@")
    if not at or Path(text).exists():
        source, weights = text, ""
    file = Path(source)
    is_foreign = file.suffix.lower() in SUFFIXES and file.is_file() and not is_ours(file)
    library = _foreign(file) if is_foreign else open_library(source)
    if not weights:
        return Side(text, library, default_weights(library.subspaces))
    chosen = parse_weights(weights if "=" in weights else f"{weights}=1")
    for name in chosen:
        library.check_subspace(name)
    return Side(text, library, chosen)


def _foreign(file: Path) -> Library:
    paths, arrays = read_vectors(file)
    if len(set(paths)) < len(paths):
        raise UsageError(f"{file} names a path twice")
    order = np.argsort(np.array(paths, np.str_), kind="stable")
    subspaces = {name: subspace_of(x[order], f"{file}: '{name}'") for name, x in arrays.items()}
    return Library(
        file,
        [paths[i] for i in order.tolist()],
        subspaces,
        {"duration_s": np.full(len(paths), np.nan, np.float32)},
        {"model": file.stem, "subspaces": {name: x.shape[1] for name, x in arrays.items()}},
    )


def open_sides(a: str, b: str) -> tuple[Side, Side]:
    """Both sides. Raises UsageError unless their libraries hold the same tracks."""
    sides = open_side(a), open_side(b)
    first, second = (side.library.row_of.keys() for side in sides)
    if first != second:
        alone = min(first ^ second)
        holder = sides[alone in second].library.source
        raise UsageError(
            f"the libraries hold different tracks: {len(first ^ second)} are in one only, such as "
            f"'{alone}' in {holder}",
            hint="rows are compared by their paths: embed the same folder with both models",
        )
    return sides


def read_csv(file: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """``FILE line N`` and the cells of every row.

    Raises:
        UsageError: it cannot be read, or lacks a column.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            for name in needed:
                if name not in columns:
                    raise UsageError(
                        f"{file} has no column '{name}'",
                        hint=known_names(name, columns),
                    )
            for row in reader:
                cells = {name: value or "" for name, value in row.items() if name is not None}
                yield f"{file} line {reader.line_num}", cells
    except (OSError, UnicodeError, csv.Error) as error:
        raise UsageError(f"cannot read {file}: {error}") from error


def read_json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``FILE line N`` and the object of every line that is not empty.

    Raises:
        UsageError: it cannot be read, or a line is no JSON object.
    """
    number = 0
    try:
        with file.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    found = json.loads(line)
                    if not isinstance(found, dict):
                        raise UsageError(f"{file} line {number} is not a JSON object")
                    yield f"{file} line {number}", found
    except ValueError as error:  # of JSON, or of UTF-8
        raise UsageError(f"{file} line {number or 1} is not a JSON object: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
