"""What a command may write over: the one rule for every output of every command.

A file or folder that exists is replaced only if it is an earlier output of the same command, or
``--overwrite`` insists; an input of the run is never replaced, whatever insists. Files are compared
by what they are and not by name, so links and other spellings count. docs/outputs.md says how each
command recognizes its own.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from loev_cli.errors import UsageError
from loev_cli.storage.atomic import check_target

_STDIN_DESCRIPTOR = 0


def check_place(
    out: Path,
    *,
    inputs: Iterable[str | Path | int] = (),
    is_earlier: Callable[[Path], bool] | None = None,
    overwrite: bool = False,
    is_folder: bool = False,
) -> None:
    """Check, before the work, that an output may be written to ``out``.

    Args:
        inputs: everything the run reads: paths, or descriptors (0 is standard input).
        is_earlier: whether what is at ``out`` is an earlier output of the same command; None for
            commands that replace nothing unless told to.
        overwrite: also replace what is not an earlier output.
        is_folder: the output is a folder.

    Raises:
        UsageError: ``out`` is an input, of the other kind, or no earlier output; or its folder is
            missing.
        OutputError: it cannot be written there.
    """
    check_no_input(out, inputs)
    check_target(out, is_folder=is_folder)
    check_earlier(out, is_earlier, overwrite=overwrite)


def check_earlier(
    out: Path, is_earlier: Callable[[Path], bool] | None, *, overwrite: bool | None
) -> None:
    """The part of :func:`check_place` that asks who made what is there.

    Args:
        overwrite: None for commands without this option.

    Raises:
        UsageError: somebody else.
    """
    if overwrite or _is_empty(out):
        return
    if is_earlier is None:
        raise UsageError(f"{out} exists", hint="--overwrite replaces it")
    if not is_earlier(out):
        raise UsageError(
            f"will not replace {out}: this command did not create it",
            hint="choose another --out" + ("" if overwrite is None else ", or add --overwrite"),
        )


def check_no_input(
    out: Path, inputs: Iterable[str | Path | int], *, called: str = "inputs"
) -> None:
    """Check that replacing ``out`` would destroy none of the inputs.

    That is: ``out`` is none of them, no file in one that is a folder, no folder that one lies in.

    Args:
        called: what the inputs are, for the error.

    Raises:
        UsageError: it would.
    """
    try:
        taken = out.stat()
    except (OSError, ValueError):
        return
    is_folder = stat.S_ISDIR(taken.st_mode)
    contents = _below(out) if is_folder else frozenset()
    for each in inputs:
        # An input that is not there: its own failure, later.
        with contextlib.suppress(OSError, ValueError):
            found = os.stat(each)  # noqa: PTH116  (it takes descriptors)
            if os.path.samestat(found, taken):
                raise UsageError(f"{out} is one of the {called}", hint="choose another --out")
            if (found.st_dev, found.st_ino) in contents:
                raise UsageError(
                    f"{out} contains {each}, one of the {called}", hint="choose another --out"
                )
            if not is_folder and stat.S_ISDIR(found.st_mode):
                folder = os.path.join(os.path.realpath(str(each)), "")  # noqa: PTH118
                if os.path.realpath(out).startswith(folder):
                    raise UsageError(
                        f"{out} is part of {each}, one of the {called}", hint="choose another --out"
                    )


def _below(folder: Path) -> frozenset[tuple[int, int]]:
    """Device and inode of all that is in a folder: there may be a million inputs to look up."""
    found = set()
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                status = os.stat(os.path.join(parent, name))  # noqa: PTH116, PTH118
                found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def read_inputs(given: Iterable[str]) -> list[str | int]:
    """Inputs as typed, with ``-`` as the descriptor of standard input."""
    return [_STDIN_DESCRIPTOR if each == "-" else each for each in given]


def _is_empty(out: Path) -> bool:
    """Whether nothing is there: no file, one without a byte, or a folder without an entry."""
    if out.is_dir():
        return not any(out.iterdir())
    return not out.exists() or out.stat().st_size == 0
