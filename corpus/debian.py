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
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import soundfile

SUFFIXES = {".ogg", ".mp3", ".flac", ".opus"}
ARCHIVES = {".zip", ".pk3"}
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


@contextmanager
def unpacked(package: str, scratch_in: Path, packages: Path | None = None) -> Iterator[Path]:
    """The folder that a package unpacks to, for as long as the context lasts.

    Args:
        scratch_in: an existing folder; the package is unpacked below it.
        packages: folder with .deb files, used before the network; what is downloaded is kept there.

    Raises:
        RuntimeError: the package cannot be had or read.
    """
    with tempfile.TemporaryDirectory(dir=scratch_in) as scratch:
        at_hand = sorted(packages.glob(f"{package}_*.deb")) if packages else []
        deb = at_hand[0] if at_hand else fetch(package, packages or Path(scratch))
        tree = Path(scratch) / "tree"
        try:
            subprocess.run(["dpkg-deb", "-x", deb, tree], check=True, capture_output=True)
        except FileNotFoundError as error:
            raise RuntimeError("there is no dpkg-deb here: this needs a Debian") from error
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"dpkg-deb failed on {deb.name}") from error
        yield tree


def keep_copyright(tree: Path, package: str, out: Path) -> None:
    """Copy the copyright file of an unpacked package to ``out/copyright/PACKAGE``."""
    terms = tree / "usr/share/doc" / package / "copyright"
    (out / "copyright").mkdir(parents=True, exist_ok=True)
    if terms.is_file():
        shutil.copyfile(terms, out / "copyright" / package)


def take_music(tree: Path, package: str, out: Path) -> int:
    """Copy the music of an unpacked package, archives in it included, to ``out/audio/PACKAGE``.

    Returns:
        The number of pieces.

    Raises:
        OSError, zipfile.BadZipFile: a file or archive cannot be read.
    """
    audio = out / "audio" / package
    audio.mkdir(parents=True, exist_ok=True)
    for file in sorted(tree.rglob("*")):
        if file.suffix.lower() in ARCHIVES and file.is_file() and not file.is_symlink():
            with zipfile.ZipFile(file) as archive:
                music = [n for n in archive.namelist() if Path(n).suffix.lower() in SUFFIXES]
                archive.extractall(file.with_suffix(""), music)
    pieces = [
        file
        for file in sorted(tree.rglob("*"))
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not file.is_symlink()
        and file.stat().st_size >= LEAST_N_BYTES
    ]
    for file in pieces:  # folders of a package may hold files of one name
        shutil.copyfile(file, audio / f"{file.parent.name}-{file.name}")
    return len(pieces)


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
    parser.add_argument("--packages", type=Path, help="folder of .deb files to use and to keep")
    args = parser.parse_args(arguments)
    packages = args.package or [*TRAIN_PACKAGES, *TEST_PACKAGES]
    for folder in filter(None, (args.out, args.packages)):
        folder.mkdir(parents=True, exist_ok=True)
    done, n_errors = [], 0
    for package in packages:
        if not (args.out / "copyright" / package).exists():  # written by a run before
            try:
                with unpacked(package, args.out, args.packages) as tree:
                    n_pieces = take_music(tree, package, args.out)
                    keep_copyright(tree, package, args.out)
            except (OSError, RuntimeError, zipfile.BadZipFile) as error:
                n_errors += 1
                print(f"error: {package}: {error}", file=sys.stderr)
                continue
            print(f"{package}: {n_pieces} files", file=sys.stderr, flush=True)
        done.append(package)
    print(f"{write_manifest(args.out, done)} pieces", file=sys.stderr)
    return 3 if n_errors else 0


if __name__ == "__main__":
    sys.exit(main())
