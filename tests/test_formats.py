"""Embedding files: what is written is read, whole or not at all."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import io
import json
import re
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from loev_cli.bundle import Bundle
from loev_cli.errors import MissingExtraError, OutputError, UsageError
from loev_cli.formats import (
    FOLDERS,
    FORMATS,
    Meta,
    Row,
    check_agree,
    check_output,
    check_replaceable,
    make_meta,
    open_writer,
    read,
    read_meta,
    tables,
)
from loev_cli.formats import rows as rows_of

DIMS = {"invariant": 5, "pitch": 3}
PATHS = ["a/x y.mp3", "b/x y.mp3", "ü/日本 🎵.wav"]
WINDOWS = [2, 1, 4]


def meta_of(bundle: Bundle, *, per_window: bool = False, **changes: Any) -> Meta:
    meta = make_meta(
        bundle,
        subspaces=DIMS,
        hop_n_samples=2000,
        per_window=per_window,
        backend="onnx",
        device="cpu",
        precision="fp32",
    )
    return meta | changes


TAGS = [
    {"artist": "Ärtist", "isrc": ""},
    {"artist": "日本 🎵"},
    {"artist": "", "isrc": "X", "no": "y"},
]


def rows(per_window: bool) -> list[Row]:
    rng = np.random.default_rng(0)
    made = []
    for i, path in enumerate(PATHS):
        shape = (WINDOWS[i],) if per_window else ()
        vectors = {n: rng.standard_normal((*shape, d)).astype(np.float32) for n, d in DIMS.items()}
        starts = np.arange(WINDOWS[i], dtype=np.float32) * np.float32(0.1) if per_window else None
        made.append(Row(path, 1.1 * (i + 1), i == 1, vectors, starts, TAGS[i]))
    return made


def write(out: Path, meta: Meta, per_window: bool = False) -> None:
    with open_writer(str(out), meta) as writer:
        for row in rows(per_window):
            writer.add(row)
        writer.commit()


no_lance = pytest.mark.skipif(
    importlib.util.find_spec("lance") is None, reason="the extra 'db' is not installed"
)
FILES = [extension for extension in FORMATS if extension not in FOLDERS]
every_format = pytest.mark.parametrize(
    "extension", [*FILES, *(pytest.param(extension, marks=no_lance) for extension in FOLDERS)]
)
every_file_format = pytest.mark.parametrize("extension", FILES)


@every_format
@pytest.mark.parametrize("per_window", [False, True])
def test_what_is_written_is_read(
    bundle: Bundle, tmp_path: Path, extension: str, per_window: bool
) -> None:
    out = tmp_path / f"x{extension}"
    meta = meta_of(bundle, per_window=per_window)
    write(out, meta, per_window)
    file = read(out)
    assert read_meta(out) == file.meta == meta
    assert file.paths == PATHS
    assert file.silent.tolist() == [False, True, False]
    assert file.duration_s.dtype == np.float32
    np.testing.assert_array_equal(file.duration_s, np.float32([1.1, 2.2, 1.1 * 3]))
    for name, dim in DIMS.items():
        expected = np.concatenate([row.vectors[name].reshape(-1, dim) for row in rows(per_window)])
        np.testing.assert_array_equal(file.vectors[name], expected)  # to the last bit
        assert file.vectors[name].dtype == np.float32
    if per_window:
        assert file.track is not None
        assert file.start_s is not None
        assert file.track.tolist() == [0, 0, 1, 2, 2, 2, 2]
        np.testing.assert_array_equal(file.start_s[:2], np.float32([0, 0.1]))
    else:
        assert file.track is None
        assert file.start_s is None
    assert list(tmp_path.iterdir()) == [out]


@every_format
@pytest.mark.parametrize("per_window", [False, True])
def test_tags_are_columns(bundle: Bundle, tmp_path: Path, extension: str, per_window: bool) -> None:
    out = tmp_path / f"x{extension}"
    meta = meta_of(bundle, per_window=per_window, tags=["artist", "isrc"])
    write(out, meta, per_window)
    assert read_meta(out)["tags"] == ["artist", "isrc"]
    file = read(out)
    assert file.tags == {"artist": ["Ärtist", "日本 🎵", ""], "isrc": ["", "", "X"]}
    assert file.paths == PATHS
    assert [row.tags for row in rows_of(out)] == [
        {"artist": artist, "isrc": isrc} for artist, isrc in zip(*file.tags.values(), strict=True)
    ]
    check_replaceable(str(out), meta)
    with pytest.raises(UsageError, match="differ in tags"):
        check_replaceable(str(out), meta_of(bundle, per_window=per_window))


def test_columns_of_tags_are_strings(bundle: Bundle, tmp_path: Path) -> None:
    meta = meta_of(bundle, tags=["artist", "isrc"])
    for extension in FILES:
        write(tmp_path / f"x{extension}", meta)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as columns:
        assert columns["tag_artist"].tolist() == ["Ärtist", "日本 🎵", ""]
    assert pq.read_table(tmp_path / "x.parquet")["tag_isrc"].to_pylist() == ["", "", "X"]
    first = (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(first)["tag_artist"] == "Ärtist"


@every_format
@pytest.mark.parametrize("per_window", [False, True])
@pytest.mark.parametrize("n_copies", [0, 1, 700])
def test_rows_come_back_one_by_one(
    bundle: Bundle, tmp_path: Path, extension: str, per_window: bool, n_copies: int
) -> None:
    out = tmp_path / f"x{extension}"
    given = [
        replace(row, path=f"{copy:04} {row.path}")
        for copy in range(n_copies)
        for row in rows(per_window)
    ]
    with open_writer(str(out), meta_of(bundle, per_window=per_window)) as writer:
        for row in given:
            writer.add(row)
        writer.commit()
    found = list(rows_of(out))
    assert [row.path for row in found] == read(out).paths == [row.path for row in given]
    for row, expected in zip(found, given, strict=True):
        assert np.float32(row.duration_s) == np.float32(expected.duration_s)
        assert row.silent == expected.silent
        for name in DIMS:
            np.testing.assert_array_equal(row.vectors[name], expected.vectors[name])
        if per_window:
            np.testing.assert_array_equal(row.start_s, expected.start_s)  # type: ignore[arg-type]


@every_format
def test_a_track_longer_than_any_block_comes_back_whole(
    bundle: Bundle, tmp_path: Path, extension: str
) -> None:
    out = tmp_path / f"x{extension}"
    n_windows = 50_000
    vectors = {n: np.full((n_windows, d), 0.5, np.float32) for n, d in DIMS.items()}
    long = Row("b", 1.0, False, vectors, np.arange(n_windows, dtype=np.float32))
    with open_writer(str(out), meta_of(bundle, per_window=True)) as writer:
        for row in (replace(rows(True)[0], path="a"), long, replace(rows(True)[2], path="c")):
            writer.add(row)
        writer.commit()
    _, found, _ = rows_of(out)
    np.testing.assert_array_equal(found.start_s, long.start_s)  # type: ignore[arg-type]
    assert found.vectors["pitch"].shape == (n_windows, 3)


def test_parquet_does_not_keep_what_was_read(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow does, unless told not to. What it reads of our stream is memory that Python counts."""
    monkeypatch.setattr(tables, "_TABLE_N_BYTES", 1 << 18)  # row groups
    out, dim = tmp_path / "x.parquet", 500
    rng = np.random.default_rng(0)
    with open_writer(str(out), meta_of(bundle) | {"subspaces": {"tempo": dim}}) as writer:
        for i in range(4000):
            vectors = {"tempo": rng.standard_normal(dim, np.float32)}
            writer.add(Row(f"{i:04}", 1.0, False, vectors))
        writer.commit()
    tracemalloc.start()
    assert sum(1 for _ in rows_of(out)) == 4000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < out.stat().st_size / 2


def test_jsonl_lines_in_any_order_come_back_sorted(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    write(out, meta_of(bundle))
    out.write_bytes(b"".join(reversed(out.read_bytes().splitlines(keepends=True))))
    assert [row.path for row in rows_of(out)] == read(out).paths == PATHS


@every_file_format
def test_a_damaged_file_is_one_clear_error(bundle: Bundle, tmp_path: Path, extension: str) -> None:
    """Whatever byte is wrong: all rows come, or an error that says so; never another exception."""
    out = tmp_path / f"x{extension}"
    write(out, meta_of(bundle))
    content = out.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
        out.write_bytes(damaged if rng.random() < 0.7 else damaged[: rng.integers(len(content))])
        for reader in (read, lambda path: list(rows_of(path))):
            try:
                reader(out)  # type: ignore[operator]
            except UsageError:
                continue


def test_npz_is_as_the_contract_says(bundle: Bundle, tmp_path: Path) -> None:
    write(tmp_path / "x.npz", meta_of(bundle))
    write(tmp_path / "w.npz", meta_of(bundle, per_window=True), per_window=True)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as columns:
        assert set(columns) == {"path", "duration_s", "silent", "meta", *DIMS}
        assert columns["path"].dtype.kind == "U"
        assert columns["silent"].dtype == np.bool_
        assert columns["meta"].shape == ()
        meta = json.loads(str(columns["meta"]))
    assert set(meta) == {
        *("format_version", "model", "model_sha256", "loev_version", "sample_rate_hz"),
        *("window_s", "hop_s", "pooling", "subspaces", "backend", "device", "precision"),
        *("created", "onnx_sha256"),
    }
    assert meta["subspaces"] == DIMS
    assert meta["pooling"] == "mean"
    with np.load(tmp_path / "w.npz", allow_pickle=False) as columns:
        assert set(columns) == {"path", "duration_s", "silent", "meta", "track", "start_s", *DIMS}
        assert columns["track"].dtype == np.int64
        assert columns["start_s"].dtype == np.float32


def test_parquet_holds_fixed_size_lists(bundle: Bundle, tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", meta_of(bundle))
    schema = pq.read_schema(tmp_path / "x.parquet")
    assert str(schema.field("pitch").type).startswith("fixed_size_list<")
    assert schema.field("pitch").type.list_size == 3
    assert json.loads(schema.metadata[b"loev"])["model"] == "tiny"


def test_jsonl_lines_stand_alone_and_are_short(bundle: Bundle, tmp_path: Path) -> None:
    meta = meta_of(bundle)
    out = tmp_path / "x.jsonl"
    write(out, meta)
    lines = out.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["path"] for line in lines] == PATHS
    assert all(json.loads(line)["meta"] == meta for line in lines)
    assert '"duration_s":1.1,' in lines[0]  # not 1.100000023841858


@every_format
def test_nothing_appears_without_commit(bundle: Bundle, tmp_path: Path, extension: str) -> None:
    out = tmp_path / f"x{extension}"
    with (
        pytest.raises(KeyboardInterrupt),
        open_writer(str(out), meta_of(bundle)) as writer,
    ):
        writer.add(rows(False)[0])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def no_space(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@every_file_format
def test_a_failed_write_leaves_the_earlier_output(
    bundle: Bundle, tmp_path: Path, extension: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / f"x{extension}"
    write(out, meta_of(bundle))
    before = out.read_bytes()

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OutputError, match="No space left"):
        write(out, meta_of(bundle))
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


class FullDisk(io.RawIOBase):
    """A stream that takes 3000 bytes."""

    n_left = 3000

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.n_left -= len(data)
        if self.n_left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)


class FullTarget:
    """A target on :class:`FullDisk` that notes whether it was given up."""

    name = "x"
    aborted = False

    def __init__(self) -> None:
        self.stream: Any = FullDisk()

    def commit(self) -> None:
        raise AssertionError("nothing was written")

    def abort(self) -> None:
        self.aborted = True


@every_file_format
def test_a_full_disk_is_one_clear_error(bundle: Bundle, extension: str) -> None:
    target = FullTarget()
    module = importlib.import_module(FORMATS[extension])
    with (
        pytest.raises(OutputError, match=r"cannot write x: .*No space left"),
        module.Writer(target, meta_of(bundle)) as writer,
    ):
        for row in rows(False) * 2000:
            writer.add(row)
        writer.commit()
    assert target.aborted


def test_a_link_stays_a_link(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "x.npz").symlink_to(tmp_path / "real" / "y.npz")
    write(tmp_path / "x.npz", meta_of(bundle))
    assert (tmp_path / "x.npz").is_symlink()
    assert read(tmp_path / "real" / "y.npz").paths == PATHS


# ---------------------------------------------------------------- checks


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    check_output("-")
    check_output(str(tmp_path / "x.NPZ"))
    for name in ("x.csv", "x", "npz", ".npz"):
        with pytest.raises(UsageError, match=re.escape(f"{', '.join(FORMATS)}, or -")):
            check_output(str(tmp_path / name))
    with pytest.raises(UsageError, match="no folder"):
        check_output(str(tmp_path / "missing" / "x.npz"))
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        check_output(str(tmp_path / "folder.npz"))
    with pytest.raises(UsageError, match="is a folder"):
        check_output(f"{tmp_path}/file.npz/")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.npz"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_an_output_that_cannot_be_written() -> None:
    with pytest.raises(OutputError, match=r"cannot write /proc/x\.npz"):
        check_output("/proc/x.npz")


def test_a_write_protected_output_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.npz"
    out.touch(mode=0o444)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # what it says to all but root
    with pytest.raises(OutputError, match="it is write-protected"):
        check_output(str(out))


@every_file_format
def test_only_its_like_is_replaced(bundle: Bundle, tmp_path: Path, extension: str) -> None:
    out = tmp_path / f"x{extension}"
    check_replaceable(str(out), meta_of(bundle))
    write(out, meta_of(bundle))
    check_replaceable(str(out), meta_of(bundle, created="later", device="cuda:0"))
    for changes in (
        {"hop_s": 9.0},
        {"window_s": 9.0},
        {"model_sha256": "other"},
        {"pooling": "none"},
        {"subspaces": {"pitch": 3}},
    ):
        with pytest.raises(UsageError, match="--overwrite"):
            check_replaceable(str(out), meta_of(bundle, **changes))
    out.write_text("my diary\nis no embedding")
    with pytest.raises(UsageError, match="not a loev embedding file"):
        check_replaceable(str(out), meta_of(bundle))


def test_files_of_different_making_are_not_mixed(bundle: Bundle) -> None:
    meta = meta_of(bundle)
    check_agree({"a": meta, "b": dict(meta)})
    with pytest.raises(UsageError, match=r"a\.npz and c\.npz differ in hop_s: 0\.25 and 1"):
        check_agree({"a.npz": meta, "b.npz": meta, "c.npz": meta | {"hop_s": 1}})
    with pytest.raises(UsageError, match=r"the model: tiny \(.*other"):
        check_agree({"a": meta, "b": meta | {"model": "other", "model_sha256": "beef"}})


def test_a_subspace_may_not_take_a_columns_name(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("path", "tag_artist"):
        with pytest.raises(UsageError, match=f"cannot be called '{name}'"):
            open_writer(str(tmp_path / "x.npz"), meta_of(bundle, subspaces={name: 3}))
    assert list(tmp_path.iterdir()) == []


@every_file_format
@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 junk", b"PAR1 junk PAR1", b"{}\n"])
def test_other_files_are_refused(tmp_path: Path, extension: str, content: bytes) -> None:
    file = tmp_path / f"x{extension}"
    file.write_bytes(content)
    for reader in (read, read_meta):
        with pytest.raises(UsageError, match="not a loev embedding file"):
            reader(file)
    with pytest.raises(UsageError, match="no such embedding file"):
        read(tmp_path / "gone.npz")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", meta=np.array({"format_version": 1}, dtype=object))
    with pytest.raises(UsageError, match="not a loev embedding file"):
        read(tmp_path / "x.npz")


@every_format
def test_a_newer_format_says_to_upgrade(bundle: Bundle, tmp_path: Path, extension: str) -> None:
    out = tmp_path / f"x{extension}"
    write(out, meta_of(bundle, format_version=99))
    with pytest.raises(UsageError, match=r"format 99.*upgrade"):
        read(out)


def test_a_torn_jsonl_names_the_line(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    write(out, meta_of(bundle))
    out.write_bytes(out.read_bytes()[:-30])
    with pytest.raises(UsageError, match="line 3"):
        read(out)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    monkeypatch.delitem(sys.modules, "loev_cli.formats.lance", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'loev-cli\[db\]'"):
        check_output(str(tmp_path / "x.lance"))
