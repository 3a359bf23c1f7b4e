"""What a user names -> the audio files meant, each exactly once, each with its row name.

loev embed music            music/a/x.mp3   is row  a/x.mp3
loev embed music more       music/a/x.mp3   is row  music/a/x.mp3
loev embed music/a/x.mp3    music/a/x.mp3   is row  music/a/x.mp3
... | loev embed -          as the line says
loev embed s3://b/music     s3://b/music/a/x.mp3 is row a/x.mp3
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote

from loev_cli.errors import InputError, UsageError
from loev_cli.row_names import row_name
from loev_cli.storage.remote import (
    DEFAULT_LIMITS,
    Limits,
    RemoteError,
    RemoteFile,
    describe,
    fetched,
    files_below,
    is_url,
)

# What a folder is searched for. A file named outright is taken whatever it is called.
# fmt: off
AUDIO_EXTENSIONS = frozenset([
    # uncompressed, and what carries it
    ".wav", ".wave", ".bwf", ".w64", ".rf64", ".aif", ".aiff", ".aifc", ".afc", ".au", ".snd",
    ".caf", ".voc", ".avr", ".ircam", ".nist", ".paf", ".pvf", ".sds", ".sf", ".sox", ".sph",
    # lossless
    ".flac", ".fla", ".alac", ".ape", ".mac", ".wv", ".tta", ".tak", ".shn", ".dsf", ".dff",
    ".mlp", ".thd", ".dtshd", ".osq", ".rka",
    # lossy
    ".mp3", ".mp2", ".mp1", ".mpa", ".mpga", ".m2a", ".ogg", ".oga", ".opus", ".spx", ".m4a",
    ".m4b", ".m4p", ".m4r", ".f4a", ".f4b", ".aac", ".adts", ".latm", ".loas", ".wma", ".mpc",
    ".mp+", ".mpp", ".mka", ".weba", ".ac3", ".eac3", ".ec3", ".ac4", ".dts", ".amr", ".awb",
    ".gsm", ".g722", ".ra", ".rm", ".oma", ".omg", ".aa3", ".at3", ".aea", ".adx", ".hca", ".qoa",
    ".sbc", ".vqf", ".vql", ".xwma",
    # video, of which the sound is taken
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".mk3d", ".webm", ".avi", ".divx", ".asf", ".wmv",
    ".flv", ".f4v", ".f4p", ".ogv", ".ogx", ".ogm", ".3gp", ".3gpp", ".3g2", ".mpg", ".mpeg",
    ".vob", ".vro", ".ts", ".m2t", ".m2ts", ".mts", ".mxf", ".gxf", ".nut", ".wtv", ".dv", ".rmvb",
    ".amv",
])
# fmt: on

STDIN = "-"

_TRANSPORT_STREAM = ".ts"
_LOOK_N_BYTES = 4096
_LONGEST_EXTENSION = 10


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
    inputs: Sequence[str],
    *,
    stdin: BinaryIO | None = None,
    null: bool = False,
    passed_over: Counter[str] | None = None,
) -> list[Source]:
    """The audio files that ``inputs`` mean, in the order given, folders sorted, each once.

    A path on stdin that does not exist, or cannot be accessed, stays in the list and fails when
    it is opened, as its own file's failure; so does a folder below an input that cannot be read.

    Args:
        inputs: files, folders, URLs of either, and ``-`` for a list of them on ``stdin``.
        stdin: where ``-`` reads from.
        null: the list on stdin is separated by NUL instead of newlines.
        passed_over: is told how many files of folders were left out, by extension; hidden ones
            do not count.

    Raises:
        UsageError: an argument is empty or does not exist, or two files would share a row name.
        RemoteError: a URL cannot be listed.
    """
    folder_prefixed = len(inputs) > 1
    found: dict[str, Source] = {}  # by where they really lie: the same file twice is one row
    folders: dict[str, str] = {}
    passed_over = Counter() if passed_over is None else passed_over
    names: dict[str, Source] = {}
    for given, must_exist in _expand_stdin(inputs, stdin, null):
        prefixed = folder_prefixed or not must_exist
        for source in _sources_of(given, passed_over, must_exist=must_exist, prefixed=prefixed):
            key = source.place if source.remote else _real_place(source.location, folders)
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


def _real_place(location: str, folders: dict[str, str]) -> str:
    """Where a file lies, by its real folder: one spelling of `../a/x`, `/b/a/x` and `link/x`.

    A link to a file is not followed: it is a row of its own, like a copy. ``folders`` keeps what
    is known of folders, since asking costs more than all else that is done for a file.
    """
    folder, name = os.path.split(location)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    place = f"{folders[folder]}/{name}"
    return location if place == location else place  # no second copy of a million texts


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
            listed = stdin.read()
            if (encoding := _utf_16(listed, null=null)) is not None:
                raise UsageError(
                    "the list of paths on standard input is UTF-16",
                    hint=f"convert it: iconv -f {encoding} -t utf-8",
                )
            for path in _split_null(listed) if null else _split_lines(listed):
                yield os.fsdecode(path), False


def _utf_16(listed: bytes, *, null: bool) -> str | None:
    """The name for iconv of the kind of UTF-16 that a list is in, if it is."""
    start = listed[: 1 << 16]
    if b"\0" not in start or len(start) % 2:
        return None
    has_bom = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ["utf-16"] if has_bom else ["utf-16le", "utf-16be"]:
        with contextlib.suppress(UnicodeDecodeError):
            text = codecs.getincrementaldecoder(encoding)().decode(start)
            # Bytes taken in pairs are hardly ever separators, or characters of Latin-1.
            has_separator = "\n" in text or "\0" in text
            is_latin = 4 * sum(character < "\u0100" for character in text) >= len(text)
            if (has_separator and is_latin) if null else (has_separator or is_latin):
                return encoding
    return None


def _split_null(listed: bytes) -> list[bytes]:
    return [path for path in listed.split(b"\0") if path]


def _split_lines(listed: bytes) -> list[bytes]:
    """Lines that are not blank. Windows ends them with CR LF, and may start the list with a BOM."""
    lines = listed.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return [line.removesuffix(b"\r") for line in lines if line.strip()]


def _sources_of(
    given: str, passed_over: Counter[str], *, must_exist: bool, prefixed: bool
) -> Iterator[Source]:
    if is_url(given):
        yield from _remote_sources_of(given, passed_over, must_exist=must_exist, prefixed=prefixed)
        return
    if "\0" in given:
        raise UsageError(
            "a path contains a NUL character", hint="use --null for NUL-separated lists"
        )
    if not given:  # Path("") would be the folder we happen to be in
        raise UsageError("an input is empty", hint="is a variable on the command line unset?")
    path = Path(given)
    if must_exist:
        _check_exists(path)
    if not os.path.isdir(path):  # noqa: PTH112  (Path.is_dir raises where it may not look)
        yield Source(row_name(given), str(path))
        return
    root = given.rstrip("/" + os.sep) or given[:1]
    for file in _walk(path, passed_over):
        if file == path:  # the input itself cannot be read
            yield Source(row_name(root), str(file))
            continue
        relative = str(file.relative_to(path))
        full = f"{root}/{relative}" if root != "/" else f"/{relative}"
        yield Source(row_name(full if prefixed else relative), str(file))


def _remote_sources_of(
    given: str, passed_over: Counter[str], *, must_exist: bool, prefixed: bool
) -> Iterator[Source]:
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
        elif any(part.startswith(".") for part in PurePosixPath(relative).parts):
            continue
        elif PurePosixPath(relative).suffix.lower() in AUDIO_EXTENSIONS:
            yield Source(file.url if prefixed else row_name(relative), file.url, file)
        else:
            passed_over[_extension(relative)] += 1


def _check_exists(path: Path) -> None:
    try:
        path.lstat()  # a link that leads nowhere exists; it fails when it is opened
    except FileNotFoundError as error:
        raise UsageError(f"no such file or folder: {path}") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def _walk(root: Path, passed_over: Counter[str]) -> Iterator[Path]:
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
                elif path.suffix.lower() in AUDIO_EXTENSIONS and not _is_source_code(path):
                    yield path
                else:
                    passed_over[_extension(entry.name)] += 1
            stack.extend(reversed(subfolders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A link that may not be followed counts as one: it fails when it is entered, and is named."""
    try:
        return entry.is_dir()
    except OSError as error:
        return entry.is_symlink() and error.errno != errno.ELOOP


def _is_source_code(path: Path) -> bool:
    """TypeScript has the extension of MPEG transport streams, which are never text."""
    if path.suffix.lower() != _TRANSPORT_STREAM or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            start = stream.read(_LOOK_N_BYTES)
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except (OSError, UnicodeDecodeError):
        return False
    return b"\0" not in start


def _extension(name: str) -> str:
    """Of a file name, in lower case; empty if it has none that looks like one."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix[1:].isalnum() and len(suffix) < _LONGEST_EXTENSION else ""


@contextlib.contextmanager
def brought_here(source: Source, limits: Limits = DEFAULT_LIMITS) -> Iterator[Path]:
    """The source's file on this machine: itself, or a copy that goes when it is done with.

    Raises:
        InputError: stage ``open``: it cannot be brought here. Those of what is done with the copy
            name the place it came from.
    """
    if source.remote is None:
        yield source.file
        return
    try:
        with fetched(source.remote, limits) as copy:
            try:
                yield copy
            except InputError as error:
                raise InputError(
                    error.message.replace(str(copy), source.place),
                    stage=error.stage,
                    kind=error.kind or type(error.__cause__ or error).__name__,
                    hint=error.hint,
                ) from error
    except RemoteError as error:
        kind = type(error.__cause__ or error).__name__
        raise InputError(str(error), stage="open", kind=kind) from error
