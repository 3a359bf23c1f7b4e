"""DATA as typed -> its audio files, each once.

folder             searched, sorted
files.txt          one path a line, relative to the list; also .lst, .m3u, .m3u8
manifest           .csv or .parquet, see loev_cli/manifest.py: has split and group too, and for
                   training with variants the column track and one for each kind of variant
"""

from __future__ import annotations

import codecs
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from loev_cli import audio
from loev_cli.errors import UsageError, did_you_mean
from loev_cli.manifest import SUFFIXES, TRACK, Listed, each_once, read_rows
from loev_cli.train.augment import EQUIVARIANT

_LIST_SUFFIXES = (".txt", ".lst", ".m3u", ".m3u8")


def listing(data: str, variants: Sequence[str] = ()) -> list[Listed]:
    """The audio files that DATA means, in its order; a file that is named twice is one track.

    Args:
        variants: columns of a manifest that say which variant of its ``track`` a file is.

    Raises:
        UsageError: nothing there, no audio in it, or a manifest as
            :func:`loev_cli.manifest.read_rows` says, or without the variants.
    """
    path = Path(data)
    suffix = path.suffix.lower()
    if path.is_dir():
        named: Iterable[Listed] = (Listed(source.file) for source in audio.find([data]))
    elif not path.is_file():
        raise UsageError(f"no such folder or file: {data}")
    elif suffix in SUFFIXES:
        rows = read_rows([path], with_labels=bool(variants))
        for name in variants:
            _check_variants(path, rows, name)
        return rows
    elif suffix in _LIST_SUFFIXES:
        named = _of_list(path)
    else:
        raise UsageError(
            f"{data} is neither a folder, a manifest (.csv, .parquet) nor a list of paths (.txt)"
        )
    listed = each_once(named)
    if not listed:
        raise UsageError(f"no audio files in {data}")
    return listed


def _check_variants(path: Path, rows: Sequence[Listed], name: str) -> None:
    columns = rows[0].labels
    if name not in columns:
        known = (*EQUIVARIANT, *columns)
        raise UsageError(
            f"no augmentation '{name}', and no column '{name}' in {path}",
            hint=f"{did_you_mean(name, known)}augmentations: {', '.join(EQUIVARIANT)}",
        )
    if TRACK not in columns:
        raise UsageError(
            f"{path} has no column '{TRACK}'",
            hint=f"it says which rows are of one work and differ in '{name}'",
        )
    works: dict[str, list[Listed]] = defaultdict(list)
    for row in rows:
        if row.labels[TRACK] and row.split != "test":
            works[row.labels[TRACK]].append(row)
    for work, its_rows in works.items():
        for row in its_rows:
            if not row.labels[name] and len(its_rows) > 1:
                raise UsageError(
                    f"{row.place}: '{name}' is empty, and track '{work}' has several rows",
                    hint="say which variant it is",
                )
    if all(len({row.labels[name] for row in its_rows}) < 2 for its_rows in works.values()):
        raise UsageError(
            f"{path}: no track has two variants of '{name}'",
            hint=f"rows of one work need the same '{TRACK}' and different '{name}'",
        )


def variant_number(name: str, row: Listed) -> int:
    """A number for the row's variant, the same wherever the cell is; an empty cell has its own."""
    cell = row.labels[name] or f"only {os.path.realpath(row.path)}"
    digest = hashlib.blake2b(f"{name} {cell}".encode(errors="surrogateescape"), digest_size=7)
    return int.from_bytes(digest.digest(), "big")


def _of_list(path: Path) -> Iterator[Listed]:
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise UsageError(f"cannot read list {path}: {error.strerror}") from error
    for line in lines:
        if line.strip() and not line.startswith(b"#"):
            yield Listed(path.parent / os.fsdecode(line))
