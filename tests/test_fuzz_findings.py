"""Inputs that benchmarks/fuzz_readers.py once found something with, each as small as it goes."""

from __future__ import annotations

import importlib.util
import struct
import tracemalloc
from pathlib import Path

import pytest

from loev_cli.bundle import Bundle
from loev_cli.embed.parts import Part, PartWriter, Stamp
from loev_cli.errors import UsageError
from loev_cli.formats import read, read_meta
from loev_cli.formats import rows as rows_of
from tests.test_formats import meta_of, write


def refused_in_one_line(path: Path) -> None:
    for reader in (read_meta, read, lambda path: list(rows_of(path))):
        try:
            reader(path)  # type: ignore[operator]
        except UsageError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (8, 99),  # compression method in the directory
        (6, 167),  # version needed
        (10, 99),
        (6, 1),  # encrypted
    ],
)
@pytest.mark.parametrize("signature", [b"PK\x01\x02", b"PK\x03\x04"])
def test_npz_that_asks_for_what_zip_files_may_ask_for(
    bundle: Bundle, tmp_path: Path, signature: bytes, offset: int, value: int
) -> None:
    out = tmp_path / "x.npz"
    write(out, meta_of(bundle))
    content = bytearray(out.read_bytes())
    at = content.rindex(signature)
    struct.pack_into("<H", content, at + offset, value)
    out.write_bytes(content)
    refused_in_one_line(out)


def test_parquet_of_which_the_library_tells_in_several_lines(
    bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "x.parquet"
    write(out, meta_of(bundle))
    content = bytearray(out.read_bytes())
    for at in range(4, len(content) // 2, 97):
        damaged = bytearray(content)
        damaged[at : at + 8] = b"\xff" * 8
        out.write_bytes(damaged)
        refused_in_one_line(out)


@pytest.mark.skipif(importlib.util.find_spec("lance") is None, reason="needs the extra 'db'")
def test_lance_whose_error_has_a_nul_in_it_does_not_end_the_process(
    bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "x.lance"
    write(out, meta_of(bundle))
    (file,) = (out / "data").iterdir()
    content = file.read_bytes()
    assert b"/lance.encodings.ColumnEncoding" in content
    file.write_bytes(content.replace(b"/lance.encodings.", b"/lance.\0ncodings."))
    with pytest.raises(UsageError, match="was modified since it was written"):
        read(out)


def test_a_damaged_length_in_a_journal_asks_for_no_memory(tmp_path: Path) -> None:
    file, owner = tmp_path / "part-000001.rows", bytes(32)
    writer = PartWriter(file, owner)
    writer.add("a.mp3", Stamp(1, 2))
    writer.add("b.mp3", Stamp(1, 2))
    writer.close()
    content = bytearray(file.read_bytes())
    second = content.rindex(b'{"path"') - 12
    struct.pack_into("<I", content, second, 2**31 - 1)
    file.write_bytes(content)
    tracemalloc.start()
    part = Part(file, owner)
    assert [place.path for place in part.places()] == ["a.mp3"]
    assert part.torn
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    part.close()
