"""Files that could not be embedded, and the ``<out>.failures.jsonl`` that lists them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loev_cli.errors import InputError, OutputError, Stage
from loev_cli.files.bounded import DATA_ERRORS, parse_json, read_bytes
from loev_cli.files.own import check_own
from loev_cli.row_names import spell_out
from loev_cli.writers.atomic import writing_own
from loev_cli.writers.replacing import check_earlier, check_no_input

FAILURES_SUFFIX = ".failures.jsonl"
_MAX_N_BYTES = 256 << 20  # of a million files
_HINT = "the embedding file is not affected"


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
        text = read_bytes(Path(out + FAILURES_SUFFIX), _MAX_N_BYTES).decode()
        failures = [Failure(**parse_json(line)) for line in text.splitlines()]
    except (OSError, *DATA_ERRORS):
        return []
    are_texts = all(isinstance(x, str) for one in failures for x in vars(one).values())
    return failures if are_texts else []


def check_failures(out: str, inputs: Iterable[str | Path | int], *, overwrite: bool) -> None:
    """Check, before any work, that a list of failures may be written beside the output ``out``.

    Raises:
        OutputError: a link or something else than a regular file is there.
        UsageError: what is there is an input, or no such list.
    """
    path = Path(out + FAILURES_SUFFIX)
    try:
        check_own(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
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
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}", hint=_HINT) from error
    with writing_own(path, hint=_HINT) as stream:
        for failure in failures:
            stream.write(json.dumps(asdict(failure), ensure_ascii=False).encode() + b"\n")
