"""Ten thousand files, hundreds of them damaged, and kill -9 again and again: is anything lost?

    python benchmarks/embed_soak.py [--files 10000] [--damaged 600] [--kills 12] [--seed 0]

A folder of short files (WAV, FLAC, MP3, OGG), a part of them damaged in one of the ways below, is
embedded by `loev embed` which is killed (SIGKILL, to the whole process group) at random times and
started again, until it ends by itself. A second run, into another file, is left in peace. A third
meets what is no file's fault: no decoder can be started; the job is suspended for longer than a
file may take; a part of the folder vanishes under it and comes back. Then:

- every file that `loev_cli.audio.decode` can decode has exactly one row, and its vectors differ
  from the undisturbed run's by at most 1e-5;
- every other file has exactly one line in the list of failures, and no row;
- the third run has the same rows and failures, and wrote no output while something was away.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from loev_cli import audio, bundle
from loev_cli.embed import FAILURES_SUFFIX
from loev_cli.errors import InputError
from loev_cli.formats import EmbeddingFile, read

ROOT = Path(__file__).parent.parent
RATE_HZ = 16000
SUFFIXES = ("wav", "flac", "mp3", "ogg")
TOLERANCE = 1e-5
FEW_OPEN_FILES = 14
TIMEOUT_S = 2


def truncated(content: bytearray, rng: random.Random) -> bytes:
    return bytes(content[: rng.randrange(1, len(content))])


def bit_flipped(content: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 3, 30, 300])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def empty(content: bytearray, rng: random.Random) -> bytes:
    return b""


def random_bytes(content: bytearray, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 50_000))


def wav(
    samples: np.ndarray, *, rate_hz: int = RATE_HZ, channels: int = 1, promised: int | None = None
) -> bytes:
    """A float WAV whose header says what it is told to say."""
    data = samples.astype("<f4").tobytes()
    n_bytes = len(data) if promised is None else promised
    form = struct.pack(
        "<HHIIHH", 3, channels, rate_hz, rate_hz * channels * 4 & 0xFFFFFFFF, channels * 4, 32
    )
    sizes = [(36 + n_bytes) & 0xFFFFFFFF, 16, n_bytes & 0xFFFFFFFF]
    riff, fmt, length = (struct.pack("<I", n) for n in sizes)
    return b"RIFF" + riff + b"WAVEfmt " + fmt + form + b"data" + length + data


def noise(rng: random.Random, n: int = 8000) -> np.ndarray:
    return np.random.default_rng(rng.randrange(2**32)).standard_normal(n) * 0.1


def promising_2_31_samples(content: bytearray, rng: random.Random) -> bytes:
    if content[:4] == b"fLaC":  # STREAMINFO: 36 bits of total samples end at byte 26
        content[21] &= 0xF0
        content[22:26] = struct.pack(">I", 2**31)
        return bytes(content)
    return wav(noise(rng), promised=rng.choice([2**31, 2**31 - 8, 2**33]))


def nan_or_infinite(content: bytearray, rng: random.Random) -> bytes:
    samples = noise(rng)
    samples[rng.randrange(len(samples))] = rng.choice([np.nan, np.inf, -np.inf])
    return wav(samples)


def no_channels(content: bytearray, rng: random.Random) -> bytes:
    return wav(noise(rng), channels=0)


def channels_64(content: bytearray, rng: random.Random) -> bytes:
    return wav(noise(rng, 64_000), channels=64)


def rate_1_hz(content: bytearray, rng: random.Random) -> bytes:
    return wav(noise(rng), rate_hz=1)


def rate_768_khz(content: bytearray, rng: random.Random) -> bytes:
    return wav(noise(rng, 400_000), rate_hz=768_000)


def wrong_extension(content: bytearray, rng: random.Random) -> bytes:
    return bytes(content)  # the name is what changes


def twice(content: bytearray, rng: random.Random) -> bytes:
    return bytes(content * 2)


def twice_with_junk_between(content: bytearray, rng: random.Random) -> bytes:
    return bytes(content + rng.randbytes(rng.randrange(1, 5000)) + content)


def junk_in_the_middle(content: bytearray, rng: random.Random) -> bytes:
    half = len(content) // 2
    return bytes(content[:half] + rng.randbytes(rng.randrange(1, 5000)) + content[half:])


def junk_before(content: bytearray, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 5000)) + bytes(content)


def junk_behind(content: bytearray, rng: random.Random) -> bytes:
    return bytes(content) + rng.randbytes(rng.randrange(1, 300_000))


def another_size(content: bytearray, rng: random.Random) -> bytes:
    samples = noise(rng)
    return wav(samples, promised=rng.choice([0, len(samples), 4 * len(samples) + 16, 2**32 - 1]))


DAMAGES: tuple[Callable[[bytearray, random.Random], bytes], ...] = (
    *(truncated, bit_flipped, empty, random_bytes, promising_2_31_samples, nan_or_infinite),
    *(no_channels, channels_64, rate_1_hz, rate_768_khz, wrong_extension),
    *(twice, twice_with_junk_between, junk_in_the_middle, junk_before, junk_behind, another_size),
)


def make_library(folder: Path, n_files: int, n_damaged: int, rng: random.Random) -> Counter[str]:
    """Files of about a second, each with a name of its own; which damages there are, how often."""
    folder.mkdir()
    tones = np.random.default_rng(0)
    originals = []
    for i in range(40):
        n = round(RATE_HZ * (0.3 + 0.05 * i))
        chord = sum(
            np.sin(2 * np.pi * f * np.arange(n) / RATE_HZ) for f in tones.uniform(80, 2000, 4)
        )
        file = folder / f"original.{SUFFIXES[i % len(SUFFIXES)]}"
        soundfile.write(file, 0.1 * np.asarray(chord), RATE_HZ)
        originals.append((file.suffix, file.read_bytes()))
        file.unlink()
    damaged = set(rng.sample(range(n_files), n_damaged))
    counts: Counter[str] = Counter()
    for i in range(n_files):
        suffix, content = rng.choice(originals)
        if i in damaged:
            damage = DAMAGES[i % len(DAMAGES)]
            counts[damage.__name__] += 1
            content = damage(bytearray(content), rng)
            if damage is wrong_extension:
                suffix = rng.choice([f".{s}" for s in SUFFIXES if f".{s}" != suffix])
        file = folder / f"{i % 50:02}" / f"{i:05}{suffix}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    return counts


def start(
    folder: Path, out: Path, model: str, *options: str, prefix: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    command = [*prefix, sys.executable, "-m", "loev_cli", "embed", str(folder), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--model", model, "--quiet", *options],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def run_killed(
    folder: Path, out: Path, model: str, n_kills: int, whole_s: float, rng: random.Random
) -> tuple[int, int]:
    """How often it was killed, and the exit code of the run that was not."""
    for n_killed in range(n_kills):
        process = start(folder, out, model)
        try:
            return n_killed, process.wait(timeout=rng.uniform(0.5, 2 * whole_s / n_kills))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return n_kills, start(folder, out, model).wait()


def run_troubled(
    folder: Path, out: Path, model: str, whole_s: float, rng: random.Random
) -> dict[str, bool]:
    """What is no file's fault, one after the other; then, in peace, the rest. What held."""
    held: dict[str, bool] = {}
    few_files = ["bash", "-c", f'ulimit -n {FEW_OPEN_FILES}; exec "$@"', "bash"]
    code = start(folder, out, model, prefix=few_files).wait()
    held[f"no decoder can be started: exit code {code}, no output"] = code == 1 and not out.exists()

    suspended = start(folder, out, model, "--file-timeout-s", str(TIMEOUT_S))
    time.sleep(rng.uniform(0.2, 0.4) * whole_s)
    os.killpg(suspended.pid, signal.SIGSTOP)
    time.sleep(3 * TIMEOUT_S)
    os.killpg(suspended.pid, signal.SIGCONT)
    time.sleep(0.1 * whole_s)
    part = max(file for file in folder.iterdir() if file.is_dir())  # the last to be embedded
    part.rename(folder.parent / "away")
    code = suspended.wait()
    held[f"a folder vanishes: exit code {code}, no output"] = code == 1 and not out.exists()
    (folder.parent / "away").rename(part)
    return held | {"all is back: exit code 3": start(folder, out, model).wait() == 3}


def is_decodable(file: Path) -> bool:
    try:
        for _ in audio.decode(file, RATE_HZ):
            pass
    except InputError:
        return False
    return True


def listed_in(out: Path) -> list[str]:
    lines = Path(f"{out}{FAILURES_SUFFIX}").read_text().splitlines()
    return sorted(json.loads(line)["path"] for line in lines)


def largest_difference(a: EmbeddingFile, b: EmbeddingFile) -> float:
    """Of all vectors; infinite if the rows are not those of the same files."""
    if a.paths != b.paths:
        return float("inf")
    return max(float(np.abs(a.vectors[name] - b.vectors[name]).max()) for name in a.vectors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=bundle.DEFAULT_MODEL)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--damaged", type=int, default=600)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        folder = root / "library"
        counts = make_library(folder, args.files, args.damaged, rng)
        print(f"{args.files} files; damaged: {dict(counts)}", flush=True)

        began = time.monotonic()
        code = start(folder, root / "peace.npz", args.model).wait()
        whole_s = time.monotonic() - began
        print(f"undisturbed: {whole_s:.0f} s, exit code {code}", flush=True)
        n_killed, code = run_killed(
            folder, root / "killed.npz", args.model, args.kills, whole_s, rng
        )
        print(f"killed {n_killed} times, then exit code {code}", flush=True)
        held = run_troubled(folder, root / "troubled.npz", args.model, whole_s, rng)
        print(f"troubled: {', '.join(held)}", flush=True)

        names = {str(f.relative_to(folder)): f for f in folder.rglob("*") if f.is_file()}
        good = sorted(name for name, file in names.items() if is_decodable(file))
        bad = sorted(names.keys() - set(good))
        peace, killed = read(root / "peace.npz"), read(root / "killed.npz")
        troubled = read(root / "troubled.npz")
        listed, listed_troubled = listed_in(root / "killed.npz"), listed_in(root / "troubled.npz")
        largest = largest_difference(killed, peace)
        largest_troubled = largest_difference(troubled, peace)
        checks = {
            f"every one of {len(good)} decodable files has one row": killed.paths == good,
            f"every one of {len(bad)} others has one line in the failures": listed == bad,
            f"rows as undisturbed, largest difference {largest:.1e}": largest <= TOLERANCE,
            **held,
            "the troubled run: rows and failures of the others": (
                troubled.paths == good and listed_troubled == bad and largest_troubled <= TOLERANCE
            ),
            "no temporary file is left": not list(root.glob(".*")),
        }
        for check, holds in checks.items():
            print(f"{'ok   ' if holds else 'FAULT'} {check}")
    if not all(checks.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
