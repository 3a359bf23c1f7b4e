"""A search session over a file in memory or a database: query text to results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loev_cli import bundle as bundles
from loev_cli.errors import InputError, LoevError, UsageError
from loev_cli.formats import FOLDERS, Meta, is_made_by, not_made_by
from loev_cli.row_names import path_of_row
from loev_cli.search.filters import parse_where
from loev_cli.search.find import FileQuery, RowQuery
from loev_cli.search.library import (
    LABELS,
    Hit,
    Library,
    Query,
    Vectors,
    audio_root,
    check_subspace,
    default_weights,
    labels,
    open_library,
)
from loev_cli.search.shifted_query import Asked, move, parse_changes

if TYPE_CHECKING:
    from loev_cli.api import Model
    from loev_cli.search.database import Database


class Session:
    """Answers queries about one library, all with the same options.

    Args:
        source: an embedding file, which is compared whole, or a database, which is searched by its
            indexes if it has any.
        weights: subspace -> weight; default ``invariant``, or all subspaces with ``like_but``.
        k: maximum number of results.
        where: a filter on the results.
        like_but: the shifts applied to every query; see :mod:`loev_cli.search.shifted_query`.
        exclude_same_file: exclude the query itself; with ``like_but`` it always is.
        exact: compare with all rows of a database too.
        root: audio folder that the rows' paths are relative to; default: :func:`audio_root`.
        model: path of the library's model, to embed audio files; default: by its name.
        device: for embedding.

    Raises:
        UsageError: no such library, a damaged one, or options that do not fit it.
    """

    def __init__(
        self,
        source: Path,
        *,
        weights: Mapping[str, float] | None = None,
        k: int,
        where: str | None = None,
        like_but: str | None = None,
        exclude_same_file: bool = False,
        exact: bool = False,
        root: Path | None = None,
        model: str | None = None,
        device: str = "auto",
    ) -> None:
        self._changes = [] if like_but is None else parse_changes(like_but)
        self._gallery = _open(source, exact=exact)
        self.subspaces = list(self._gallery.meta["subspaces"])
        if weights is None:  # equal weights for the rest
            equal = dict.fromkeys(self.subspaces, 1.0)
            weights = equal if self._changes else default_weights(self.subspaces)
        for name in weights:
            check_subspace(name, self.subspaces, source)
        if where is not None:
            parse_where(where, self._gallery.columns)
        self.labeled = [name for name, column in LABELS.items() if column in self._gallery.columns]
        self._query = Query(weights, k, where)
        self._exclude_same_file = exclude_same_file
        self._root = root
        self._model = model
        self._device = device
        self._ways: list[str] = []
        self._can_embed = True

    @property
    def notes(self) -> list[str]:
        """Notes on how the search was done."""
        by = ", ".join(
            name if len(self._query.weights) == 1 and weight > 0 else f"{name}={weight:g}"
            for name, weight in self._query.weights.items()
        )
        return [*self._ways, f"by {by}; {self._gallery.note}"]

    def ask(self, text: str) -> list[Hit]:
        """The results of one query, best first.

        Raises:
            UsageError: neither a row nor a file, the library's model is not found, or the query
                cannot be shifted.
            InputError: the file is not audio.
        """
        found = self._gallery.find(text)
        if isinstance(found, FileQuery):
            same = found.rows
            vectors = self._gallery.ready(self._vectors_of(found.file))
        else:
            same = frozenset({found.path})
            vectors = self._gallery.query_of(found)
        query = self._query
        if self._exclude_same_file or self._changes:
            query = replace(query, exclude=query.exclude | same)
        if self._changes:
            query = self._shifted(found, vectors, query)
        return self._gallery.search(vectors, query)

    def labels(self, hits: list[Hit]) -> list[dict[str, Any]]:
        """Title, artist, key, Camelot code and bpm of each result, as far as they are known."""
        gallery = self._gallery
        if isinstance(gallery, Library):
            return [gallery.labels_of(hit.row) for hit in hits]
        from loev_cli.search.database import lance_errors, paths_filter

        names = sorted({name for name in LABELS.values() if name in gallery.columns})
        if not hits:
            return []
        wanted = paths_filter([hit.path for hit in hits])
        with lance_errors(gallery.source):
            found = gallery.table.to_table(columns=["path", *names], filter=wanted).to_pylist()
        of_path = {row.pop("path"): labels(row) for row in found}
        return [of_path[hit.path] for hit in hits]

    def root_of(self, paths: Sequence[str]) -> Path | None:
        """The folder that these rows are relative to; None if it is not found."""
        return self._root or audio_root(self._gallery.source, self._gallery.meta, paths)

    def can_go_on(self, error: LoevError) -> bool:
        """Whether the next query may succeed."""
        return self._can_embed and isinstance(error, InputError | UsageError)

    def _shifted(
        self, found: RowQuery | FileQuery, vectors: dict[str, Vectors], query: Query
    ) -> Query:
        """Shift the vectors in place; returns the query to search with."""
        gallery = self._gallery
        if isinstance(found, FileQuery):
            asked = Asked(gallery.meta, found.file)
        else:
            root = self.root_of([found.path])
            file = None if root is None else root / path_of_row(found.path)
            asked = Asked(
                gallery.meta,
                file if file is not None and file.is_file() else None,
                partial(gallery.raw_of, found),
                partial(gallery.value, found),
            )
        wheres = [] if query.where is None else [query.where]
        weights = dict(query.weights)
        for change in self._changes:
            moved = move(change, asked, self._vectors_of)
            if moved.how not in self._ways:
                self._ways.append(moved.how)
            vectors |= gallery.ready(moved.vectors)
            if moved.where is not None:
                wheres.append(moved.where)
                weights.pop(change.attribute, None)
        where = " and ".join(f"({each})" for each in wheres) or None
        return replace(query, where=where, weights=weights or default_weights(self.subspaces))

    def _vectors_of(self, file: Path, speed: float = 1.0) -> dict[str, Vectors]:
        return self._embedder.embed_file(file, hop_s=self._gallery.meta["hop_s"], speed=speed)

    @cached_property
    def _embedder(self) -> Model:
        self._can_embed = False  # until it does
        model = model_of(self._gallery.meta, model=self._model, device=self._device)
        self._can_embed = True
        return model


def _open(source: Path, *, exact: bool) -> Library | Database:
    if not exact and source.is_dir() and source.suffix.lower() not in FOLDERS:
        from loev_cli.search.database import Database

        database = Database(source)
        if database.is_indexed:
            return database
    return open_library(source)


def model_of(meta: Meta, *, model: str | None = None, device: str = "auto") -> Model:
    """The model that made a library, with the library's subspaces.

    With the library's ``hop_s``, :meth:`loev_cli.api.Model.embed_file` gives the vectors that
    ``loev embed`` gave.

    Args:
        meta: of the library.
        model: the model's folder or name; default the name that ``meta`` has.
        device: as :func:`loev_cli.backends.open_encoder` takes it.

    Raises:
        UsageError: the model is not found, or is not the library's.
        BundleError: it is damaged.
    """
    from loev_cli.api import Model  # and with it soundfile and onnxruntime
    from loev_cli.backends import open_encoder

    wanted = f"{meta['model']} ({str(meta['model_sha256'])[:12]})"
    try:
        bundle = bundles.find(model or str(meta["model"]))
    except UsageError as error:
        if model:
            raise
        raise UsageError(
            f"querying by audio needs the model used to embed the library, {wanted}, which was not "
            "found",
            hint="pass its folder with --model",
        ) from error
    if not is_made_by(meta, bundle):
        hint = "pass the folder of the library's model with --model, or embed the library again"
        raise not_made_by(bundle, meta, "the library was", hint=hint)
    return Model(open_encoder(bundle, device=device, subspaces=list(meta["subspaces"])))
