"""Where the program meets the system.

errors    become one line on stderr and an exit code, signals exceptions.
stderr    is for people: what cannot be written there is dropped, and the run continues.
stdout    is the asked-for data: a reader that has gone ends the command, done; anything else that
          keeps it from being written is a failure, told once.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

import typer

from loev_cli.cli._console import say
from loev_cli.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_SIGINT,
    EXIT_SIGTERM,
    LoevError,
    OutputError,
)

# Typer carries its own copy of click or, before 0.20, uses click itself; this is the class of
# usage errors in either.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

_STDOUT, _STDERR = 1, 2
_SIGNALS = {signal.SIGINT: EXIT_SIGINT, signal.SIGTERM: EXIT_SIGTERM}


class StdoutClosedError(Exception):
    """The reader of standard output has gone. No OSError, which somebody might handle."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived. Only cleaning up may stop it; ``add_note`` says how to resume."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


def exit_code_of(command: Callable[[], None], *, debug: bool) -> int:
    """Run ``command``; report what it raises on stderr; the exit code."""
    try:
        try:
            command()
            code = EXIT_DONE
        except typer.Exit as done:
            code = done.exit_code
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a broken pipe is expected
        return code
    except Interrupted as interrupt:
        hints = getattr(interrupt, "__notes__", [])
        say("; ".join([f"loev: interrupted ({interrupt.signal.name})", *hints]))
        return _SIGNALS[interrupt.signal]
    except StdoutClosedError:
        return EXIT_DONE
    except LoevError as error:
        _report("; ".join([str(error), *getattr(error, "__notes__", [])]), debug)
        return error.exit_code
    except _UsageError as error:
        _report(_describe_usage(error), debug)
        return int(getattr(error, "exit_code", EXIT_FAILED))
    except Exception as error:
        detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        _report(detail if debug else f"{detail} (run again with --debug for the traceback)", debug)
        return EXIT_FAILED


def _report(message: str, debug: bool) -> None:
    if debug:
        say(traceback.format_exc().rstrip(), keep_lines=True)
    say(f"loev: error: {message}")


def check_working_folder() -> None:
    """Raises LoevError if the working folder was removed: libraries would fail silently."""
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError as error:
        folder = os.environ.get("PWD", "")
        raise LoevError(
            f"the working folder {folder} was removed", hint="change to an existing folder"
        ) from error


def _describe_usage(error: Any) -> str:
    # Newer Typers validate with pydantic, which starts some of its messages so.
    message = str(error.format_message()).rstrip(".").replace(": Value error, ", ": ")
    context = getattr(error, "ctx", None)
    return f"{message} (see '{context.command_path} --help')" if context else message


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """SIGINT and SIGTERM raise :class:`Interrupted` in the main thread.

    One that the parent had us ignore stays ignored: a shell does so for what it starts with ``&``.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        # One is enough: a second signal must not interrupt the cleaning up.
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    heard = [each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    previous = {each: signal.signal(each, handler) for each in heard}
    try:
        yield
    finally:
        for each, old in previous.items():
            signal.signal(each, old)


def leave(code: int) -> NoReturn:
    """End this process with ``code``; no output is lost, no exit handler left out.

    As the interpreter does it: threads and pools of processes are told first, then handlers run.
    Without the first, a process waits for joblib's idle workers until they leave by themselves,
    five minutes.

    Where Arrow was used, native destructors are left out: its threads may still be ending when
    they run, which now and then aborts a process that has done all its work
    (https://github.com/apache/arrow/issues/34314; 11 of 120 searches in a ``.parquet`` file).
    """
    if "pyarrow" not in sys.modules:
        sys.exit(code)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


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
