"""Render POP909 as training and evaluation audio: `python -m corpus.pop909 --help`.

    songs -> arrange (labels, notes) -> render -> OUT/audio/SSS_aA.flac, OUT/manifest.csv

With ``--variants N`` every arrangement is played by N numbered instrumentations
(`corpus.instruments`): clips of the same notes, of one `track`, that differ in `timbre`.

Songs are spread over worker processes; each clip depends on (seed, song, arrangement) alone. Files
already there are kept, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from corpus.arrange import USUAL, VERSION, Arrangement, Variety, arrange
from corpus.instruments import instrumented, variant_numbers
from corpus.rendering import Done, Settings, check_settings, render_clip, run
from corpus.songs import read_song

LAST_TRAIN, LAST_VAL = 749, 799


@dataclass(frozen=True)
class Row:
    """A line of manifest.csv."""

    path: str
    key: str
    tempo: float
    split: str
    group: int
    song: int
    arrangement: int
    duration_s: float
    melody_program: int
    melody_family: str
    bass_style: str
    drum_style: str
    soundfont: str
    transpose_semitones: int
    tempo_factor: float
    tuning_cents: float
    start_s: float
    track: str  # the arrangement
    timbre: str  # number of the instrumentation; empty without --variants


@dataclass(frozen=True)
class Job:
    """One song's clips."""

    folder: Path
    out: Path
    settings: Settings
    soundfonts: tuple[Path, ...]
    arrangements: int
    variants: int


def split_of(song: int) -> str:
    """The project's split of the 909 songs."""
    if song <= LAST_TRAIN:
        return "train"
    return "val" if song <= LAST_VAL else "test"


def clip_name(song: int, arrangement: int, timbre: int | None = None) -> str:
    name = f"{song:03d}_a{arrangement}"
    return name if timbre is None else f"{name}_t{timbre:04d}"


def row_of(plan: Arrangement, timbre: int | None, soundfonts: Sequence[Path]) -> Row:
    return Row(
        path=f"audio/{clip_name(plan.song, plan.number, timbre)}.flac",
        key=str(plan.key),
        tempo=round(plan.tempo_bpm, 3),
        split=split_of(plan.song),
        group=plan.song,
        song=plan.song,
        arrangement=plan.number,
        duration_s=round(plan.duration_s, 3),
        melody_program=plan.melody_program,
        melody_family=plan.melody_family,
        bass_style=plan.bass_style,
        drum_style=plan.drum_style,
        soundfont=soundfonts[plan.soundfont].stem,
        transpose_semitones=plan.transpose_semitones,
        tempo_factor=round(plan.tempo_factor, 5),
        tuning_cents=round(plan.tuning_cents, 1),
        start_s=round(plan.start_s, 3),
        track=clip_name(plan.song, plan.number),
        timbre="" if timbre is None else str(timbre),
    )


def render_song(job: Job) -> Done:
    """Render what is missing of one song. A bad song or clip is an error in the result."""
    rows: list[Row] = []
    errors: list[str] = []
    rendered_s = 0.0
    try:
        song = read_song(job.folder)
    except (OSError, EOFError, ValueError) as error:
        return Done((), (f"{job.folder.name}: {error}",), 0.0)
    for number in range(job.arrangements):
        try:
            plan = arrange(
                song,
                number,
                seed=job.settings.seed,
                clip_s=job.settings.clip_s,
                n_soundfonts=len(job.soundfonts),
                variety=job.settings.variety,
            )
            for timbre, played in _variants(plan, job):
                row = row_of(played, timbre, job.soundfonts)
                if not (job.out / row.path).exists():
                    render_clip(
                        played, job.out / row.path, job.settings.sample_rate_hz, job.soundfonts
                    )
                    rendered_s += plan.duration_s
                rows.append(row)
        except (OSError, RuntimeError, ValueError) as error:
            errors.append(f"{clip_name(song.number, number)}: {error}")
    return Done(tuple(rows), tuple(errors), rendered_s)


def _variants(plan: Arrangement, job: Job) -> Iterator[tuple[int | None, Arrangement]]:
    """An arrangement with its own instruments or, if asked for, with numbered ones."""
    if not job.variants:
        yield None, plan
        return
    for timbre in variant_numbers(plan.song, plan.number, job.settings.seed, job.variants):
        yield timbre, instrumented(plan, timbre, len(job.soundfonts))


@contextmanager
def song_folders(songs: Path) -> Iterator[dict[int, Path]]:
    """Song number -> folder, from an unpacked dataset or a tar of it (unpacked for the time)."""
    with tempfile.TemporaryDirectory(prefix="pop909-") as scratch:
        root = songs
        if songs.is_file():
            root = Path(scratch)
            with tarfile.open(songs) as tar:
                tar.extractall(root, filter="data")
        found = {
            int(path.stem): path.parent
            for path in root.rglob("*.mid")
            if path.stem.isdigit() and path.stem == path.parent.name
        }
        if not found:
            raise ValueError(f"no songs (NNN/NNN.mid) in {songs}")
        yield found


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _bounds(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    if not 0 < float(low) <= float(high):
        raise ValueError
    return float(low), float(high)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpus.pop909", description="Render POP909 as labeled audio."
    )
    parser.add_argument("--songs", type=Path, required=True, help="the dataset, a folder or a tar")
    parser.add_argument("--soundfont", type=Path, required=True, action="append", help="repeatable")
    parser.add_argument("--out", type=Path, required=True, help="folder for audio/ and manifest")
    parser.add_argument("--range", type=_range, default=range(1, 910), help="songs, as in 1-749")
    parser.add_argument("--arrangements", type=int, default=3, help="clips per song")
    parser.add_argument(
        "--variants", type=int, default=0, help="numbered instrumentations per arrangement"
    )
    parser.add_argument("--clip-s", type=float, default=40.0, help="seconds per clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--sample-rate-hz", type=int, default=44_100)
    parser.add_argument(
        "--tempo-factor", type=_bounds, default=USUAL.tempo_factor, help="range, as in 0.7-1.4"
    )
    parser.add_argument(
        "--tempo-bpm", type=_bounds, default=USUAL.tempo_bpm, help="range, as in 50-200"
    )
    parser.add_argument(
        "--tuning-cents",
        type=float,
        default=USUAL.tuning_cents,
        help="half of the clips are tuned up to so much off 440 Hz",
    )
    args = parser.parse_args(arguments)

    for soundfont in args.soundfont:
        if not soundfont.is_file():
            parser.error(f"no such soundfont: {soundfont}")
    (args.out / "audio").mkdir(parents=True, exist_ok=True)
    settings = Settings(
        VERSION,
        args.seed,
        args.clip_s,
        args.sample_rate_hz,
        tuple(p.stem for p in args.soundfont),
        Variety(args.tempo_factor, args.tempo_bpm, args.tuning_cents),
    )
    try:
        check_settings(args.out, settings)
        with song_folders(args.songs) as folders:
            jobs = [
                Job(
                    folders[n],
                    args.out,
                    settings,
                    tuple(args.soundfont),
                    args.arrangements,
                    args.variants,
                )
                for n in args.range
                if n in folders
            ]
            n_errors = run(jobs, render_song, args.out, args.workers, row=Row, what="songs")
    except ValueError as error:
        parser.error(str(error))
    return 3 if n_errors else 0


if __name__ == "__main__":
    sys.exit(main())
