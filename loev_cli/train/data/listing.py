"""DATA as typed -> its audio files, each once; tracks -> those to train and to validate on.

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
from dataclasses import replace
from pathlib import Path

from loev_cli import audio
from loev_cli.errors import UsageError, did_you_mean
from loev_cli.manifest import SUFFIXES, TRACK, Listed, each_once, read_rows
from loev_cli.train.augment import EQUIVARIANT
from loev_cli.train.data.rows import Track

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


def of_works(tracks: Sequence[Track]) -> list[Track]:
    """One track for all files of a work, in the order of the first; others as they are."""
    takes: dict[str | Track, list[Track]] = defaultdict(list)
    for track in tracks:
        takes[track.work or track].append(track)
    return [replace(t[0], takes=tuple(t)) if len(t) > 1 else t[0] for t in takes.values()]


def _of_list(path: Path) -> Iterator[Listed]:
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise UsageError(f"cannot read list {path}: {error.strerror}") from error
    for line in lines:
        if line.strip() and not line.startswith(b"#"):
            yield Listed(path.parent / os.fsdecode(line))


def split(
    tracks: Sequence[Track], *, val_fraction: float, seed: int
) -> tuple[list[Track], list[Track]]:
    """Training and validation tracks, each in the order given.

    Tracks with the same bytes, of the same group or work stay together. Where a manifest names
    tracks to validate on, those are taken, with what must stay with them; otherwise
    ``val_fraction`` of the tracks. These are drawn by a hash of their content, or group, and
    ``seed``, so that adding tracks moves few others. One track alone is no validation: then there
    is none.
    """
    clusters = _clusters(tracks)
    is_named = any(track.split == "val" for track in tracks)
    if is_named:
        chosen = [c for c in clusters if any(tracks[i].split == "val" for i in c)]
    else:
        free = [c for c in clusters if all(tracks[i].split is None for i in c)]
        chosen = _draw(tracks, free, round(val_fraction * len(tracks)), seed)
    held_out = {i for cluster in chosen for i in cluster}
    val = [track for i, track in enumerate(tracks) if i in held_out]
    train = [track for i, track in enumerate(tracks) if i not in held_out]
    if len(val) < 2:
        # A track that is named for validation is not trained on even if it is the only one.
        return (train if is_named else list(tracks)), []
    return train, val


def _draw(
    tracks: Sequence[Track], clusters: Sequence[list[int]], n_wanted: int, seed: int
) -> list[list[int]]:
    """Clusters in the order of their hashes until ``n_wanted`` tracks are reached.

    A cluster that would leave less than half of the tracks to train on is passed over.
    """
    most = max(n_wanted, len(tracks) // 2)
    chosen: list[list[int]] = []
    n_chosen = 0
    for cluster in sorted(clusters, key=lambda c: min(_draw_key(tracks[i], seed) for i in c)):
        if n_chosen >= n_wanted:
            break
        if n_chosen + len(cluster) <= most:
            chosen.append(cluster)
            n_chosen += len(cluster)
    return chosen


def _draw_key(track: Track, seed: int) -> bytes:
    unit = f"digest {track.digest}"
    if track.group or track.work:
        unit = f"group {track.group or track.work}"
    return hashlib.blake2b(f"{seed} {unit}".encode(), digest_size=16).digest()


def _clusters(tracks: Sequence[Track]) -> list[list[int]]:
    """Indices of tracks that a chain of equal bytes, groups and works joins."""
    of_unit: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, track in enumerate(tracks):
        of_unit["digest", track.digest].append(i)
        if track.group:
            of_unit["group", track.group].append(i)
        if track.work:
            of_unit["work", track.work].append(i)
    parent = list(range(len(tracks)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for members in of_unit.values():
        for i in members[1:]:
            parent[root(i)] = root(members[0])
    clusters: dict[int, list[int]] = defaultdict(list)
    for i in range(len(tracks)):
        clusters[root(i)].append(i)
    return list(clusters.values())
