"""Files and folders that appear whole or not at all: a temporary name beside it, then a rename."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from loev_cli.errors import OutputError, UsageError
from loev_cli.storage.own import check_own


class AtomicFile:
    """A file being written beside its final place.

    Args:
        path: its final place.
        before_replace: is called with the finished temporary file before it takes that place.
        is_own: it is a file of ours beside an output, so a link there is refused; what a user
            names may be a link, which stays one: what it points to is replaced.

    Attributes:
        stream: where to write; it can be read back.
        name: the final path, for messages.

    Raises:
        OutputError: the temporary file cannot be made, or a file of ours is a link.
    """

    def __init__(
        self,
        path: Path,
        *,
        before_replace: Callable[[Path], None] = lambda finished: None,
        is_own: bool = False,
    ) -> None:
        self.name = str(path)
        self._before_replace = before_replace
        self._final = path if is_own else Path(os.path.realpath(path))
        self._temporary = _temporary_of(self._final)
        try:
            if is_own:
                check_own(path)
            self.stream: BinaryIO = self._temporary.open("x+b")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error

    def commit(self) -> None:
        """Put the file on disk and in its place; raises OSError."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        self._before_replace(self._temporary)
        self._temporary.replace(self._final)
        _sync(self._final.parent)

    def abort(self) -> None:
        """Remove what was written."""
        with contextlib.suppress(OSError):  # closing flushes, which may fail on a full disk
            self.stream.close()
        self._temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_own(path: Path, *, hint: str | None = None) -> Iterator[BinaryIO]:
    """A stream whose content becomes our own file ``path`` when the context ends well.

    Raises:
        OutputError: it cannot be written, or something else than a regular file is there.
    """
    file = AtomicFile(path, is_own=True)
    try:
        yield file.stream
        file.commit()
    except OSError as error:
        file.abort()
        raise OutputError(f"cannot write {path}: {error.strerror or error}", hint=hint) from error
    except BaseException:
        file.abort()
        raise


def write_own(path: Path, content: bytes) -> None:
    """Make ``content`` our own file ``path``. Raises as :func:`writing_own`."""
    with writing_own(path) as stream:
        stream.write(content)


class AtomicFolder:
    """A folder being written beside its final place.

    Args:
        path: its final place; a folder there is replaced.
        before_replace: is called with the finished temporary folder before it takes that place.

    Attributes:
        folder: where to write; it exists and is empty.
        stream: a file without a name beside it, for what is still on its way into the folder.
        name: the final path, for messages.

    Raises:
        OutputError: the temporary folder cannot be made.
    """

    def __init__(
        self, path: Path, *, before_replace: Callable[[Path], None] = lambda finished: None
    ) -> None:
        self.name = str(path)
        self._before_replace = before_replace
        self._final = Path(os.path.realpath(path))
        self.folder = _temporary_of(self._final)
        try:
            self.folder.mkdir()
            self.stream: BinaryIO = tempfile.TemporaryFile(  # noqa: SIM115
                dir=self._final.parent, prefix=".loev.", suffix=".tmp"
            )
        except OSError as error:
            self._remove()
            raise OutputError(f"cannot write {path}: {error.strerror}") from error

    def commit(self) -> None:
        """Put the folder on disk and in its place; raises OSError."""
        self.stream.close()
        for file in self.folder.rglob("*"):
            _sync(file)
        _sync(self.folder)
        self._before_replace(self.folder)
        if self._final.exists():
            _exchange(self.folder, self._final)
            shutil.rmtree(self.folder)
        else:
            self.folder.rename(self._final)
        _sync(self._final.parent)

    def abort(self) -> None:
        """Remove what was written."""
        with contextlib.suppress(OSError):  # closing flushes, which may fail on a full disk
            self.stream.close()
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class StreamTarget:
    """A stream that is passed on as it comes, such as standard output."""

    def __init__(self, stream: BinaryIO) -> None:
        self.name = "standard output"
        self.stream = stream

    def commit(self) -> None:
        self.stream.flush()

    def abort(self) -> None:
        pass


def check_target(path: Path, *, is_folder: bool = False) -> None:
    """Check that ``path`` can be written, by making and removing its temporary file.

    Args:
        path: where a file is to be, or a folder.
        is_folder: it is to be a folder.

    Raises:
        UsageError: something of the other kind is there, or its folder is missing.
        OutputError: it cannot be written there.
    """
    try:
        if path.is_dir() and not is_folder:
            raise UsageError(f"{path} is a folder, not a file")
        if path.exists() and is_folder and not path.is_dir():
            raise UsageError(f"{path} is a file, not a folder")
        if path.exists() and not is_folder and not path.is_file():
            raise OutputError(f"cannot write {path}: it is a device or a pipe, not a regular file")
        if not path.parent.is_dir():
            raise UsageError(
                f"cannot write {path}: no folder {path.parent}", hint="create it first"
            )
        if path.exists() and not os.access(path, os.W_OK):  # a rename would not mind
            raise OutputError(f"cannot write {path}: it is write-protected")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    (AtomicFolder if is_folder else AtomicFile)(path).abort()


def _temporary_of(final: Path) -> Path:
    return final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")


def _exchange(first: Path, second: Path) -> None:
    """Let two folders take each other's name: on Linux at once, elsewhere one after the other."""
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if hasattr(libc, "renameat2"):
            names = os.fsencode(first), os.fsencode(second)
            if libc.renameat2(here, names[0], here, names[1], exchange) == 0:
                return
    aside = _temporary_of(second)
    second.rename(aside)
    first.rename(second)
    aside.rename(first)


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable, where the system can (Windows cannot open
    folders)."""
    if path.is_dir():
        with contextlib.suppress(OSError):
            _sync_open(path)
    else:
        _sync_open(path)


def _sync_open(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
