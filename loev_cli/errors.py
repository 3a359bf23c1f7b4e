"""The errors loev raises on purpose. Each says what failed, where, and what to do about it.

The command line prints the message as one line and leaves with ``exit_code``; library users
catch :class:`LoevError`. Anything else that escapes is a bug.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_SIGINT = 130
EXIT_SIGTERM = 143

Stage = Literal["open", "decode", "encode", "write"]


class LoevError(Exception):
    """Something failed that the user can understand and act on.

    Args:
        message: what failed, naming the file or value.
        hint: what to do about it, if there is something to do.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message} ({hint})" if hint else message)

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments defeat the default; workers send these across processes.
        return _rebuild, (type(self), str(self), self.__dict__)


def _rebuild(kind: type[LoevError], text: str, attributes: dict[str, Any]) -> LoevError:
    error = kind.__new__(kind)
    Exception.__init__(error, text)
    error.__dict__.update(attributes)
    return error


class UsageError(LoevError):
    """The request itself is wrong: no such path, an unknown name, a value out of range."""

    exit_code = EXIT_USAGE


class MissingExtraError(UsageError):
    """A command needs a package that the base install leaves out."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs packages that are not installed",
            hint=f"pip install 'loev-cli[{extra}]'",
        )


class BundleError(LoevError):
    """A model bundle is missing a part, damaged, or newer than this loev."""


class InputError(LoevError):
    """One input file could not be embedded or used; the others continue.

    Args:
        stage: where it failed, as written to ``failures.jsonl``.
        kind: the type of what went wrong, as written there, if there is no ``__cause__``.
    """

    def __init__(
        self, message: str, *, stage: Stage, kind: str | None = None, hint: str | None = None
    ) -> None:
        self.stage: Stage = stage
        self.kind = kind
        super().__init__(message, hint=hint)


class StoppedError(LoevError):
    """A run cannot continue, and no single file is to blame: a decoder cannot be started, or the
    inputs have gone. What is done is kept."""


class OutputError(LoevError):
    """The output could not be written: no folder, no permission, no space."""


@contextlib.contextmanager
def needs_extra(feature: str, extra: str) -> Iterator[None]:
    """Around imports of packages that the base install leaves out.

    Raises:
        MissingExtraError: one is missing; it names the extra to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "loev_cli":
            raise  # a bug of ours, not a missing package
        raise MissingExtraError(feature, extra) from error


@contextlib.contextmanager
def starting(what: str) -> Iterator[None]:
    """Around the start of a thread or process.

    Raises:
        StoppedError: the system refuses it, for want of processes, files or memory.
    """
    try:
        yield
    except (OSError, RuntimeError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StoppedError(
            f"cannot start {what}: {reason}",
            hint="raise this process's limits (ulimit -n, ulimit -u, memory), or lower --workers",
        ) from error


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name most like ``name``; None if none is near."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return match[0] if match else None


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """``"did you mean 'x'? "`` with the known name nearest to ``name``; empty if none is near."""
    match = nearest(name, known, cutoff=cutoff)
    return f"did you mean '{match}'? " if match else ""


def known_names(
    name: str, known: Iterable[str], what: str = "it has", *, cutoff: float = 0.6
) -> str:
    """A hint for an unknown ``name``: the nearest known one, then ``what`` and all of them."""
    known = list(known)
    return f"{did_you_mean(name, known, cutoff=cutoff)}{what} {', '.join(known) or 'none'}"


def entry(known: Mapping[str, T], name: str, what: str) -> T:
    """``known[name]``.

    Args:
        what: one of them is, e.g. "encoder".

    Raises:
        UsageError: there is none of that name.
    """
    if name not in known:
        raise UsageError(f"no {what} '{name}'", hint=known_names(name, known, f"{what}s:"))
    return known[name]
