"""Embeddings of the labeled tracks: by the reference model, also augmented, and by trained ones.

They are cached in a folder, under a key of all that they depend on, so that other labels of the
same tracks need no re-embedding. A cache file that cannot be read is made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from loev_cli import bundle as bundles
from loev_cli.backends.machine import usable_cpus
from loev_cli.bundle import Bundle
from loev_cli.errors import InputError, UsageError
from loev_cli.evaluate.job import Event, Skipped, Stage
from loev_cli.evaluate.manifest import Manifest
from loev_cli.evaluate.vectors import CONCATENATION, with_concatenation
from loev_cli.experiments.advise_evidence import Vectors, compact
from loev_cli.experiments.augmented import AugmentedEmbedder, Draw, Subspaces
from loev_cli.files.own import make_own_folder
from loev_cli.model import load_model
from loev_cli.model.frontend import FrontendConfig
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Cache, Listed, Track, default_cache, load_tracks
from loev_cli.writers.atomic import writing_own


class LabelledEmbedder:
    """Embeds labeled tracks with one model after the other.

    Args:
        config: of training; its augmentations change the tracks.
        cache: folder of decoded tracks; None for the usual one.
        kept: folder of the cached embeddings.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        device: torch.device,
        cache: Path | None,
        kept: Path,
        on_event: Callable[[Event], None],
    ) -> None:
        self._config = config
        self._device = device
        self._cache = Cache(cache or default_cache())
        self._kept = kept
        self._tell = on_event

    def reference(
        self,
        bundle: Bundle,
        manifest: Manifest,
        draws: Mapping[str, Sequence[Draw]],
        *,
        on_features: bool,
    ) -> tuple[Vectors, dict[str, Vectors], Manifest]:
        """Unchanged (N, D); augmentation -> (M, N, D); the manifest without unreadable tracks.

        Raises:
            UsageError: no track can be read.
        """
        every = [None, *(draw for drawn in draws.values() for draw in drawn)]
        vectors, rows = self._embed(
            bundle,
            manifest,
            every,
            "embedding augmentations",
            on_features=on_features,
            plain=True,
        )
        if not len(rows):
            raise UsageError("none of the labeled files can be used")
        n_tracks = len(rows)
        flat = {name: x.reshape(len(every) * n_tracks, -1) for name, x in vectors.items()}
        x = _whole(flat).reshape(len(every), n_tracks, -1)
        changed: dict[str, Vectors] = {}
        first = 1
        for name, drawn in draws.items():
            changed[name] = x[first : first + len(drawn)]
            first += len(drawn)
        return x[0], changed, manifest.select(rows.tolist())

    def trained(self, folder: Path, manifest: Manifest, name: str) -> Vectors:
        """Unchanged tracks (N, D) by a trained model.

        Raises:
            UsageError: a track that could be read before cannot be any more.
        """
        vectors, rows = self._embed(bundles.load(folder), manifest, [None], f"embedding by {name}")
        if len(rows) < len(manifest):
            raise UsageError(
                f"{len(manifest) - len(rows)} labeled files were changed or removed during the run",
                hint="run the command again",
            )
        return _whole({subspace: x[0] for subspace, x in vectors.items()})

    def _embed(
        self,
        bundle: Bundle,
        manifest: Manifest,
        draws: Sequence[Draw | None],
        stage: str,
        *,
        on_features: bool | None = None,
        plain: bool = False,
    ) -> tuple[Subspaces, NDArray[np.int64]]:
        """name -> (draws, N, D), and the N rows of the manifest."""
        model = load_model(bundle)
        if on_features is None:
            on_features = isinstance(model.spec.frontend, FrontendConfig)
        embedder = AugmentedEmbedder(
            model, self._config, on_features=on_features, device=self._device, plain=plain
        )
        tracks = self._tracks(embedder, manifest)
        key = _key(
            bundle.sha256,
            [track.digest for track in tracks.values()],
            [draw and [draw.augmentation, draw.params.tolist(), draw.seed] for draw in draws],
            dataclasses.asdict(self._config.augmentations),
            [self._config.max_track_s, on_features, plain],
        )
        file = self._kept / f"{key}.npz"
        found = _read(file)
        if found is None:

            def on_track(done: int, error: InputError | None) -> None:
                if error is not None:
                    self._tell(Skipped(error.message))
                self._tell(Stage(stage, done, len(tracks)))

            vectors, places = embedder.embed(list(tracks.values()), draws, on_track=on_track)
            found = vectors, places
            if len(places) == len(tracks):
                _write(file, vectors, places)
        vectors, places = found
        return vectors, np.array(list(tracks), np.int64)[places]

    def _tracks(self, embedder: AugmentedEmbedder, manifest: Manifest) -> dict[int, Track]:
        """Row of the manifest -> track, of the files that can be read."""
        tracks, skipped = load_tracks(
            [Listed(file) for file in manifest.files],
            embedder.content,
            self._cache,
            max_track_s=self._config.max_track_s,
            n_workers=usable_cpus(),
            on_progress=lambda done, total: self._tell(Stage("reading", done, total)),
        )
        for one in skipped:
            self._tell(Skipped(f"{one.path}: {one.error}"))
        row_of = {file: row for row, file in enumerate(manifest.files)}
        return {row_of[track.path]: track for track in tracks}


def _whole(subspaces: Mapping[str, Vectors]) -> Vectors:
    """All subspaces (n, D) side by side, in as many dimensions as a probe can use."""
    together = with_concatenation(subspaces)
    return compact(together.get(CONCATENATION, next(iter(together.values()))))


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _read(file: Path) -> tuple[Subspaces, NDArray[np.int64]] | None:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            vectors = dict(arrays)
            return vectors, vectors.pop("places")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(file: Path, vectors: Subspaces, places: NDArray[np.int64]) -> None:
    make_own_folder(file.parent)
    with writing_own(file) as stream:
        np.savez(stream, allow_pickle=False, places=places, **vectors)
