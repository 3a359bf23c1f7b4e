"""File names as rows of an embedding file have them, and back.

A file name is bytes, a row name is text. Python makes text of bytes that are not UTF-8 by lone
surrogates, which no format of ours can keep.
"""

from __future__ import annotations

import os
import re
import sys

_NO_UTF8 = re.compile(r"(\\*)([\udc80-\udcff])|(\\+)(?=x[89a-f][0-9a-f])")
_SPELLED = re.compile(r"(\\+)(x[89a-f][0-9a-f])")


def spell_out(text: str) -> str:
    """Valid Unicode, for messages: bytes that are not UTF-8 are spelled ``\\xNN``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def row_name(path: str) -> str:
    """A path as rows have it: ``/`` separated and valid Unicode; :func:`path_of_row` reverses it.

    Bytes of file names that are not UTF-8 are spelled ``\\xNN``. Where a name has the characters
    ``\\xNN`` itself, or a backslash just before such a byte, its backslashes are doubled there:

        the byte FF       \\xff        the characters \\xff        \\\\xff
        \\, the byte FF   \\\\\\xff      the characters \\\\xff       \\\\\\\\xff
    """
    return _NO_UTF8.sub(_spell, _as_utf8(path).replace(os.sep, "/"))


def path_of_row(name: str) -> str:
    """The path that a row name was made of, as the system's functions take it; ``os.fsencode``
    gives its bytes."""
    return os.fsdecode(_SPELLED.sub(_read, name).encode("utf-8", "surrogateescape"))


def _as_utf8(path: str) -> str:
    """The text of the path's bytes in UTF-8, also where the locale is another."""
    try:
        raw = path.encode(sys.getfilesystemencoding(), "surrogateescape")
    except UnicodeEncodeError:  # part of a URL, which is text whatever the locale
        return path
    return raw.decode("utf-8", "surrogateescape")


def _spell(found: re.Match[str]) -> str:
    if found[2]:
        return f"{2 * found[1]}\\x{ord(found[2]) - 0xDC00:02x}"
    return 2 * found[3]


def _read(found: re.Match[str]) -> str:
    n_literal, is_byte = divmod(len(found[1]), 2)
    rest = chr(0xDC00 + int(found[2][1:], 16)) if is_byte else found[2]
    return "\\" * n_literal + rest
