"""From a question as it is typed to its answer, over a file in memory or a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from loev_cli.errors import InputError, LoevError, UsageError
from loev_cli.search.find import FileQuery, find_query
from loev_cli.search.library import Library, Vectors, open_library
from loev_cli.search.query import Hit, Query, default_weights, search

if TYPE_CHECKING:
    from loev_cli.search.listen import Listener


@dataclass(frozen=True)
class Answer:
    """What was found.

    Attributes:
        query: as it was asked.
        hits: best first.
        durations_s: of each hit's track.
    """

    query: str
    hits: list[Hit]
    durations_s: list[float]


@dataclass
class Asker:
    """Answers queries about one library.

    Attributes:
        notes: what is worth telling about how the answers came about.
    """

    library: Library
    query: Query
    exclude_same_file: bool = False
    model: str | None = None
    device: str = "auto"
    notes: list[str] = field(default_factory=list)

    @property
    def subspaces(self) -> list[str]:
        return list(self.library.subspaces)

    @cached_property
    def _listener(self) -> Listener:
        from loev_cli.search.listen import Listener  # and with it soundfile and onnxruntime

        return Listener(self.library.meta, model=self.model, device=self.device)

    def ask(self, text: str) -> Answer:
        """Answer one query.

        Raises:
            UsageError: it is neither a row nor a file, or the library's model is not here.
            InputError: the file is not audio.
        """
        library = self.library
        found = find_query(text, library.paths, library.source)
        exclude: set[str] = set()
        if isinstance(found, FileQuery):
            vectors: Mapping[str, Vectors] = library.ready(self._listener.vectors(found.file))
            same = {path for path in library.paths if found.is_row(path)}
        else:
            vectors = library.of_row(found.row)
            same = {found.path}
        if self.exclude_same_file:
            exclude |= same
        asked = Query(self.query.weights, self.query.k, self.query.where, frozenset(exclude))
        hits = search(library, vectors, asked)
        seconds = library.columns["duration_s"]
        return Answer(text, hits, [float(seconds[hit.row]) for hit in hits])

    def can_go_on(self, error: LoevError) -> bool:
        """Whether the next query may do better than this one did."""
        return isinstance(error, InputError | UsageError)


def open_asker(
    source: Path,
    *,
    weights: Mapping[str, float] | None = None,
    k: int,
    where: str | None = None,
    like_but: str | None = None,
    exclude_same_file: bool = False,
    exact: bool = False,
    model: str | None = None,
    device: str = "auto",
) -> Asker:
    """Open a library and check the question.

    Raises:
        UsageError: no such library, or a part of the question that does not fit it.
    """
    library = open_library(source)
    query = Query(weights or default_weights(library.subspaces), k, where)
    for name in query.weights:
        library.check_subspace(name)
    return Asker(library, query, exclude_same_file, model, device)
