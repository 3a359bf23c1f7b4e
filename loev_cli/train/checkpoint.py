"""Checkpoints on disk: written whole or not at all, read without unpickling code."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from loev_cli.errors import OutputError, UsageError
from loev_cli.storage.own import own

FOLDER = "checkpoints"
LAST = "last.pt"
BEST = "best.pt"
_KEYS = {"config", "model", "step", "facts"}


def best_or_last(run: Path) -> Path:
    """The checkpoint a bundle is made from: the best validated one, else the last."""
    best = run / FOLDER / BEST
    return best if best.exists() else run / FOLDER / LAST


def write_checkpoint(file: Path, state: Mapping[str, Any]) -> None:
    """Write ``state``; what ``file`` held before stays whole until this one is.

    Raises:
        OutputError: no space, no permission.
    """
    draft = file.with_name(f".{file.name}.tmp")
    stream: _RememberingWriter | None = None
    try:
        with _RememberingWriter(io.FileIO(draft, "w", opener=own)) as stream:
            torch.save(dict(state), stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    except (OSError, RuntimeError) as error:
        draft.unlink(missing_ok=True)
        cause = (stream.failure if stream else None) or error
        reason = getattr(cause, "strerror", None) or str(cause).splitlines()[0]
        raise OutputError(
            f"cannot write checkpoint {file}: {reason}",
            hint="the previous checkpoint is intact; free disk space and --resume",
        ) from error


class _RememberingWriter(io.BufferedWriter):
    """Remembers the OSError of a failed write, which torch.save hides."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def load_checkpoint(file: Path) -> dict[str, Any]:
    """A training checkpoint, on the CPU; nothing but tensors and plain values is read.

    Raises:
        UsageError: no such file, or not a checkpoint of ours.
    """
    if not file.is_file():
        raise UsageError(f"no checkpoint {file}")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever a foreign file provokes in it
        raise UsageError(f"{file} is not a checkpoint, or is damaged") from error
    if not isinstance(state, dict) or not state.keys() >= _KEYS:
        raise UsageError(f"{file} is not a loev checkpoint")
    return state
