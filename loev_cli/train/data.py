"""Training tracks: listed, decoded once, kept as features on disk and read by memory map.

    folder, file list or manifest --tracks_of--> paths
    path --frontend--> <cache>/<key>.npy    float16 (T, F + 2 margins + 4 S)

The key covers path, size, modification time and the frontend's parameters, so runs share the
cache and a changed file is decoded again. Files that cannot be read are skipped and listed; no
other track is put in their place.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from loev_cli import audio
from loev_cli.errors import InputError, LoevError, OutputError, UsageError
from loev_cli.model.frontend import FrontendConfig, LogFrequency

_LIST_SUFFIXES = (".txt", ".lst", ".m3u")
_BLOCK_S = 60.0  # waveform featurised at once; the rest of a long track waits its turn


@dataclass(frozen=True)
class Skipped:
    """A file that gave no training data, and why."""

    path: str
    error: str


def tracks_of(data: str, *, split: str = "train") -> list[Path]:
    """The audio files that DATA means.

    A folder is searched; a ``.csv`` is a manifest with a ``path`` column relative to it, of which
    the rows with ``split`` are taken if it has a ``split`` column; any other text file is a list
    of paths, relative to it.

    Raises:
        UsageError: nothing there, or no audio in it.
    """
    path = Path(data)
    if path.is_dir():
        files = [Path(source.file) for source in audio.find([data])]
    elif path.suffix.lower() == ".csv":
        files = list(_from_manifest(path, split))
    elif path.suffix.lower() in _LIST_SUFFIXES and path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        files = [path.parent / line for line in lines if line and not line.startswith("#")]
    elif path.is_file():
        raise UsageError(
            f"{data} is neither a folder, a manifest (.csv) nor a list of paths (.txt)"
        )
    else:
        raise UsageError(f"no such folder or file: {data}")
    if not files:
        raise UsageError(f"no audio files in {data}")
    return files


def _from_manifest(manifest: Path, split: str) -> Iterator[Path]:
    try:
        with manifest.open(encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream)
            if "path" not in (rows.fieldnames or ()):
                raise UsageError(f"manifest {manifest} has no 'path' column")
            for row in rows:
                if row.get("split", split) == split:
                    yield manifest.parent / row["path"]
    except OSError as error:
        raise UsageError(f"cannot read manifest {manifest}: {error.strerror}") from error


@dataclass(frozen=True)
class Track:
    """Features of one track, memory-mapped."""

    path: Path
    features: np.ndarray  # (T, F + 2 margins + 4 S) float16

    @property
    def n_frames(self) -> int:
        return len(self.features)


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/loev/features`` or its usual place."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "loev" / "features"


def load_tracks(
    files: Sequence[Path],
    frontend: FrontendConfig,
    cache: Path,
    *,
    max_track_s: float,
    n_workers: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Track], list[Skipped]]:
    """Features of ``files`` in their order, from the cache where they are there already.

    Raises:
        OutputError: the cache cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot use the feature cache {cache}: {error.strerror}") from error
    skipped: dict[Path, str] = {}
    entries: dict[Path, Path] = {}
    for file in files:
        try:
            entries[file] = cache / f"{_key(file, frontend, max_track_s)}.npy"
        except OSError as error:
            skipped[file] = f"cannot open {file}: {error.strerror}"
    missing = [file for file, entry in entries.items() if not entry.exists()]
    done = len(files) - len(missing)
    on_progress(done, len(files))
    todo = {file: entries[file] for file in missing}
    with closing(_featurise_all(todo, frontend, max_track_s, n_workers)) as results:
        for file, failure in results:
            if failure is not None:
                skipped[file] = failure
            done += 1
            on_progress(done, len(files))
    tracks = [
        Track(file, np.load(entry, mmap_mode="r"))
        for file, entry in entries.items()
        if file not in skipped
    ]
    return tracks, [Skipped(str(file), error) for file, error in skipped.items()]


def _featurise_all(
    entries: Mapping[Path, Path], frontend: FrontendConfig, max_track_s: float, n_workers: int
) -> Generator[tuple[Path, str | None], None, None]:
    """Fill the cache in parallel; each file as it is done, with its error if it has one."""
    if not entries:
        return
    # Fresh processes: forking one that has torch's threads running can hang.
    with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:
        jobs: dict[Future[None], Path] = {
            pool.submit(_featurise, file, entry, frontend, max_track_s): file
            for file, entry in entries.items()
        }
        try:
            for job in as_completed(jobs):
                try:
                    job.result()
                except InputError as error:
                    yield jobs[job], str(error)
                except OSError as error:
                    raise OutputError(f"cannot write the feature cache: {error}") from error
                else:
                    yield jobs[job], None
        finally:
            # Stopped early, nothing that still waits is worth waiting for.
            pool.shutdown(wait=True, cancel_futures=True)


def _key(file: Path, frontend: FrontendConfig, max_track_s: float) -> str:
    stat = file.stat()
    identity = [str(file.resolve()), stat.st_size, stat.st_mtime_ns, asdict(frontend), max_track_s]
    return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()


def _featurise(file: Path, entry: Path, config: FrontendConfig, max_track_s: float) -> None:
    torch.set_num_threads(1)
    waveform = audio.load(file, config.sample_rate_hz)[: int(max_track_s * config.sample_rate_hz)]
    features = track_features(waveform, LogFrequency(config))
    draft = entry.with_name(f".{entry.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as stream:
            np.save(stream, features)
        draft.replace(entry)
    finally:
        draft.unlink(missing_ok=True)


def track_features(waveform: np.ndarray, frontend: LogFrequency) -> np.ndarray:
    """Waveform (N,) -> (T, F + 2 margins + 4 S) float16, T = ceil(N / hop), log power."""
    config = frontend.config
    block = int(_BLOCK_S * config.sample_rate_hz)
    block -= block % frontend.block_n_samples
    parts = []
    for start in range(0, len(waveform), block):
        part = waveform[start : start + block]
        n_frames = -(-len(part) // config.spectrum_hop)
        n_padded = -(-len(part) // frontend.block_n_samples) * frontend.block_n_samples
        # The deepest octave reflects a kernel's length at its edges and needs that much signal.
        padded = np.zeros(max(n_padded, config.kernel_n_samples << config.n_octaves), np.float32)
        padded[: len(part)] = part
        with torch.inference_mode():
            spectrum, bands = frontend(torch.from_numpy(padded)[None])
        per_frame = bands[0].T.reshape(-1, config.bands_per_frame * config.n_bands)
        parts.append(torch.cat([spectrum[0].T, per_frame], dim=1)[:n_frames].half().numpy())
    return np.concatenate(parts)


def require_enough(tracks: Sequence[Track], skipped: Sequence[Skipped], batch_size: int) -> None:
    """Raises LoevError where there are fewer usable tracks than a batch needs."""
    if not tracks:
        raise LoevError(
            f"none of {len(skipped)} files could be read", hint=f"first: {skipped[0].error}"
        )
    if len(tracks) < batch_size:
        raise UsageError(
            f"{len(tracks)} usable tracks are fewer than the batch of {batch_size}",
            hint=f"use --batch-size {len(tracks)} or less, or add music",
        )
