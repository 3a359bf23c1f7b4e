"""Create or update a database from an embedding file: ``loev index``.

The embedding file is read twice, a few rows at a time: first for the means and a digest of every
row, then for the rows that are new or have changed. Rows that are no longer in it are dropped.
Every step leaves a consistent version of the table; the next run completes an interrupted one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import OutputError, UsageError, needs_extra
from loev_cli.formats import AGREEING_KEYS, Meta, Row, check_agree, read_meta
from loev_cli.formats.meta import to_json
from loev_cli.search import database as db
from loev_cli.search.library import Centering, Vectors, pooled_meta, pooled_rows
from loev_cli.storage.replacing import check_no_input

with needs_extra("loev index", "db"):
    import lance
    import pyarrow as pa

    from loev_cli.formats.tables import Tabulator

# The means may move by this share of the vectors' typical length before all rows are rewritten.
_MAX_DRIFT = 0.01
# An index is retrained if more than this share of its rows has changed.
_MAX_CHANGED = 0.3
_PATHS_AT_ONCE = 500
# All partitions are searched: they only make the codes finer, which tell a row from its center.
_ROWS_PER_PARTITION = 4000
_BITS_PER_VALUE = 3
_KEEP_OLD = timedelta(minutes=10)  # the previous version may be in use
_SETTINGS = (*AGREEING_KEYS, "subspaces", "tags", "annotations")


@dataclass(frozen=True)
class Indexed:
    """The result of indexing.

    Attributes:
        n_rows: tracks in the database now.
        n_added, n_changed, n_dropped: since it was last made.
        is_indexed: whether it has an index; a small database has none, and is searched exactly.
        is_new: whether all rows were rewritten.
    """

    n_rows: int
    n_added: int
    n_changed: int
    n_dropped: int
    is_indexed: bool
    is_new: bool


@dataclass(frozen=True)
class _Survey:
    """The first reading: path -> digest, and per subspace the mean and the typical length."""

    digests: dict[str, int]
    centers: dict[str, Vectors]
    lengths: dict[str, float]


Progress = Callable[[str], None]


def index(
    emb: Path, folder: Path, *, overwrite: bool = False, on_step: Progress = lambda step: None
) -> Indexed:
    """Make the database in ``folder`` hold the rows of an embedding file.

    Args:
        on_step: called at the start of each step.

    Raises:
        UsageError: no such file, one without rows or with NaN, or a folder that holds something
            else or the embeddings of another model or with other settings.
        OutputError: the folder cannot be written.
    """
    check_no_input(db.table_of(folder), [emb])
    meta = pooled_meta(read_meta(emb))
    old = _existing(folder, meta, emb, overwrite=overwrite)
    on_step(f"reading {emb}")
    survey = _survey(emb, meta)
    if not survey.digests:
        raise UsageError(f"{emb} holds no tracks", hint="create embeddings with loev embed")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with db.lance_errors(folder):
            return _bring_up_to_date(emb, folder, meta, old, survey, on_step)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error


def _bring_up_to_date(
    emb: Path,
    folder: Path,
    meta: Meta,
    old: db.Database | None,
    survey: _Survey,
    on_step: Progress,
) -> Indexed:
    uri = str(db.table_of(folder))
    kept = {} if old is None else _digests(old)
    gone = [path for path in kept if path not in survey.digests]
    changed = [p for p, digest in kept.items() if survey.digests.get(p, digest) != digest]
    n_added = len(survey.digests) - (len(kept) - len(gone))
    n_new = n_added + len(changed)
    is_new = (
        old is None
        or db.UNITS_COLUMN not in old.table.schema.names  # made by loev before November 2026
        or _drifted(old.centers, survey)
        or len(gone) == len(kept)
    )
    if is_new or old is None:
        on_step(f"writing {len(survey.digests)} rows")
        written = _tables(emb, meta, survey, survey.centers, set(survey.digests))
        lance.write_dataset(written, uri, mode="overwrite")
    elif gone or n_new:
        on_step(f"dropping {len(gone)} rows, writing {n_new}")
        outdated = gone + changed
        for start in range(0, len(outdated), _PATHS_AT_ONCE):
            old.table.delete(db.paths_filter(outdated[start : start + _PATHS_AT_ONCE]))
        if n_new:
            fresh = {path for path, digest in survey.digests.items() if kept.get(path) != digest}
            written = _tables(emb, meta, survey, old.centers, fresh)
            lance.write_dataset(written, uri, mode="append")
    share = (n_new + len(gone)) / max(1, len(kept))
    _index(folder, retrain=is_new or share > _MAX_CHANGED, on_step=on_step)
    now = db.Database(folder)
    return Indexed(now.n_rows, n_added, len(changed), len(gone), now.is_indexed, is_new)


def _index(folder: Path, *, retrain: bool, on_step: Progress) -> None:
    """An index of the paths, and of the vectors if there are enough rows."""
    table = lance.dataset(str(db.table_of(folder)))
    table.optimize.compact_files()
    is_there = db.UNITS_INDEX in {index.name for index in table.describe_indices()}
    n_rows = table.count_rows()
    if n_rows < db.INDEX_FROM_N_ROWS:
        if is_there:
            table.drop_index(db.UNITS_INDEX)
    elif retrain or not is_there:
        on_step(f"indexing {n_rows} rows")
        table.create_index(
            db.UNITS_COLUMN,
            "IVF_RQ",
            name=db.UNITS_INDEX,
            metric="dot",
            replace=True,
            num_partitions=max(1, n_rows // _ROWS_PER_PARTITION),
            num_bits=_BITS_PER_VALUE,
        )
    table.create_scalar_index("path", "BTREE", name="path_idx", replace=True)
    if not retrain:
        table.optimize.optimize_indices()
    table.cleanup_old_versions(older_than=_KEEP_OLD)


def _existing(folder: Path, meta: Meta, emb: Path, *, overwrite: bool) -> db.Database | None:
    """The existing database, if it can be updated."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, not a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    if not db.is_database(folder):
        raise UsageError(f"{folder} is not empty and was not created by 'loev index'")
    if overwrite:
        shutil.rmtree(db.table_of(folder))
        return None
    old = db.Database(folder)
    try:
        check_agree({str(folder): old.meta, str(emb): meta}, keys=_SETTINGS)
    except UsageError as error:
        raise UsageError(error.message, hint="--overwrite rebuilds the database") from error
    return old


def _survey(emb: Path, meta: Meta) -> _Survey:
    digests: dict[str, int] = {}
    centering = {
        name: Centering(dim, f"{emb}: '{name}'") for name, dim in meta["subspaces"].items()
    }
    squares = dict.fromkeys(centering, 0.0)
    for row in pooled_rows(emb):
        digests[row.path] = _digest(row)
        for name, x in row.vectors.items():
            centering[name].add(x[None])
            squares[name] += float(np.dot(x, x))
    n = max(1, len(digests))
    centers = {name: each.center for name, each in centering.items()}
    variances = {
        name: max(0.0, squares[name] / n - float(np.square(each.total / n).sum()))
        for name, each in centering.items()
    }
    return _Survey(digests, centers, {name: float(np.sqrt(v)) for name, v in variances.items()})


def _drifted(centers: Mapping[str, Vectors], survey: _Survey) -> bool:
    """Whether the means have moved too far for the stored rows to be kept."""
    return any(
        float(np.linalg.norm(center - survey.centers[name])) > _MAX_DRIFT * survey.lengths[name]
        for name, center in centers.items()
    )


def _digest(row: Row) -> int:
    """A 64-bit hash of all values of a row."""
    said = {field.name: getattr(row, field.name) for field in fields(row)}
    del said["vectors"]
    text = json.dumps(said, sort_keys=True, default=_plain)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    for name in sorted(row.vectors):
        digest.update(np.ascontiguousarray(row.vectors[name], np.float32).tobytes())
    return int.from_bytes(digest.digest(), "little", signed=True)


def _plain(value: Any) -> Any:
    """JSON-compatible NumPy scalars and mappings."""
    return dict(value) if isinstance(value, Mapping) else value.item()


def _digests(database: db.Database) -> dict[str, int]:
    table = database.table.to_table(columns=["path", db.DIGEST_COLUMN])
    paths, digests = table["path"].to_pylist(), table[db.DIGEST_COLUMN].to_pylist()
    return dict(zip(paths, digests, strict=True))


def _tables(
    emb: Path, meta: Meta, survey: _Survey, centers: Mapping[str, Vectors], wanted: set[str]
) -> pa.RecordBatchReader:
    """The wanted rows of a file, as batches for Lance."""
    tabulator = Tabulator(meta)
    n_units = db.units({name: c[None] for name, c in centers.items()}).shape[1]
    fields = [
        *tabulator.schema,
        pa.field(db.UNITS_COLUMN, pa.list_(pa.float16(), n_units)),
        pa.field(db.DIGEST_COLUMN, pa.int64()),
    ]
    metadata = {db.META_KEY: to_json(meta), db.CENTERS_KEY: db.centers_text(centers)}
    schema = pa.schema(fields, metadata=metadata)

    def batches() -> Iterator[pa.RecordBatch]:
        for row in pooled_rows(emb):
            if row.path in wanted and (table := tabulator.add(row)) is not None:
                yield from finished(table)
        if (table := tabulator.flush()) is not None:
            yield from finished(table)

    def finished(table: pa.Table) -> Iterator[pa.RecordBatch]:
        centered = {name: db.matrix(table, name) - centers[name] for name in centers}
        columns = [
            vectors_of(centered[name]) if name in centered else table[name].combine_chunks()
            for name in tabulator.schema.names
        ]
        columns.append(vectors_of(db.units(centered).astype(np.float16)))
        digests = [survey.digests[path] for path in table["path"].to_pylist()]
        columns.append(pa.array(digests, pa.int64()))
        yield from pa.Table.from_arrays(columns, schema=schema).to_batches()

    def vectors_of(x: NDArray[Any]) -> pa.FixedSizeListArray:
        return pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])

    return pa.RecordBatchReader.from_batches(schema, batches())
