"""What share of the speed of mere decoding does `loev embed` keep?

    python benchmarks/embed_speed.py [--files 16] [--minutes 3] [--repeats 3]
        [--before CHECKOUT] [--peers PYTHON]

For a folder each of MP3 (192 kbit/s), FLAC and WAV (16 bit) files (stereo, 44.1 kHz, the example
music joined to 3 minutes): the time of decoding and resampling them to the model's rate and nothing
else, one process per core, which nothing that reads audio can beat; and the time of `embed` on the
same cores, from the call to the finished file. Both in turns in the same run, so that a busy
machine is busy for both; the share is of the medians. Others at work on the machine move it all the
same; the share of CPU time, of all processes, they move little. The stage that limits is the one
`--stats` names. The parts are of the CPU time of the last run: what the decoders and the encoder
are at, starting the decoders, and the rest: opening the model, handing windows over, and writing.

With --before, another checkout of loev: its `embed` takes turns with this one's, each in a process
of its own, and the last columns are its time, by the clock and of the CPU, over this one's.

With --peers, an interpreter that has some of librosa, essentia, openl3, torchopenl3 and musicnn:
each of those that it can import runs on the same files, one process per core.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile

from loev_cli import audio, bundle
from loev_cli.backends.machine import usable_cpus
from loev_cli.embed import Report, Request, embed

ROOT = Path(__file__).parent.parent
RATE_HZ = 44100
# libsndfile spreads 0..1 over 320..32 kbit/s.
MP3_192 = {"bitrate_mode": "CONSTANT", "compression_level": (320 - 192) / (320 - 32)}
PEERS = ("librosa", "essentia", "openl3", "torchopenl3", "musicnn")


def make_files(folder: Path, suffix: str, n_files: int, seconds: float) -> list[Path]:
    """Each begins at another place of the examples, so that no two are alike."""
    music = [audio.load(f, RATE_HZ) for f in sorted((ROOT / "examples" / "music").glob("*.mp3"))]
    joined = np.concatenate(music)
    folder.mkdir()
    files = []
    for i in range(n_files):
        n_samples = round(seconds * RATE_HZ)
        left = np.resize(np.roll(joined, i * RATE_HZ * 7), n_samples)
        stereo = np.stack([left, np.roll(left, 400)], axis=1)
        files.append(folder / f"{i:03}.{suffix}")
        options = MP3_192 if suffix == "mp3" else {}
        soundfile.write(files[-1], np.clip(stereo, -1, 1), RATE_HZ, **options)
    return files


@dataclass(frozen=True)
class Took:
    """Seconds by the clock, and of CPU time over all processes."""

    wall_s: float
    cpu_s: float


def decode_only(job: tuple[str, int]) -> float:
    """CPU seconds of decoding and resampling one file."""
    file, rate_hz = job
    began = time.process_time()
    for _ in audio.decode(Path(file), rate_hz):
        pass
    return time.process_time() - began


def floor(pool: ProcessPoolExecutor, files: list[Path], rate_hz: int) -> Took:
    began = time.monotonic()
    cpu_s = sum(pool.map(decode_only, [(str(file), rate_hz) for file in files]))
    return Took(time.monotonic() - began, cpu_s)


def embedding(folder: Path, out: Path, model: str) -> tuple[Took, Report, dict[str, float]]:
    """How long it took, and the parts of its CPU seconds."""
    began, own_began, decoders_began = time.monotonic(), *cpu_s()
    report = embed(Request([str(folder)], str(out), model=model, overwrite=True))
    wall_s, (own_s, decoders_s) = time.monotonic() - began, cpu_s()
    own_s, decoders_s = own_s - own_began, decoders_s - decoders_began
    parts = {
        "decode": report.stats.decode_s,
        "encode": report.stats.encode_s,
        "start decoders": decoders_s - report.stats.decode_s,
        "rest": own_s - report.stats.encode_s,
    }
    return Took(wall_s, own_s + decoders_s), report, parts


def embedding_of(checkout: Path, folder: Path, out: Path, model: str) -> Took:
    """The same by another checkout, or by this one on the same terms."""
    done = subprocess.run(
        [sys.executable, __file__, "--model", model, "--embed", str(folder), str(out)],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return Took(**json.loads(done.stdout))


def cpu_s() -> tuple[float, float]:
    """Of this process, and of its decoders, which have ended."""
    own, decoders = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, decoders.ru_utime + decoders.ru_stime


def median(results: list[Took]) -> Took:
    return Took(
        statistics.median(took.wall_s for took in results),
        statistics.median(took.cpu_s for took in results),
    )


def peer_times(python: str, files: list[Path]) -> dict[str, float | None]:
    """Seconds that each peer takes for the files; None where it cannot be imported."""
    times: dict[str, float | None] = {}
    for peer in PEERS:
        command = [python, str(ROOT / "benchmarks" / "embed_peers.py"), peer]
        done = subprocess.run(
            [*command, str(usable_cpus()), *map(str, files)], capture_output=True, text=True
        )
        times[peer] = json.loads(done.stdout)["seconds"] if done.returncode == 0 else None
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=bundle.DEFAULT_MODEL)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--formats", default="mp3,flac,wav")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT")
    parser.add_argument("--peers", metavar="PYTHON")
    parser.add_argument("--embed", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.embed:
        took, *_ = embedding(*args.embed, args.model)
        print(json.dumps(asdict(took)))
        return
    rate_hz = bundle.find(args.model).sample_rate_hz
    seconds = args.files * args.minutes * 60
    n_cpus = usable_cpus()
    print(f"{args.files} files of {args.minutes:g} min, {n_cpus} cores, {sys.platform}", flush=True)
    more = " before / now, clock | CPU |" if args.before else ""
    titles = "format | floor (x real time) | embed (same) | share | of CPU time | parts | limits"
    print(f"| {titles} |{more}")
    print("|---|---|---|---|---|---|---|" + "---|---|" * bool(args.before))
    with (
        tempfile.TemporaryDirectory() as temporary,
        ProcessPoolExecutor(n_cpus, mp_context=get_context("spawn")) as pool,
    ):
        root = Path(temporary)
        for suffix in args.formats.split(","):
            files = make_files(root / suffix, suffix, args.files, args.minutes * 60)
            floor(pool, files[:n_cpus], rate_hz)  # the processes start, the files are cached
            floors, times = [], []
            for _ in range(args.repeats):
                floors.append(floor(pool, files, rate_hz))
                took, report, parts = embedding(root / suffix, root / "x.npz", args.model)
                times.append(took)
            least, took = median(floors), median(times)
            if args.before:
                before, now = [], []
                for _ in range(args.repeats):
                    for checkout, taken in ((args.before, before), (ROOT, now)):
                        taken.append(
                            embedding_of(checkout, root / suffix, root / "x.npz", args.model)
                        )
                old, new = median(before), median(now)
                more = f" {old.wall_s / new.wall_s:.3f} | {old.cpu_s / new.cpu_s:.3f} |"
            total_s = sum(parts.values())
            work = ", ".join(f"{part} {seconds / total_s:.0%}" for part, seconds in parts.items())
            print(
                f"| {suffix.upper()} | {seconds / least.wall_s:.0f} | {seconds / took.wall_s:.0f} "
                f"| {least.wall_s / took.wall_s:.2f} | {least.cpu_s / took.cpu_s:.2f} | {work} "
                f"| {report.stats.limit} |{more}",
                flush=True,
            )
        if args.peers:
            print("\n| on the MP3 files | x real time |\n|---|---|")
            files = sorted((root / "mp3").iterdir())
            for peer, took_or_none in peer_times(args.peers, files).items():
                speed = "not installed" if took_or_none is None else f"{seconds / took_or_none:.0f}"
                print(f"| {peer} | {speed} |", flush=True)


if __name__ == "__main__":
    main()
