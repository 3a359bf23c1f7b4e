"""Files that appear whole or not at all: a temporary name in the same folder, then a rename."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from loev_cli.errors import OutputError, UsageError


class AtomicFile:
    """A file being written beside its final place.

    Args:
        path: its final place.
        before_replace: is called with the finished temporary file before it takes that place.

    Attributes:
        stream: where to write.
        name: the final path, for messages.

    Raises:
        OutputError: the temporary file cannot be made.
    """

    def __init__(
        self, path: Path, *, before_replace: Callable[[Path], None] = lambda finished: None
    ) -> None:
        self.name = str(path)
        self._before_replace = before_replace
        # A symbolic link stays one: what it points to is replaced.
        self._final = Path(os.path.realpath(path))
        self._temporary = self._final.with_name(f".{self._final.name}.{secrets.token_hex(4)}.tmp")
        try:
            self.stream: BinaryIO = self._temporary.open("xb")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error

    def commit(self) -> None:
        """Put the file on disk and in its place; raises OSError."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        self._before_replace(self._temporary)
        self._temporary.replace(self._final)
        _sync_folder(self._final.parent)

    def abort(self) -> None:
        """Remove what was written."""
        with contextlib.suppress(OSError):  # closing flushes, which may fail on a full disk
            self.stream.close()
        self._temporary.unlink(missing_ok=True)


class StreamTarget:
    """A stream that is passed on as it comes, such as standard output."""

    def __init__(self, stream: BinaryIO) -> None:
        self.name = "standard output"
        self.stream = stream

    def commit(self) -> None:
        self.stream.flush()

    def abort(self) -> None:
        pass


def check_target(path: Path) -> None:
    """Check that ``path`` can be written, by making and removing its temporary file.

    Raises:
        UsageError: it is a folder, or its folder is missing.
        OutputError: it cannot be written there.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder, not a file")
        if not path.parent.is_dir():
            raise UsageError(
                f"cannot write {path}: no folder {path.parent}", hint="create it first"
            )
        if path.exists() and not os.access(path, os.W_OK):  # a rename would not mind
            raise OutputError(f"cannot write {path}: it is write-protected")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    AtomicFile(path).abort()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can (Windows cannot open folders)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
