"""Standard streams that are full, or closed by whoever reads them.

stderr    is for people: what cannot be written there is dropped, and the run continues.
stdout    is the asked-for data: a reader that has gone ends the command, done; anything else that
          keeps it from being written is a failure, told once.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from loev_cli.errors import OutputError

_STDOUT, _STDERR = 1, 2


class StdoutClosedError(Exception):
    """The reader of standard output has gone. No OSError, which somebody might handle."""


@contextlib.contextmanager
def standard_streams(*, silence_libraries: bool) -> Iterator[None]:
    """For a whole run: standard streams behave as the module's text says.

    Args:
        silence_libraries: what C libraries print on stderr is kept from the user. libsndfile's MP3
            decoder and ONNX Runtime print warnings straight to file descriptor 2. It is pointed at
            nothing for the whole run, rather than around each call, since decoding happens in
            threads and a descriptor belongs to all of them. Python's own stderr goes on.
    """
    _occupy_descriptors()
    stdout, stderr = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, sys, "stdout", stdout)
        stack.callback(setattr, sys, "stderr", stderr)
        if stderr is None:
            # What others print there must not end up in stdout, or in a file of ours.
            sys.stderr = stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123
        else:
            stderr.flush()
            kept = os.dup(_STDERR)
            stack.callback(os.close, kept)
            if silence_libraries:
                _point_at_nothing(_STDERR)
                stack.callback(os.dup2, kept, _STDERR)
            if _descriptor_of(stderr) == _STDERR:
                sys.stderr = _text(stderr, _Stream(kept, _drop))
                stack.callback(_close, sys.stderr)
        if stdout is not None and _descriptor_of(stdout) == _STDOUT:
            sys.stdout = _text(stdout, _Stream(_STDOUT, _raise_about_stdout))
            stack.callback(_close, sys.stdout)
        yield


class _Stream(io.RawIOBase):
    """Bytes to a descriptor, which stays open.

    Args:
        on_error: is given an error. What it raises is raised once and never again, as at exit.
    """

    def __init__(self, descriptor: int, on_error: Callable[[OSError], None]) -> None:
        # Not os.write(), which knows nothing of a Windows console.
        self._raw = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115
        self._on_error = on_error
        self._has_raised = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any) -> int:
        while not self._has_raised:
            try:
                n_written = self._raw.write(data)
            except OSError as error:
                self._has_raised = True
                self._on_error(error)
                self._has_raised = False
                break
            if n_written is not None:
                return n_written
            select.select([], [self._raw], [])  # print() expects to wait for a full pipe
        return memoryview(data).nbytes


def _drop(error: OSError) -> None:
    pass


def _raise_about_stdout(error: OSError) -> None:
    if error.errno == errno.EPIPE:
        raise StdoutClosedError from error
    raise OutputError(f"cannot write {_stdout_name()}: {error.strerror}") from error


def _stdout_name() -> str:
    with contextlib.suppress(OSError):
        path = Path(f"/proc/self/fd/{_STDOUT}").readlink()
        if path.is_absolute():
            return f"standard output ({path})"
    return "standard output"


def _text(previous: TextIO, raw: _Stream) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=previous.encoding,
        errors=previous.errors,
        line_buffering=raw.fileno() != _STDOUT or raw.isatty(),
    )


def _occupy_descriptors() -> None:
    """A standard descriptor that the caller closed would be the next file that is opened, and what
    a library prints would end up in it."""
    while (nothing := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(nothing, True)
    os.close(nothing)


def _point_at_nothing(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)


def _descriptor_of(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except (OSError, io.UnsupportedOperation, AttributeError, ValueError):
        return None


def _close(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError, StdoutClosedError, OutputError):
        stream.close()
