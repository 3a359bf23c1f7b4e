"""One manifest of several, to train on all of them: `python -m corpus.join OUT.csv MANIFEST...`.

Keeps path (relative to OUT), split, group, and what names variants: track and timbre, empty where
a manifest has none. Groups and tracks of different manifests stay apart; numbers of timbre do not.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

COLUMNS = ("path", "split", "group", "track", "timbre")


def rows_of(manifest: Path, out: Path) -> Iterator[tuple[str, ...]]:
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
            track = f"{manifest.parent.name}/{row['track']}" if row.get("track") else ""
            named = (f"{manifest.parent.name}/{group}", track, row.get("timbre") or "")
            yield Path(path).as_posix(), row["split"], *named


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
