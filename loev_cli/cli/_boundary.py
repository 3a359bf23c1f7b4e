"""Where the program meets the system: errors become one line and a code, signals exceptions."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

import typer

from loev_cli.cli._console import say
from loev_cli.cli._streams import StdoutClosedError
from loev_cli.errors import EXIT_DONE, EXIT_FAILED, EXIT_SIGINT, EXIT_SIGTERM, LoevError

# Typer carries its own copy of click or, before 0.20, uses click itself; this is the class of
# usage errors in either.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

_SIGNALS = {signal.SIGINT: EXIT_SIGINT, signal.SIGTERM: EXIT_SIGTERM}


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
