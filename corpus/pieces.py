"""Render music other than POP909 for training: `python -m corpus.pieces --help`.

    --midi FILES  -> read_midi  --+
    --music21     -> parse_corpus +-> clip_of -+-> render -> OUT/audio/*.flac, OUT/manifest.csv
    --composed N  ---- compose ----------------+

The clips have no labels beyond a tempo and a key where one is known: they are for training the
encoder, which needs none. Pieces are spread over worker processes; each clip depends on
(seed, piece, clip number) alone. Files already there are kept, so a run that was stopped goes on
where it was.
"""

from __future__ import annotations

import argparse
import re
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from corpus import composed, perform, rendering, scores
from corpus.arrange import Variety, tuning_cents
from corpus.midi import read_midi
from corpus.perform import SCORE_BPM, SPEED_FACTOR, Clip, Piece, clip_of, seed_of
from corpus.rendering import Done, render_clip

CLIPS_PER_MIDI, CLIPS_PER_SCORE, CLIPS_PER_TUNE = 6, 2, 1


@dataclass(frozen=True)
class Settings(rendering.Settings):
    """What every clip of one output folder has in common; a second run must agree with it.

    Of `variety` only the tuning can be chosen.
    """

    corpus: str = "pieces"


@dataclass(frozen=True)
class Row:
    """A line of manifest.csv."""

    path: str
    split: str
    group: str
    source: str
    tempo: str  # empty where it is not known
    key: str  # empty where it is not known
    duration_s: float
    kind: str
    programs: str
    has_drums: bool
    soundfont: str
    transpose_semitones: int
    speed_factor: float
    tuning_cents: float
    start: float


@dataclass(frozen=True)
class Job:
    """One piece's clips: a MIDI file, a score, or, with neither, the composition `number`."""

    name: str
    source: str
    n_clips: int
    path: Path | None = None
    piece: Piece | None = None
    number: int = 0


@dataclass(frozen=True)
class Run:
    """What is the same for every job."""

    out: Path
    settings: Settings
    soundfonts: tuple[Path, ...]
    kinds: tuple[str, ...] = composed.ORDER


def row_of(job: Job, clip: Clip, number: int, kind: str, soundfonts: Sequence[Path]) -> Row:
    return Row(
        path=f"audio/{job.source}_{job.name}_c{number}.flac",
        split="train",
        group=f"{job.source}/{job.name}",
        source=job.source,
        tempo="" if clip.tempo_bpm is None else str(round(clip.tempo_bpm, 3)),
        key=clip.key,
        duration_s=round(clip.duration_s, 3),
        kind=kind,
        programs=" ".join(str(part.program) for part in clip.parts if not part.is_drums),
        has_drums=any(part.is_drums for part in clip.parts),
        soundfont=soundfonts[clip.soundfont].stem,
        transpose_semitones=clip.transpose_semitones,
        speed_factor=round(clip.speed_factor, 5),
        tuning_cents=round(clip.tuning_cents, 1),
        start=round(clip.start, 3),
    )


def render_piece(run: Run, job: Job) -> Done:
    """Render what is missing of one piece. A bad piece or clip is an error in the result."""
    settings, soundfonts = run.settings, run.soundfonts
    rows: list[Row] = []
    errors: list[str] = []
    rendered_s = 0.0
    try:
        piece = job.piece if job.path is None else read_midi(job.path, job.name)
    except (OSError, ValueError) as error:
        return Done((), (f"{job.source} {job.name}: {error}",), 0.0)
    wanted = {"seed": settings.seed, "n_soundfonts": len(soundfonts)}
    name = f"{job.source}/{job.name}"
    for number in range(job.n_clips):
        try:
            kind = ""
            if piece is None:
                kind, clip = composed.compose(
                    job.number, clip_s=settings.clip_s, order=run.kinds, **wanted
                )
            else:
                clip = clip_of(piece, number, clip_s=settings.clip_s, **wanted)
            stream = seed_of(settings.seed, f"{name}/tuning", number)
            clip = replace(clip, tuning_cents=tuning_cents(settings.variety, stream))
            row = row_of(job, clip, number, kind, soundfonts)
            if not (run.out / row.path).exists():
                render_clip(clip, run.out / row.path, settings.sample_rate_hz, soundfonts)
                rendered_s += clip.duration_s
        except (OSError, RuntimeError, ValueError) as error:
            errors.append(f"{job.source} {job.name}, clip {number}: {error}")
        else:
            rows.append(row)
    return Done(tuple(rows), tuple(errors), rendered_s)


@contextmanager
def midi_files(sources: Sequence[Path]) -> Iterator[dict[str, Path]]:
    """Piece name -> file, from files, folders and tars (unpacked for the time).

    Raises:
        ValueError: a source has no MIDI file, or two files have one name.
    """
    found: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(prefix="pieces-") as scratch:
        for i, source in enumerate(sources):
            root = source
            if source.is_file() and source.suffix.lower() not in {".mid", ".midi"}:
                root = Path(scratch) / str(i)
                try:
                    with tarfile.open(source) as tar:
                        tar.extractall(root, filter="data")
                except (OSError, tarfile.TarError) as error:
                    raise ValueError(f"{source} is no MIDI file, folder or tar: {error}") from error
            paths = [root] if root.is_file() else sorted(root.rglob("*"))
            paths = [p for p in paths if p.suffix.lower() in {".mid", ".midi"} and p.is_file()]
            if not paths:
                raise ValueError(f"no MIDI files (.mid, .midi) in {source}")
            for path in paths:
                name = path.stem if path == root else str(path.relative_to(root).with_suffix(""))
                name = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-")
                if name in found:
                    raise ValueError(f"{path} and {found[name]} would have one name; rename one")
                found[name] = path
        yield found


def score_pieces(cache: Path) -> list[Piece]:
    """The scores of music21's corpus, parsed (minutes) where `cache` is not there yet."""
    if not cache.exists():
        print(f"parsing music21's corpus into {cache}", file=sys.stderr, flush=True)
        parsed = scores.parse_corpus(lambda line: print(f"note: {line}", file=sys.stderr))
        scores.write_scores(cache, parsed)
    return scores.read_scores(cache)


def _jobs(args: argparse.Namespace, files: dict[str, Path]) -> list[Job]:
    clips: int | None = args.clips_per_piece
    jobs = [Job(name, "midi", clips or CLIPS_PER_MIDI, path=path) for name, path in files.items()]
    if args.music21:
        for piece in score_pieces(args.score_cache or args.out / "scores.json.gz"):
            default = CLIPS_PER_TUNE if len(piece.parts) == 1 else CLIPS_PER_SCORE
            jobs.append(Job(piece.name, "music21", clips or default, piece=piece))
    jobs += [Job(f"{number:04d}", "composed", 1, number=number) for number in range(args.composed)]
    return jobs


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpus.pieces",
        description="Render game music, scores and composed music as audio for training.",
    )
    parser.add_argument(
        "--midi", type=Path, action="append", default=[], help="file, folder or tar; repeatable"
    )
    parser.add_argument("--music21", action="store_true", help="free scores of music21's corpus")
    parser.add_argument(
        "--score-cache", type=Path, help="parsed scores, made if missing (OUT/scores.json.gz)"
    )
    parser.add_argument("--composed", type=int, default=0, metavar="N", help="pieces composed here")
    parser.add_argument(
        "--kind",
        action="append",
        choices=list(composed.KINDS),
        help="of composed pieces; repeatable; default: all in turn",
    )
    parser.add_argument("--soundfont", type=Path, required=True, action="append", help="repeatable")
    parser.add_argument("--out", type=Path, required=True, help="folder for audio/ and manifest")
    parser.add_argument(
        "--clips-per-piece",
        type=int,
        help=f"of MIDI files and scores (default: {CLIPS_PER_MIDI} of a MIDI file, "
        f"{CLIPS_PER_SCORE} of a score of several parts, {CLIPS_PER_TUNE} of a tune)",
    )
    parser.add_argument("--clip-s", type=float, default=30.0, help="seconds per clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--sample-rate-hz", type=int, default=44_100)
    parser.add_argument(
        "--tuning-cents",
        type=float,
        default=0.0,
        help="half of the clips are tuned up to so much off 440 Hz",
    )
    args = parser.parse_args(arguments)

    if not (args.midi or args.music21 or args.composed > 0):
        parser.error("nothing to render: give --midi, --music21 or --composed")
    for option in ("clip_s", "workers", "sample_rate_hz", "clips_per_piece"):
        value = getattr(args, option)
        if value is not None and not value > 0:
            parser.error(f"--{option.replace('_', '-')} must be above 0, not {value}")
    for path in [*args.soundfont, *args.midi]:
        if not path.exists():
            parser.error(f"no such file or folder: {path}")
    (args.out / "audio").mkdir(parents=True, exist_ok=True)
    version = 100 * perform.VERSION + composed.VERSION
    soundfonts = tuple(args.soundfont)
    settings = Settings(
        version,
        args.seed,
        args.clip_s,
        args.sample_rate_hz,
        tuple(p.stem for p in soundfonts),
        Variety(SPEED_FACTOR, SCORE_BPM, args.tuning_cents),
    )
    try:
        rendering.check_settings(args.out, settings)
        with midi_files(args.midi) as files:
            jobs = _jobs(args, files)
            kinds = tuple(args.kind or composed.ORDER)
            render = partial(render_piece, Run(args.out, settings, soundfonts, kinds))
            n_errors = rendering.run(jobs, render, args.out, args.workers, row=Row, what="pieces")
    except (RuntimeError, ValueError) as error:
        parser.error(str(error))
    return 3 if n_errors else 0


if __name__ == "__main__":
    sys.exit(main())
