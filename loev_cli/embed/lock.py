"""One run at a time on an output. The lock is released if the process dies."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path

from loev_cli.errors import OutputError
from loev_cli.files.own import own

_PID_N_BYTES = 20
_PID = re.compile(rb"[0-9]{0,20}")  # what a lock file contains


class Lock:
    """Holds a lock file until closed or the process ends; the file itself stays.

    Raises:
        OutputError: another process holds it, the file cannot be made, or it is not a lock of ours.
    """

    def __init__(self, file: Path, *, what: str) -> None:
        while True:
            try:
                self._descriptor = own(file, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                raise OutputError(f"cannot write {file}: {error.strerror}") from error
            try:
                is_ours = _take(self._descriptor)
            except OSError as error:  # some network file systems have no locks
                os.close(self._descriptor)
                raise OutputError(f"cannot lock {file}: {error.strerror}") from error
            if not is_ours:
                holder = os.read(self._descriptor, _PID_N_BYTES).decode("ascii", "replace").strip()
                os.close(self._descriptor)
                raise OutputError(
                    f"{what} is in use by another loev process (PID {holder or 'unknown'})",
                    hint="wait for it, or choose another --out",
                )
            if self._is_still(file):
                break
            os.close(self._descriptor)  # its holder removed it just before we got it
        if not _PID.fullmatch(os.read(self._descriptor, _PID_N_BYTES + 1)):
            os.close(self._descriptor)
            raise OutputError(
                f"{file} is not a loev lock file", hint="remove it, or write elsewhere"
            )
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, str(os.getpid()).encode())

    def _is_still(self, file: Path) -> bool:
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self._descriptor), file.stat())
        return False

    def fileno(self) -> int:
        """The descriptor that holds it; a process that inherits it holds the lock too."""
        return self._descriptor

    def close(self) -> None:
        """Let go."""
        os.close(self._descriptor)


if sys.platform == "win32":
    import msvcrt

    # Locked bytes cannot be read there: the process id stands before them.
    _LOCKED_AT = 1000

    def _take(descriptor: int) -> bool:
        os.lseek(descriptor, _LOCKED_AT, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _take(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
