"""Excerpts of free recordings with labels, cut out of Debian packages.

    python -m corpus.recordings LABELS.csv --out DIR [--packages FOLDER] [--use fit]

    LABELS.csv (package, path, start_s, length_s, use, any labels)
        -> apt-get download PACKAGE -> OUT/audio/PACKAGE/00000.flac, OUT/copyright/PACKAGE,
           OUT/manifest.csv (path, split, group, package, source, any labels)

`path` is the end of a file's path in the package, or in a zip archive in the package (.zip, .pk3).
`start_s` and `length_s` are seconds; an excerpt is shorter where the recording ends. `use` is `fit`
or `test`: `fit` becomes the split `train`, `test` the split `test`. The group is the package, since
its recordings are often of one artist. All other columns are labels and are kept as they are.

--packages names a folder with .deb files, used before the network and kept. Nothing is installed
and nothing is redistributed. A package or recording that cannot be had is named on stderr and left
out; the exit code is then 3.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import soundfile

from corpus.debian import ARCHIVES, keep_copyright, unpacked

SPLIT_OF_USE = {"fit": "train", "test": "test"}
_REQUIRED = ("package", "path", "start_s", "length_s", "use")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # Debian policy 5.6.1

Label = dict[str, str]


def read_labels(path: Path) -> list[Label]:
    """The rows of a labels CSV.

    Raises:
        ValueError: a missing column, an unknown ``use``, a name that is no package, or a package
            with both uses.
        OSError: the file cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(missing)}")
        rows = list(reader)
    use_of: dict[str, str] = {}
    for row in rows:
        if use_of.setdefault(row["package"], row["use"]) != row["use"]:
            raise ValueError(f"{path}: package {row['package']} is for fit and for test")
        if row["use"] not in SPLIT_OF_USE:
            raise ValueError(f"{path}: use is '{row['use']}', expected fit or test")
        if not _PACKAGE.fullmatch(row["package"]):
            raise ValueError(f"{path}: '{row['package']}' is not the name of a package")
        if float(row["start_s"]) < 0 or not float(row["length_s"]) > 0:
            raise ValueError(f"{path}: {row['path']}: an excerpt without length")
    return rows


def find_recordings(tree: Path, wanted: Iterable[str]) -> dict[str, Path]:
    """Wanted path -> file, for those that are in an unpacked package or in its archives.

    Args:
        tree: folder of the unpacked package; archived files are unpacked into it.
        wanted: ends of paths, with whole folder names.
    """
    found = {}
    files = [file for file in tree.rglob("*") if file.is_file() and not file.is_symlink()]
    archives = [file for file in files if file.suffix.lower() in ARCHIVES]
    for end in wanted:
        for file in files:
            if f"/{file.relative_to(tree).as_posix()}".endswith(f"/{end}"):
                found[end] = file
                break
        else:
            unpacked = _from_archive(archives, end, tree / f"archived-{len(found)}")
            if unpacked is not None:
                found[end] = unpacked
    return found


def _from_archive(archives: Sequence[Path], end: str, target: Path) -> Path | None:
    for archive in archives:
        with zipfile.ZipFile(archive) as content:
            for name in content.namelist():
                if f"/{name}".endswith(f"/{end}"):
                    target = target.with_suffix(Path(name).suffix)
                    with content.open(name) as source, target.open("wb") as copy:
                        shutil.copyfileobj(source, copy)
                    return target
    return None


def cut(source: Path, start_s: float, length_s: float, out: Path) -> None:
    """Write an excerpt as mono FLAC at the recording's own rate.

    Raises:
        soundfile.LibsndfileError: the recording cannot be read.
        ValueError: it ends before the excerpt begins.
    """
    with soundfile.SoundFile(source) as audio:
        start = round(start_s * audio.samplerate)
        if start >= audio.frames:
            raise ValueError(f"it ends before {start_s:g} s")
        audio.seek(start)
        samples = audio.read(round(length_s * audio.samplerate), dtype="float32", always_2d=True)
        rate_hz = audio.samplerate
    partial = out.with_suffix(".part")
    soundfile.write(partial, samples.mean(axis=1), rate_hz, subtype="PCM_16", format="FLAC")
    partial.replace(out)


def cut_package(
    package: str, labels: dict[int, Label], packages: Path | None, out: Path
) -> dict[int, str]:
    """Cut the excerpts of one package.

    Args:
        labels: number of the row -> row.
        packages: folder with .deb files, or None.

    Returns:
        Number of the row -> why it has no excerpt.

    Raises:
        RuntimeError: the package cannot be had.
    """
    folder = out / "audio" / package
    todo = {i: row for i, row in labels.items() if not (folder / f"{i:05d}.flac").exists()}
    if not todo:
        return {}
    problems = {}
    with unpacked(package, out, packages) as tree:
        files = find_recordings(tree, {row["path"] for row in todo.values()})
        folder.mkdir(parents=True, exist_ok=True)
        keep_copyright(tree, package, out)
        for i, row in todo.items():
            if row["path"] not in files:
                problems[i] = "not in the package"
                continue
            try:
                cut(
                    files[row["path"]],
                    float(row["start_s"]),
                    float(row["length_s"]),
                    folder / f"{i:05d}.flac",
                )
            except (soundfile.LibsndfileError, ValueError) as error:
                problems[i] = str(error)
    return problems


def write_manifest(out: Path, rows: dict[int, Label]) -> int:
    """List the excerpts that are there; their number."""
    kept = [name for name in next(iter(rows.values()), {}) if name not in _REQUIRED]
    written = []
    for i, row in rows.items():
        path = f"audio/{row['package']}/{i:05d}.flac"
        if (out / path).exists():
            split, package = SPLIT_OF_USE[row["use"]], row["package"]
            written.append([path, split, package, package, row["path"], *(row[n] for n in kept)])
    with (out / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["path", "split", "group", "package", "source", *kept])
        writer.writerows(written)
    return len(written)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpus.recordings", description="Labeled excerpts of Debian's music."
    )
    parser.add_argument("labels", type=Path, help="package,path,start_s,length_s,use and labels")
    parser.add_argument("--out", type=Path, required=True, help="folder for audio/ and manifest")
    parser.add_argument("--packages", type=Path, help="folder of .deb files to use and to keep")
    parser.add_argument("--use", choices=sorted(SPLIT_OF_USE), help="only these rows")
    args = parser.parse_args(arguments)
    try:
        rows = dict(enumerate(read_labels(args.labels)))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    rows = {i: row for i, row in rows.items() if args.use in (None, row["use"])}
    args.out.mkdir(parents=True, exist_ok=True)
    if args.packages:
        args.packages.mkdir(parents=True, exist_ok=True)
    n_problems = 0
    for package in sorted({row["package"] for row in rows.values()}):
        labels = {i: row for i, row in rows.items() if row["package"] == package}
        try:
            problems = cut_package(package, labels, args.packages, args.out)
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:
            problems = dict.fromkeys(labels, str(error))
        for i, problem in problems.items():
            print(f"left out: {package}: {rows[i]['path']}: {problem}", file=sys.stderr)
        n_problems += len(problems)
    print(f"{write_manifest(args.out, rows)} excerpts -> {args.out}", file=sys.stderr)
    return 3 if n_problems else 0


if __name__ == "__main__":
    sys.exit(main())
