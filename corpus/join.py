"""One manifest of several, to train on all of them: `python -m corpus.join OUT.csv MANIFEST...`.

Keeps path (relative to OUT), split and group; groups of different manifests stay apart.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

COLUMNS = ("path", "split", "group")


def rows_of(manifest: Path, out: Path) -> Iterator[tuple[str, str, str]]:
    """The rows of a manifest as ``out`` has them.

    Raises:
        ValueError: a manifest without the columns path and split.
    """
    with manifest.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"path", "split"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{manifest} has no columns path and split")
        for row in reader:
            path = os.path.relpath(manifest.parent / row["path"], out.parent)
            group = row.get("group") or row["path"]
            yield Path(path).as_posix(), row["split"], f"{manifest.parent.name}/{group}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m corpus.join", description="One manifest of several."
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("manifests", type=Path, nargs="+")
    args = parser.parse_args(arguments)
    try:
        rows = [row for manifest in args.manifests for row in rows_of(manifest, args.out)]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    print(f"{len(rows)} rows -> {args.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
