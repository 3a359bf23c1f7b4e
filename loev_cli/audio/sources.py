"""What a user names -> the audio files meant, each exactly once, each with its row name.

loev embed music            music/a/x.mp3   is row  a/x.mp3
loev embed music more       music/a/x.mp3   is row  music/a/x.mp3
loev embed music/a/x.mp3    music/a/x.mp3   is row  music/a/x.mp3
... | loev embed -          as the line says
loev embed s3://b/music     s3://b/music/a/x.mp3 is row a/x.mp3
"""

from __future__ import annotations

import codecs
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote

from loev_cli.errors import UsageError
from loev_cli.remote import RemoteFile, describe, files_below, is_url
from loev_cli.row_names import row_name

# What a folder is searched for. A file named outright is taken whatever it is called.
# fmt: off
AUDIO_EXTENSIONS = frozenset([
    # uncompressed, and what carries it
    ".wav", ".wave", ".bwf", ".w64", ".rf64", ".aif", ".aiff", ".aifc", ".afc", ".au", ".snd",
    ".caf", ".voc",
    # lossless
    ".flac", ".fla", ".alac", ".ape", ".wv", ".tta", ".tak", ".shn", ".dsf", ".dff", ".mlp", ".thd",
    # lossy
    ".mp3", ".mp2", ".mp1", ".mpa", ".mpga", ".ogg", ".oga", ".opus", ".spx", ".m4a", ".m4b",
    ".m4r", ".aac", ".adts", ".wma", ".mpc", ".mp+", ".mka", ".weba", ".ac3", ".eac3", ".ec3",
    ".dts", ".amr", ".awb", ".ra", ".rm", ".oma", ".aa3", ".at3",
    # video, of which the sound is taken
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".asf", ".wmv", ".flv", ".ogv", ".ogx",
    ".3gp", ".3g2", ".mpg", ".mpeg",
])
# fmt: on

STDIN = "-"


@dataclass(frozen=True, slots=True)
class Source:
    """One input file. There may be a million of them, so it is kept small.

    Attributes:
        path: its row name in the output, ``/`` separated, unique in a run.
        location: where it lies.
        remote: where it lies if that is not on this machine; ``file`` means nothing then.
    """

    path: str
    location: str
    remote: RemoteFile | None = None

    @property
    def file(self) -> Path:
        """Where it lies, as a path: several times the size of its text."""
        return Path(self.location)

    @property
    def place(self) -> str:
        """Where it lies, for people."""
        return self.location if self.remote is None else self.remote.url


def find(
    inputs: Sequence[str], *, stdin: BinaryIO | None = None, null: bool = False
) -> list[Source]:
    """The audio files that ``inputs`` mean, in the order given, folders sorted, each once.

    A path on stdin that does not exist, or may not be looked at, stays in the list and fails when
    it is opened, as its own file's failure; so does a folder below an input that cannot be read.

    Args:
        inputs: files, folders, URLs of either, and ``-`` for a list of them on ``stdin``.
        stdin: where ``-`` reads from.
        null: the list on stdin is separated by NUL instead of newlines.

    Raises:
        UsageError: an argument is empty or does not exist, or two files would share a row name.
        RemoteError: a URL cannot be listed.
    """
    folder_prefixed = len(inputs) > 1
    found: dict[str, Source] = {}  # by absolute path: the same file twice is one row
    names: dict[str, Source] = {}
    for given, must_exist in _expand_stdin(inputs, stdin, null):
        prefixed = folder_prefixed or not must_exist
        for source in _sources_of(given, must_exist=must_exist, prefixed=prefixed):
            # Absolute but not resolved: `link/../x` must not be taken for `x`.
            key = source.place if source.remote else str(source.file.absolute())
            if key in found:
                continue
            other = names.setdefault(source.path, source)
            if other is not source:
                raise UsageError(
                    f"{source.place} and {other.place} would share the row name {source.path!r}",
                    hint="rename one of them",
                )
            found[key] = source
    return list(found.values())


def _expand_stdin(
    inputs: Sequence[str], stdin: BinaryIO | None, null: bool
) -> Iterator[tuple[str, bool]]:
    """Each input, and whether it must exist (it was typed, not piped)."""
    for given in inputs:
        if given != STDIN:
            yield given, True
        elif stdin is None:
            raise UsageError("no list of paths to read: standard input is not available")
        else:
            for path in _split_null(stdin.read()) if null else _split_lines(stdin.read()):
                yield os.fsdecode(path), False


def _split_null(listed: bytes) -> list[bytes]:
    return [path for path in listed.split(b"\0") if path]


def _split_lines(listed: bytes) -> list[bytes]:
    """Lines that are not blank. Windows ends them with CR LF, and may start the list with a BOM."""
    lines = listed.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return [line.removesuffix(b"\r") for line in lines if line.strip()]


def _sources_of(given: str, *, must_exist: bool, prefixed: bool) -> Iterator[Source]:
    if is_url(given):
        yield from _remote_sources_of(given, must_exist=must_exist, prefixed=prefixed)
        return
    if "\0" in given:
        raise UsageError("a path holds a NUL character", hint="use --null for NUL-separated lists")
    if not given:  # Path("") would be the folder we happen to be in
        raise UsageError("an input is empty", hint="is a variable on the command line unset?")
    path = Path(given)
    if must_exist:
        _check_exists(path)
    if not os.path.isdir(path):  # noqa: PTH112  (Path.is_dir raises where it may not look)
        yield Source(row_name(given), str(path))
        return
    root = given.rstrip("/" + os.sep) or given[:1]
    for file in _walk(path):
        if file == path:  # the input itself cannot be read
            yield Source(row_name(root), str(file))
            continue
        relative = str(file.relative_to(path))
        full = f"{root}/{relative}" if root != "/" else f"/{relative}"
        yield Source(row_name(full if prefixed else relative), str(file))


def _remote_sources_of(given: str, *, must_exist: bool, prefixed: bool) -> Iterator[Source]:
    if not must_exist and PurePosixPath(given).suffix.lower() in AUDIO_EXTENSIONS:
        yield Source(given, given, describe(given))  # not there: its own failure, later
        return
    files = files_below(given)
    if not files and must_exist:
        raise UsageError(f"no such file or folder: {given}")
    root = given.rstrip("/") + "/"
    for file in files:
        relative = unquote(file.url.removeprefix(root))
        if file.url == given:
            yield Source(given, given, file)
        elif _is_audio_name(relative):
            yield Source(file.url if prefixed else row_name(relative), file.url, file)


def _is_audio_name(relative: str) -> bool:
    path = PurePosixPath(relative)
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.suffix.lower() in AUDIO_EXTENSIONS


def _check_exists(path: Path) -> None:
    try:
        path.lstat()  # a link that leads nowhere exists; it fails when it is opened
    except FileNotFoundError as error:
        raise UsageError(f"no such file or folder: {path}") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def _walk(root: Path) -> Iterator[Path]:
    """Audio files below ``root``, sorted; folders that cannot be read are yielded themselves.

    Every folder is entered once, which ends symbolic-link loops. Linked folders are entered
    last, so that a file has its name by the folder it really lies in.
    """
    entered: set[tuple[int, int]] = set()
    linked: list[Path] = [root]
    while linked:
        stack = [linked.pop(0)]
        while stack:
            folder = stack.pop()
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in entered:
                    continue
                entered.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError:
                yield folder
                continue
            subfolders: list[Path] = []
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = folder / entry.name
                if _is_folder(entry):
                    (linked if entry.is_symlink() else subfolders).append(path)
                elif path.suffix.lower() in AUDIO_EXTENSIONS:
                    yield path
            stack.extend(reversed(subfolders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A link that may not be followed counts as one: it fails when it is entered, and is named."""
    try:
        return entry.is_dir()
    except OSError as error:
        return entry.is_symlink() and error.errno != errno.ELOOP
