"""Text, JSON and TOML that anybody may have written: read within bounds, and every fault known.

What a file says is checked by whoever reads it; with :data:`DATA_ERRORS` one clause catches what
Python raises at values of an unexpected type, size or depth, which are faults of the file.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

# Of content that is not what it should be. AttributeError and TypeError: a list where a table is
# expected; OverflowError: a number of 400 digits; MemoryError: a size that no memory has.
DATA_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
MAX_DEPTH = 32
_MANY_KEYS = re.compile(rf"(?:[\w\"'-]+[ \t]*\.[ \t]*){{{MAX_DEPTH}}}")


def in_one_line(error: BaseException) -> str:
    """What a library says of a file, without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def read_bytes(file: Path, max_n_bytes: int, *, opener: Any = None) -> bytes:
    """The content of a file of at most ``max_n_bytes``.

    Raises:
        ValueError: it is larger.
        OSError: it cannot be read.
    """
    with open(file, "rb", opener=opener) as stream:
        content: bytes = stream.read(max_n_bytes + 1)
    if len(content) > max_n_bytes:
        raise ValueError(f"it is larger than {max_n_bytes} bytes")
    return content


def lines_of(stream: IO[bytes], max_n_bytes: int) -> Iterator[bytes]:
    """The lines of a file, each of at most ``max_n_bytes``. Raises as :func:`read_bytes`."""
    while line := stream.readline(max_n_bytes + 1):
        if len(line) > max_n_bytes:
            raise ValueError(f"the line is longer than {max_n_bytes} bytes")
        yield line


def parse_json(text: str | bytes, *, max_depth: int | None = MAX_DEPTH) -> Any:
    """A JSON document.

    Args:
        max_depth: how deep lists and tables may be nested; None: as deep as Python can.

    Raises:
        ValueError: it is not JSON, or nested deeper.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if max_depth is not None:
        check_depth(content, max_depth)
    return content


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML document. Raises ValueError as :func:`parse_json`."""
    if _MANY_KEYS.search(text):  # the time that tomllib takes grows with the square of their number
        raise ValueError("a key has too many parts")
    try:
        content = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    check_depth(content)
    return content


def check_depth(content: Any, max_depth: int = MAX_DEPTH) -> None:
    """Raises ValueError where lists and tables are nested deeper."""
    level = [content]
    for _ in range(max_depth + 1):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        if not inner:
            return
        level = inner
    raise ValueError("it is nested too deeply")
