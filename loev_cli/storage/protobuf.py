"""Whether an ONNX file keeps all its tensors inside, told without ``onnx``.

A tensor may name another file that contains its values. Such a file is not covered by the bundle's
checksums, so a graph could be swapped without anybody noticing. The fields are those of onnx.proto3
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3); tensors are also looked for in
subgraphs, functions, training information and sparse tensors. Values are skipped, not read.
"""

from __future__ import annotations

import mmap
from pathlib import Path

# Message -> number of the field -> message in it, for those that lead to a tensor.
_FIELDS = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        **{5: "Tensor", 10: "Tensor", 6: "Graph", 11: "Graph"},
        **{22: "SparseTensor", 23: "SparseTensor"},
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Tensor": {},
}
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14  # fields of a tensor
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # how a value is written
_MAX_VARINT_N_BYTES = 10
_MAX_KEY_N_BYTES = 5  # 32 bits: what readers make of a longer one differs


def external_tensor(file: Path) -> str | None:
    """The name of a tensor whose values are in another file; None if there is none.

    Raises:
        ValueError: it is not an ONNX file, or damaged.
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        if not file.stat().st_size:
            raise ValueError("it is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _external_tensor(data)


def _external_tensor(data: mmap.mmap) -> str | None:
    waiting = [("Model", 0, len(data))]  # message, begin, end
    while waiting:
        message, at, end = waiting.pop()
        inner, is_external, name = _FIELDS[message], False, "(no name)"
        while at < end:
            key, at = _varint(data, at, end, _MAX_KEY_N_BYTES)
            field, kind = key >> 3, key & 7
            if kind == _VARINT:
                value, at = _varint(data, at, end, _MAX_VARINT_N_BYTES)
                is_external |= message == "Tensor" and field == _DATA_LOCATION and value != 0
                continue
            if kind == _BYTES:
                n_bytes, at = _varint(data, at, end, _MAX_VARINT_N_BYTES)
            elif kind in (_FIXED64, _FIXED32):
                n_bytes = 8 if kind == _FIXED64 else 4
            else:
                raise ValueError(f"there is no field of type {kind}")
            begin, at = at, at + n_bytes
            if at > end:
                raise ValueError("it is cut off, or damaged")
            if kind == _BYTES and field in inner:
                waiting.append((inner[field], begin, at))
            elif message == "Tensor" and kind == _BYTES and field == _NAME:
                name = data[begin:at].decode("utf-8", "replace")
            elif message == "Tensor" and field == _EXTERNAL_DATA:
                is_external = True
        if is_external:
            return name
    return None


def _varint(data: mmap.mmap, at: int, end: int, max_n_bytes: int) -> tuple[int, int]:
    """A number and where it ends."""
    if at < end and data[at] < 0x80:  # most are of one byte, and a graph has tens of thousands
        return data[at], at + 1
    value = 0
    for i in range(min(max_n_bytes, end - at)):
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError("it is cut off, or damaged")
