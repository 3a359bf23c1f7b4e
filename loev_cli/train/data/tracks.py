"""DATA as typed -> the audio files it means, each once, with a manifest's split and group.

folder             searched, sorted
files.txt          one path a line, relative to the list; also .lst, .m3u, .m3u8
manifest           .csv or .parquet, see loev_cli/manifest.py
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from loev_cli import audio
from loev_cli.errors import UsageError
from loev_cli.manifest import SUFFIXES, Listed, each_once, read_rows

_LIST_SUFFIXES = (".txt", ".lst", ".m3u", ".m3u8")


def listing(data: str) -> list[Listed]:
    """The audio files that DATA means, in its order; a file that is named twice is one track.

    Raises:
        UsageError: nothing there, no audio in it, or a manifest as
            :func:`loev_cli.manifest.read_rows` says.
    """
    path = Path(data)
    suffix = path.suffix.lower()
    if path.is_dir():
        named: Iterable[Listed] = (Listed(source.file) for source in audio.find([data]))
    elif not path.is_file():
        raise UsageError(f"no such folder or file: {data}")
    elif suffix in SUFFIXES:
        return read_rows([path], with_labels=False)
    elif suffix in _LIST_SUFFIXES:
        named = _of_list(path)
    else:
        raise UsageError(
            f"{data} is neither a folder, a manifest (.csv, .parquet) nor a list of paths (.txt)"
        )
    listed = each_once(named)
    if not listed:
        raise UsageError(f"no audio files in {data}")
    return listed


def _of_list(path: Path) -> Iterator[Listed]:
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise UsageError(f"cannot read list {path}: {error.strerror}") from error
    for line in lines:
        if line.strip() and not line.startswith(b"#"):
            yield Listed(path.parent / os.fsdecode(line))
