"""What is trained on, whatever it is: items, and which of them are kept aside to validate on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, TypeVar

from torch import Tensor

AnyItem = TypeVar("AnyItem", bound="Item")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to train on: a track, an image. A domain's own kind adds how it is read.

    An item that several variants are known of is the first of them, with all as ``takes``.

    Attributes:
        path: its file, or a name for it.
        digest: hash of its content.
        split, group: as its manifest says.
        work: the manifest's ``track``; None where nothing is said.
        variant: augmentation -> number of the variant, the same for equal cells anywhere.
        takes: the files of the item, this one first; none where it is the only one.
    """

    path: Path
    digest: str
    split: str | None = None
    group: str | None = None
    work: str | None = None
    variant: Mapping[str, int] = field(default_factory=dict, hash=False)
    takes: tuple[Self, ...] = ()

    @property
    def files(self) -> tuple[Self, ...]:
        """What views may be cut from."""
        return self.takes or (self,)


@dataclass(frozen=True)
class Changes:
    """Rows of model input to validate on, all of the same items.

    Attributes:
        plain: of every item, as it is.
        other_view: another part of it, or another view that should not matter.
        changed: augmentation -> ``plain``, changed by it.
    """

    plain: list[Tensor] = field(default_factory=list)
    other_view: list[Tensor] = field(default_factory=list)
    changed: dict[str, list[Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What can be said of items without reading them.

    Attributes:
        items: those that seem usable, with a digest that need not be the final one.
        unreadable: what is wrong with the others.
        hours: of audio, where there is any.
        n_bytes: what they take in the cache.
    """

    items: list[Item]
    unreadable: tuple[str, ...] = ()
    hours: float = 0.0
    n_bytes: int = 0


def of_works(tracks: Sequence[AnyItem]) -> list[AnyItem]:
    """One track for all files of a work, in the order of the first; others as they are."""
    takes: dict[str | AnyItem, list[AnyItem]] = defaultdict(list)
    for track in tracks:
        takes[track.work or track].append(track)
    return [replace(t[0], takes=tuple(t)) if len(t) > 1 else t[0] for t in takes.values()]


def split(
    tracks: Sequence[AnyItem], *, val_fraction: float, seed: int
) -> tuple[list[AnyItem], list[AnyItem]]:
    """Training and validation items, each in the order given.

    Items with the same bytes, of the same group or work stay together. Where a manifest names
    items to validate on, those are taken, with what must stay with them; otherwise
    ``val_fraction`` of the items: of those without a split, or of all where every one is to train
    on. These are drawn by a hash of their content, or group, and
    ``seed``, so that adding tracks moves few others. One track alone is no validation: then there
    is none.
    """
    clusters = _clusters(tracks)
    is_named = any(track.split == "val" for track in tracks)
    if is_named:
        chosen = [c for c in clusters if any(tracks[i].split == "val" for i in c)]
    else:
        is_open = any(track.split is None for track in tracks)
        free = [c for c in clusters if not is_open or all(tracks[i].split is None for i in c)]
        chosen = _draw(tracks, free, round(val_fraction * len(tracks)), seed)
    held_out = {i for cluster in chosen for i in cluster}
    val = [track for i, track in enumerate(tracks) if i in held_out]
    train = [track for i, track in enumerate(tracks) if i not in held_out]
    if len(val) < 2:
        # A track that is named for validation is not trained on even if it is the only one.
        return (train if is_named else list(tracks)), []
    return train, val


def _draw(
    tracks: Sequence[AnyItem], clusters: Sequence[list[int]], n_wanted: int, seed: int
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


def _draw_key(track: Item, seed: int) -> bytes:
    unit = f"digest {track.digest}"
    if track.group or track.work:
        unit = f"group {track.group or track.work}"
    return hashlib.blake2b(f"{seed} {unit}".encode(), digest_size=16).digest()


def _clusters(tracks: Sequence[AnyItem]) -> list[list[int]]:
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
