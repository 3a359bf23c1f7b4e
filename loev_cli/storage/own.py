"""Our own files in folders that others can write to: links are refused, not followed.

A link planted under the name of a lock, a journal or a cache entry would have its target truncated,
or written where nobody asked for it. Only the last part of a path is checked: the folder that a
user names may be reached through links.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from loev_cli.errors import OutputError

_HINT = "remove it, or write elsewhere"
# Windows has no such flags; links there are found by the check before opening.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO would wait for its other end


def user_cache() -> Path:
    """The folder for what loev keeps between runs: ``$XDG_CACHE_HOME/loev`` or ``~/.cache/loev``.

    Raises:
        OutputError: the user has no home folder, as in some containers.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loev"
    except RuntimeError as error:
        raise OutputError("this user has no home folder", hint="set XDG_CACHE_HOME") from error


def own(path: str | os.PathLike[str], flags: int) -> int:
    """An opener for :func:`open`: a regular file, not a link; to write, one without other names.

    Raises:
        OutputError: something else is there.
        OSError: it cannot be opened.
    """
    check_own(Path(path))
    wanted = flags & ~os.O_TRUNC  # truncated when it is known to be ours
    descriptor = os.open(path, wanted | _NO_FOLLOW | _NO_WAITING, 0o666)
    try:
        status = os.fstat(descriptor)
        _check(Path(path), status)
        if wanted & (os.O_WRONLY | os.O_RDWR) and status.st_nlink > 1:
            raise OutputError(f"{path} is a hard link to another file", hint=_HINT)
        if flags & os.O_TRUNC:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_own(path: Path) -> None:
    """Check that nothing, or a regular file, is at ``path``.

    Raises:
        OutputError: something else is there.
        OSError: it cannot be looked at.
    """
    with contextlib.suppress(FileNotFoundError):
        _check(path, path.lstat())


def own_folder(path: Path, *, parents: bool = False) -> None:
    """Make the folder ``path`` if it is missing.

    Raises:
        OutputError: a link or something else is there.
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(parents=parents)
    status = path.lstat()
    if _is_link(status):
        raise OutputError(f"{path} is a symbolic link", hint=_HINT)
    if not stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{path} is not a folder", hint=_HINT)


def make_own_folder(path: Path) -> None:
    """As :func:`own_folder`, with its parents.

    Raises:
        OutputError: also where it cannot be made.
    """
    try:
        own_folder(path, parents=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _check(path: Path, status: os.stat_result) -> None:
    if _is_link(status):
        raise OutputError(f"{path} is a symbolic link", hint=_HINT)
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(f"{path} is not a regular file", hint=_HINT)


def _is_link(status: os.stat_result) -> bool:
    junction = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)
    tag = getattr(status, "st_reparse_tag", 0)
    return stat.S_ISLNK(status.st_mode) or (tag != 0 and tag == junction)
