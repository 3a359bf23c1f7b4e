"""Recorded and produced music with free licenses, out of Debian's packages of games.

    python -m corpus.debian --out DIR

    apt-get download PACKAGE -> its music -> OUT/audio/PACKAGE/NAME, OUT/copyright/PACKAGE,
    OUT/manifest.csv (path, split, group, package, duration_s)

It is for training without labels, on music that no soundfont made: mixed, mastered, partly played
by musicians, coded as Vorbis. Needs a Debian with `apt-get` and network; nothing is installed. Each
package's copyright file, which names authors and licenses (GPL, CC BY-SA, CC BY, CC0 ...), is kept
beside the music. Music is read here and never redistributed.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import soundfile

SUFFIXES = {".ogg", ".mp3", ".flac", ".opus"}
LEAST_N_BYTES = 200_000  # what is smaller is an effect, and not worth opening
LEAST_S = 30.0

TRAIN_PACKAGES = (
    "ardentryst",
    "asc-music",
    "colobot-common-sounds",
    "extremetuxracer-data",
    "fillets-ng-data",
    "freedink-data",
    "fretsonfire-songs-muldjord",
    "fretsonfire-songs-sectoid",
    "frozen-bubble-data",
    "hedgewars-data",
    "lincity-ng-data",
    "lugaru-data",
    "megaglest-data",
    "openclonk-data",
    "pushover-data",
    "supertux-data",
    "tuxfootball",
    "unknown-horizons",
    "warmux-data",
    "warzone2100-music",
    "wesnoth-1.16-music",
)
# Never trained on: for checks on recordings.
TEST_PACKAGES = ("drascula-music", "hyperrogue-music", "planetblupi-music-ogg", "widelands-data")
_COLUMNS = ("path", "split", "group", "package", "duration_s")


def fetch(package: str, folder: Path) -> Path:
    """Download a package into ``folder``; its file.

    Raises:
        RuntimeError: no apt-get, no such package, no network.
    """
    try:
        subprocess.run(
            ["apt-get", "download", "-q", package], cwd=folder, check=True, capture_output=True
        )
    except FileNotFoundError as error:
        raise RuntimeError("there is no apt-get here: this needs a Debian") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(said[-1] if said else "apt-get failed") from error
    return next(folder.glob(f"{package}_*.deb"))


def unpack(deb: Path, package: str, out: Path) -> int:
    """Take the music and the copyright file out of a package; the number of pieces.

    Raises:
        RuntimeError: the package cannot be read.
    """
    audio = out / "audio" / package
    audio.mkdir(parents=True, exist_ok=True)
    (out / "copyright").mkdir(exist_ok=True)
    n_pieces = 0
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            for member in tar:
                source = PurePosixPath(member.name)
                target = None
                if source.suffix.lower() in SUFFIXES and member.size >= LEAST_N_BYTES:
                    # Folders of a package may hold files of one name.
                    target = audio / f"{source.parent.name}-{source.name}"
                elif source.name == "copyright" and package in source.parts:
                    target = out / "copyright" / package
                content = tar.extractfile(member) if target and member.isfile() else None
                if target and content:
                    with target.open("wb") as file:
                        shutil.copyfileobj(content, file)
                    n_pieces += target.parent == audio
    if process.returncode:
        raise RuntimeError(f"dpkg-deb failed on {deb.name}")
    return n_pieces


def music_length_s(file: Path) -> float:
    """Seconds of a file that can be read; 0 for others."""
    try:
        return float(soundfile.info(file).duration)
    except soundfile.LibsndfileError:
        return 0.0


def write_manifest(out: Path, packages: Sequence[str]) -> int:
    """List what is long enough to be a piece of music; the number of rows."""
    rows = []
    for package in sorted(packages):
        split = "test" if package in TEST_PACKAGES else "train"
        for file in sorted((out / "audio" / package).glob("*")):
            duration_s = music_length_s(file)
            if duration_s >= LEAST_S:
                path = file.relative_to(out).as_posix()
                rows.append((path, split, path, package, round(duration_s, 1)))
    with (out / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(rows)
    return len(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpus.debian", description="Music out of Debian's games."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for audio/ and manifest")
    parser.add_argument(
        "--package", action="append", help="repeatable; default: all that are known here"
    )
    args = parser.parse_args(arguments)
    packages = args.package or [*TRAIN_PACKAGES, *TEST_PACKAGES]
    args.out.mkdir(parents=True, exist_ok=True)
    done, n_errors = [], 0
    for package in packages:
        if not (args.out / "copyright" / package).exists():  # written by a run before
            with tempfile.TemporaryDirectory(dir=args.out) as scratch:
                try:
                    n_pieces = unpack(fetch(package, Path(scratch)), package, args.out)
                except (OSError, RuntimeError, tarfile.TarError) as error:
                    n_errors += 1
                    print(f"error: {package}: {error}", file=sys.stderr)
                    continue
            print(f"{package}: {n_pieces} files", file=sys.stderr, flush=True)
        done.append(package)
    print(f"{write_manifest(args.out, done)} pieces", file=sys.stderr)
    return 3 if n_errors else 0


if __name__ == "__main__":
    sys.exit(main())
