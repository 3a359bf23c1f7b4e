"""Files that could not be embedded, and the ``<out>.failures.jsonl`` that lists them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loev_cli.errors import InputError, OutputError, Stage
from loev_cli.row_names import spell_out
from loev_cli.writers import AtomicFile
from loev_cli.writers.replacing import check_earlier, check_no_input

FAILURES_SUFFIX = ".failures.jsonl"


@dataclass(frozen=True)
class Failure:
    """One input that gave no row.

    Attributes:
        path: its row name.
        stage: ``open``, ``decode`` or ``encode``.
        error: the error's type.
        message: one line for people, naming the file.
    """

    path: str
    stage: Stage
    error: str
    message: str


def describe(path: str, error: InputError) -> Failure:
    """The failure of the track ``path``. Its type is the cause's where there is one."""
    kind = error.kind or type(error.__cause__ or error).__name__
    message = spell_out(" ".join(str(error).split()))
    return Failure(path, error.stage, kind, message)


def read_failures(out: str) -> list[Failure]:
    """What the list beside the output ``out`` says; nothing if there is none, or none of ours."""
    try:
        text = Path(out + FAILURES_SUFFIX).read_text(encoding="utf-8")
        return [Failure(**json.loads(line)) for line in text.splitlines()]
    except (OSError, ValueError, TypeError):
        return []


def check_failures_place(out: str, inputs: Iterable[str | Path | int], *, overwrite: bool) -> None:
    """Check, before the work, that a list of failures may be written beside the output ``out``.

    Raises:
        UsageError: what is there is an input, or no such list.
    """
    path = Path(out + FAILURES_SUFFIX)
    check_no_input(path, inputs)
    check_earlier(path, lambda _: bool(read_failures(out)), overwrite=overwrite)


def write_failures(out: str, failures: Sequence[Failure]) -> None:
    """Put the list beside the output ``out``; without failures an earlier list is removed.

    Raises:
        OutputError: it cannot be written.
    """
    path = Path(out + FAILURES_SUFFIX)
    try:
        if not failures:
            path.unlink(missing_ok=True)
            return
        file = AtomicFile(path)
        try:
            for failure in failures:
                line = json.dumps(asdict(failure), ensure_ascii=False)
                file.stream.write(line.encode() + b"\n")
            file.commit()
        except BaseException:
            file.abort()
            raise
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}",
            hint="the embedding file is not affected",
        ) from error
