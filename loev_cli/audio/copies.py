"""Downloads remote inputs, one at a time, to temporary files for decoding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from loev_cli.audio.sources import Source
from loev_cli.errors import InputError
from loev_cli.remote import DEFAULT_LIMITS, Limits, RemoteError, fetched


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
