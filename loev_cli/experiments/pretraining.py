"""What models are pretrained on: a manifest's train rows, without their labels.

OUT/pretraining.csv     path (absolute) and group
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from loev_cli.errors import OutputError, UsageError
from loev_cli.evaluate.manifest import Manifest
from loev_cli.writers.atomic import write_own

PRETRAINING_FILE = "pretraining.csv"


def pretraining_rows(manifest: Manifest) -> tuple[list[tuple[str, str]], bool]:
    """(path, group) of the tracks to train on, and whether some are judged later.

    Rows with split ``train``; all of them where no row has it.
    """
    chosen = [i for i, split in enumerate(manifest.splits) if split == "train"]
    everything = not chosen
    rows = []
    for i in chosen or range(len(manifest)):
        group = str(manifest.groups[i])
        named = "" if group.startswith("\0") else group
        rows.append((manifest.files[i].absolute().as_posix(), named))
    return rows, everything


def write_pretraining(rows: list[tuple[str, str]], out: Path, *, overwrite: bool = False) -> Path:
    """Put the rows into folder ``out``, which is made if it is missing.

    Raises:
        UsageError: ``out`` has such a file with other rows, so that its runs saw other music.
        OutputError: it cannot be written.
    """
    file = out / PRETRAINING_FILE
    if file.exists() and not overwrite and _read(file) != rows:
        raise UsageError(
            f"the runs in {out} were trained on different tracks, listed in {file.name}",
            hint="give the same --data, choose another --out, or --overwrite",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not file.exists() or _read(file) != rows:
            text = io.StringIO(newline="")
            writer = csv.writer(text)
            writer.writerow(["path", "group"])
            writer.writerows(rows)
            write_own(file, text.getvalue().encode())
    except OSError as error:
        raise OutputError(f"cannot write {file}: {error.strerror}") from error
    return file.absolute()


def _read(file: Path) -> list[tuple[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            return [(row["path"], row["group"]) for row in csv.DictReader(stream)]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error):
        return []
