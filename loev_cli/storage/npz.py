"""NumPy archives (``.npz``) that anybody may have made: headers are checked before arrays are made.

A header asks for as much memory as it likes, and a compressed member of 1 MB may unpack to
gigabytes. So the headers of all arrays are read first: their sizes must be those of their members,
and all of them together in proportion to the file. Nothing is unpickled.
"""

from __future__ import annotations

import math
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from loev_cli.storage.bounded import DATA_ERRORS

# What a damaged archive raises. RuntimeError: it asks for a password, or for methods unheard of.
NPZ_ERRORS = (
    *DATA_ERRORS,
    OSError,
    EOFError,
    RuntimeError,
    SyntaxError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
# Of all arrays together: vectors hardly compress, padded text does well.
MAX_EXPANSION = 100
ALWAYS_ALLOWED_N_BYTES = 256 << 20

_SUFFIX = ".npy"
# Methods with a bounded window; others may ask for gigabytes to unpack anything.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CHUNK_N_BYTES = 1 << 20


@dataclass(frozen=True)
class Header:
    """What an array is, before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Archive:
    """An ``.npz`` file, open, its headers checked; a context manager.

    Attributes:
        headers: name -> what the array is.

    Raises:
        One of NPZ_ERRORS, also from the methods: it is not such a file, damaged, or asks for more
            memory than it may.
    """

    def __init__(self, file: Path) -> None:
        self._zip = zipfile.ZipFile(file)
        try:
            self._members: dict[str, zipfile.ZipInfo] = {}
            for info in self._zip.infolist():
                name = info.filename.removesuffix(_SUFFIX)
                if name == info.filename:
                    continue
                if name in self._members:
                    raise ValueError(f"there are two arrays '{name}'")
                self._members[name] = info
            n_allowed = max(ALWAYS_ALLOWED_N_BYTES, MAX_EXPANSION * file.stat().st_size)
            n_claimed = sum(info.file_size for info in self._members.values())
            if n_claimed > n_allowed:
                raise ValueError(f"its arrays claim {n_claimed} bytes, far more than the file has")
            self.headers: Mapping[str, Header] = {
                name: self._header(name) for name in self._members
            }
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    @contextmanager
    def values(self, name: str) -> Iterator[IO[bytes]]:
        """A stream of an array's values, behind its header."""
        with self._zip.open(self._members[name]) as member:
            _read_header(name, member)
            yield member

    def load(self, name: str) -> NDArray[Any]:
        """A whole array."""
        header = self.headers[name]
        flat = np.empty(math.prod(header.shape), header.dtype)
        with self.values(name) as member:
            room = memoryview(flat.view(np.uint8) if header.n_bytes else b"")  # type: ignore[arg-type]
            while room:
                n_read = member.readinto(room[:_CHUNK_N_BYTES])  # type: ignore[attr-defined]
                if not n_read:
                    raise EOFError(f"array '{name}' is cut off")
                room = room[n_read:]
        check_text(flat)
        if header.is_fortran:
            return flat.reshape(header.shape[::-1]).T
        return flat.reshape(header.shape)

    def _header(self, name: str) -> Header:
        info = self._members[name]
        if info.compress_type not in _METHODS:
            raise ValueError(f"array '{name}' is compressed by method {info.compress_type}")
        with self._zip.open(info) as member:
            header = _read_header(name, member)
            n_bytes = member.tell() + header.n_bytes
        if n_bytes != info.file_size:
            raise ValueError(f"array '{name}' has {info.file_size} bytes, not {n_bytes}")
        return header


def check_text(values: NDArray[Any]) -> None:
    """Raises ValueError where values (n,) of text have characters that there are not."""
    if values.dtype.kind == "U" and values.nbytes:
        code_points = values.view(np.dtype(np.uint32).newbyteorder(values.dtype.byteorder))
        if code_points.max() > sys.maxunicode:
            raise ValueError("it has text that is not Unicode")


def _read_header(name: str, member: IO[bytes]) -> Header:
    version = npy.read_magic(member)
    if version == (1, 0):
        shape, is_fortran, dtype = npy.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, is_fortran, dtype = npy.read_array_header_2_0(member)
    else:
        raise ValueError(f"array '{name}' has format {version}")
    if dtype.hasobject:
        raise ValueError(f"array '{name}' is of pickled objects")
    if dtype.fields is not None or dtype.subdtype is not None or any(n < 0 for n in shape):
        raise ValueError(f"'{name}' is not a plain array")
    return Header(shape, dtype, is_fortran)
