"""Resolve a row to a file, and check that it may be served.

A row is a path relative to the audio folder, as ``loev embed FOLDER`` named it, or the absolute
path of a file. A file is served only if it is a regular file whose real path, with all symbolic
links resolved, is in the real audio folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from loev_cli.audio import AUDIO_EXTENSIONS
from loev_cli.row_names import path_of_row

# MIME types of formats that browsers play. Everything else is decoded.
TYPES = {
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".wave": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
    ".aac": "audio/aac",
    ".weba": "audio/webm",
}
_N_SAMPLED = 100


class NotServedError(Exception):
    """A row's file is missing or must not be served; the message says why."""


@dataclass(frozen=True)
class AudioFiles:
    """The files of a library's rows.

    Attributes:
        root: the audio folder.
        paths: N row names.
    """

    root: Path
    paths: Sequence[str]

    def find(self, row: int) -> Path:
        """The real path of the file that a row names.

        Raises:
            NotServedError: the file is missing or must not be served.
        """
        path = self.paths[row]
        if "://" in path:
            raise NotServedError("is at a URL; only local files can be played")
        if PurePosixPath(path).suffix.lower() not in AUDIO_EXTENSIONS:
            raise NotServedError("does not have an audio file extension")
        try:
            root = self.root.resolve(strict=True)
            file = (self.root / path_of_row(path)).resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:  # a NUL, a loop of links, no such file
            raise NotServedError(f"is not in {self.root}") from error
        if not file.is_relative_to(root):
            raise NotServedError(f"is outside {self.root}")
        if not file.is_file():
            raise NotServedError("is not a regular file")
        return file

    def n_found(self) -> tuple[int, int]:
        """(found, looked for) of a sample of rows, evenly spread."""
        step = max(1, len(self.paths) // _N_SAMPLED)
        rows = range(0, len(self.paths), step)
        found = 0
        for row in rows:
            try:
                self.find(row)
            except NotServedError:
                continue
            found += 1
        return found, len(rows)


def is_playable(file: Path) -> bool:
    """Whether browsers can play the file directly."""
    return file.suffix.lower() in TYPES


def guess_root(source: Path, paths: Sequence[str]) -> Path:
    """The default audio folder: the embedding file's folder or the current one, whichever has
    more of the rows; ties prefer the first."""
    candidates = [source.absolute().parent, Path.cwd()]
    return max(candidates, key=lambda root: AudioFiles(root, paths).n_found()[0])
