"""Join embedding files: the parts of an array job, or libraries that were embedded alike."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from loev_cli.embed.journal import Journal, stamps_of
from loev_cli.embed.parts import Stamp
from loev_cli.embed.report import check_failures, read_failures, write_failures
from loev_cli.embed.request import Shard, parse_shard
from loev_cli.errors import UsageError
from loev_cli.formats import (
    AGREEING_KEYS,
    ANNOTATIONS,
    AUDIO_ROOT,
    ONNX_SHA256,
    SPACE,
    STDOUT,
    Meta,
    Row,
    check_agree,
    check_output,
    open_writer,
    read_meta,
    rows,
)
from loev_cli.storage.replacing import check_earlier, check_no_input

# Parts may have been made on machines of different kinds.
_MACHINE_KEYS = ("backend", "device", "precision", "loev_version")
_ORIGIN_KEYS = ("backend", "device", "precision", ONNX_SHA256)

_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Merged:
    """What came of it: parts joined, rows written, rows that were in several parts alike."""

    n_parts: int
    n_rows: int
    n_repeated: int


def merge(
    parts: Sequence[str],
    out: str,
    *,
    shards: int | None = None,
    allow_missing: bool = False,
    overwrite: bool = False,
) -> Merged:
    """Write the rows of all ``parts`` to ``out``, sorted, a few at a time.

    Lists of failures beside the parts are joined too, and so is what is known of which file each
    row is of, so that ``loev embed`` can bring the result up to date.

    Args:
        parts: embedding files of any format.
        shards: that so many parts make the whole.
        allow_missing: missing parts of an array job are not an error.
        overwrite: ``out`` may exist.

    Raises:
        UsageError: the parts were not made alike, a part is missing, or there are two different
            rows of one name.
        OutputError: it cannot be written.
    """
    if out == STDOUT:
        raise UsageError("parts are merged into a file", hint="name a file with --out")
    check_output(out)
    check_no_input(Path(out), parts, called="parts")
    check_failures(out, parts, overwrite=overwrite)
    metas = {part: read_meta(Path(part)) for part in parts}
    check_agree(metas, keys=(*AGREEING_KEYS, "subspaces", "tags", ANNOTATIONS, SPACE))
    if not allow_missing:
        _check_complete(metas, shards)
    check_earlier(Path(out), None, overwrite=overwrite)
    meta = _joined_meta(list(metas.values()))
    n_rows, n_repeated = 0, 0

    def commit(before_replace: Callable[[Path], None]) -> None:
        nonlocal n_rows, n_repeated
        with open_writer(out, meta, before_replace=before_replace) as writer:
            for row in _merged_rows(parts):
                if row is None:
                    n_repeated += 1
                    continue
                writer.add(row)
                n_rows += 1
            writer.commit()

    with Journal(Path(out), meta, overwrite=True) as journal:
        if len(journal) and not overwrite:
            raise UsageError(
                f"{journal.folder} contains rows of an unfinished run",
                hint="finish it with the same 'loev embed', or discard it with --overwrite",
            )
        journal.note_origin({key: meta[key] for key in _ORIGIN_KEYS if key in meta})
        journal.settle(commit, stamps=_joined_stamps(metas))
    names = {failure.path: failure for part in parts for failure in read_failures(part)}
    write_failures(out, [names[path] for path in sorted(names)])
    return Merged(len(parts), n_rows, n_repeated)


def _merged_rows(parts: Sequence[str]) -> Iterator[Row | None]:
    """Rows in order of their names; None for one that repeats the row before it."""
    previous: tuple[str, Row] | None = None
    for part, row in heapq.merge(*map(_rows_of, parts), key=lambda item: item[1].path):
        if previous is None or previous[1].path != row.path:
            yield row
            previous = part, row
        elif _are_equal(previous[1], row):
            yield None
        else:
            raise UsageError(
                f"{previous[0]} and {part} have different rows of {row.path!r}",
                hint="embed the folders together, or rename one of them",
            )


def _rows_of(part: str) -> Iterator[tuple[str, Row]]:
    return ((part, row) for row in rows(Path(part)))


def _are_equal(row: Row, other: Row) -> bool:
    """As far as two runs on the same file are: see the guarantees in docs/embed.md."""

    def same(a: object, b: object) -> bool:
        a, b = np.asarray(a), np.asarray(b)
        return a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=_TOLERANCE))

    return (
        (np.float32(row.duration_s), row.silent) == (np.float32(other.duration_s), other.silent)
        and all(same(row.vectors[name], other.vectors[name]) for name in row.vectors)
        and (row.start_s is None or same(row.start_s, other.start_s))
        and row.tags == other.tags
        and all(_say_the_same(value, other.annotations[c]) for c, value in row.annotations.items())
    )


def _say_the_same(value: float | str, other: float | str) -> bool:
    if isinstance(value, str) or isinstance(other, str):
        return value == other
    return math.isclose(value, other, rel_tol=1e-3) or (math.isnan(value) and math.isnan(other))


def _check_complete(metas: Mapping[str, Meta], n_shards: int | None) -> None:
    """Every part of each array job is there once, and of ``n_shards`` if that many are asked for.

    Raises:
        UsageError: naming what is missing, or there twice.
    """
    found: dict[Shard, str] = {}
    for part, meta in metas.items():
        if meta.get("shard") is None:
            if n_shards is not None:
                raise UsageError(
                    f"{part} was not created with --shard, so it is not one of {n_shards}"
                )
            continue
        shard = parse_shard(str(meta["shard"]), {})
        if n_shards not in (None, shard.count):
            raise UsageError(f"{part} is part {shard}, not one of {n_shards}")
        if shard in found:
            raise UsageError(f"{found[shard]} and {part} are both part {shard}")
        found[shard] = part
    counts = {shard.count for shard in found}
    if len(counts) > 1:
        raise UsageError(f"shard counts differ: {' and '.join(map(str, sorted(counts)))}")
    count = n_shards or next(iter(counts), 0)
    missing = [str(i) for i in range(1, count + 1) if Shard(i, count) not in found]
    if missing:
        shown = ", ".join(missing[:10]) + (" ..." if len(missing) > 10 else "")
        raise UsageError(
            f"{len(missing)} of {count} parts missing: {shown}",
            hint="--allow-missing merges without them",
        )


def _joined_meta(metas: Sequence[Meta]) -> Meta:
    meta = {key: value for key, value in metas[0].items() if key != "shard"}
    for key in _MACHINE_KEYS:
        values = dict.fromkeys(str(other.get(key)) for other in metas)
        meta[key] = ", ".join(values)
    for other in metas:
        if ONNX_SHA256 in other:
            meta[ONNX_SHA256] = other[ONNX_SHA256]
        if other.get(AUDIO_ROOT) != meta.get(AUDIO_ROOT):
            meta[AUDIO_ROOT] = None
    meta["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    return meta


def _joined_stamps(metas: Mapping[str, Meta]) -> dict[str, Stamp | None]:
    stamps: dict[str, Stamp | None] = {}
    for part, meta in metas.items():
        stamps |= stamps_of(Path(part), meta)
    return stamps
