"""Group-aware train/validation split: no recording and no group on both sides."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from loev_cli.train.data.rows import Track


def split(
    tracks: Sequence[Track], *, val_fraction: float, seed: int
) -> tuple[list[Track], list[Track]]:
    """Training and validation tracks, each in the order given.

    Tracks with the same bytes or of the same group stay together. Where a manifest names tracks to
    validate on, those are taken, with what must stay with them; otherwise ``val_fraction`` of the
    tracks. These are drawn by a hash of their content, or group, and ``seed``, so that adding
    tracks moves few others. One track alone is no validation: then there is none.
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
    unit = f"group {track.group}" if track.group else f"digest {track.digest}"
    return hashlib.blake2b(f"{seed} {unit}".encode(), digest_size=16).digest()


def _clusters(tracks: Sequence[Track]) -> list[list[int]]:
    """Indices of tracks that a chain of equal bytes and equal groups joins."""
    of_unit: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, track in enumerate(tracks):
        of_unit["digest", track.digest].append(i)
        if track.group:
            of_unit["group", track.group].append(i)
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
