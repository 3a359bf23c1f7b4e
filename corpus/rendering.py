"""A folder of rendered clips: its settings, its manifest, and the processes that fill it.

    jobs -> worker processes: render(job) -> OUT/audio/*.flac, and rows -> OUT/manifest.csv

Files already there are kept, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from corpus.arrange import USUAL, Arrangement, Variety
from corpus.perform import Clip
from corpus.synth import Player, finish, write_audio

_REPORT_EVERY_S = 5.0

JobT = TypeVar("JobT")


@dataclass(frozen=True)
class Settings:
    """What every clip of one output folder has in common; a second run must agree with it."""

    version: int
    seed: int
    clip_s: float
    sample_rate_hz: int
    soundfonts: tuple[str, ...]  # names; their order matters
    variety: Variety = USUAL


@dataclass(frozen=True)
class Done:
    """What became of a job.

    Attributes:
        rows: of the manifest, dataclasses with a ``path``.
        rendered_s: of new audio only.
    """

    rows: tuple[Any, ...]
    errors: tuple[str, ...]
    rendered_s: float


def check_settings(out: Path, settings: Settings) -> None:
    """Refuse to mix clips made with other settings into one folder.

    Raises:
        ValueError: there are clips with other settings.
    """
    path = out / "settings.json"
    text = json.dumps(asdict(settings), indent=2) + "\n"
    if path.exists() and path.read_text() != text:
        raise ValueError(f"{path} has other settings than this run; choose another --out")
    path.write_text(text)


def read_manifest(path: Path) -> dict[str, dict[str, str]]:
    """path -> cells of an existing manifest whose audio is there; empty where there is none."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = {cells["path"]: cells for cells in csv.DictReader(file)}
    return {name: cells for name, cells in rows.items() if (path.parent / name).exists()}


def _write_manifest(path: Path, lines: dict[str, dict[str, str]], columns: list[str]) -> None:
    """Write the lines sorted by path; the file appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines[key] for key in sorted(lines))
    partial.replace(path)


@cache
def player(sample_rate_hz: int) -> Player:
    """This process's player: soundfonts stay loaded between jobs."""
    return Player(sample_rate_hz)


def render_clip(
    clip: Arrangement | Clip, path: Path, sample_rate_hz: int, soundfonts: Sequence[Path]
) -> None:
    """Play a clip, and write it as FLAC."""
    total_s = clip.preroll_s + clip.duration_s
    wave = player(sample_rate_hz).render(
        clip.parts, soundfonts[clip.soundfont], total_s, clip.tuning_cents
    )
    wave = finish(wave[round(clip.preroll_s * sample_rate_hz) :], sample_rate_hz, clip.peak_dbfs)
    write_audio(path, wave, sample_rate_hz, subtype="PCM_16", compression_level=0.3)


def run(
    jobs: Sequence[JobT],
    render: Callable[[JobT], Done],
    out: Path,
    workers: int,
    *,
    row: type[Any],
    what: str,
) -> int:
    """Do the jobs, keep the manifest up to date, report on stderr.

    Args:
        render: called in the worker processes.
        row: the dataclass of the manifest's rows.
        what: what a job is, in the plural.

    Returns:
        The number of errors.
    """
    manifest, columns = out / "manifest.csv", [field.name for field in fields(row)]
    lines = read_manifest(manifest)
    started = reported = time.monotonic()
    rendered_s, n_errors = 0.0, 0
    # Spawned and not forked: a fork would share the loaded soundfonts' locks and threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        waiting = [pool.submit(render, job) for job in jobs]
        for n_done, future in enumerate(as_completed(waiting), start=1):
            done = future.result()
            rendered_s += done.rendered_s
            n_errors += len(done.errors)
            for error in done.errors:
                print(f"error: {error}", file=sys.stderr)
            for each in done.rows:
                lines[each.path] = {name: str(cell) for name, cell in asdict(each).items()}
            now = time.monotonic()
            if now - reported >= _REPORT_EVERY_S or n_done == len(jobs):
                reported = now
                _write_manifest(manifest, lines, columns)
                speed = rendered_s / max(now - started, 1e-9)
                print(
                    f"{n_done}/{len(jobs)} {what}, {rendered_s / 3600:.2f} h new audio, "
                    f"{now - started:.0f} s, {speed:.0f} x real time, {n_errors} errors",
                    file=sys.stderr,
                    flush=True,
                )
    return n_errors
