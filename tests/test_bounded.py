"""Files that ask for more memory, depth or size than they have, or are not what they claim."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from loev_cli import bundle as bundles
from loev_cli import formats
from loev_cli.bundle import Bundle
from loev_cli.embed.journal import Journal
from loev_cli.embed.parts import Part, PartWriter, Stamp
from loev_cli.embed.report import Failure, read_failures
from loev_cli.errors import BundleError, LoevError, UsageError
from loev_cli.evaluate.manifest import Manifest, read_manifests
from loev_cli.experiments.foreign import read_foreign
from loev_cli.formats import read, read_meta, rows
from loev_cli.formats.tables import schema_of
from loev_cli.model.load import load_model
from loev_cli.search.library import open_library
from loev_cli.storage import bounded
from loev_cli.storage.npz import NPZ_ERRORS, Archive
from loev_cli.train.config import parse_assignment, read_toml
from loev_cli.train.data import listing
from tests.conftest import ROOT, write_audio, write_config
from tests.test_formats import meta_of, write

DEEP = "[" * 100_000 + "]" * 100_000


def read_manifest(path: Path) -> Manifest:
    return read_manifests([path])


def list_tracks(path: Path) -> Any:
    return listing(str(path))


MUCH = 64 << 20  # bytes; each of these files asks for many times as much


def each_reader(path: Path) -> list[Callable[[], Any]]:
    return [
        lambda: read_meta(path),
        lambda: read(path),
        lambda: list(rows(path)),
        lambda: [open_library(path).vectors[name] for name in open_library(path).vectors],
    ]


def refused(path: Path, *, meta_too: bool = False) -> None:
    """By every reader in one line that names the file, and without the memory it asks for."""
    tracemalloc.start()
    try:
        for reader in each_reader(path)[0 if meta_too else 1 :]:
            with pytest.raises(UsageError) as raised:
                reader()
            assert str(path) in str(raised.value)
            assert "\n" not in str(raised.value)
        assert tracemalloc.get_traced_memory()[1] < MUCH
    finally:
        tracemalloc.stop()


def arrays_of(bundle: Bundle, path: Path, *, per_window: bool = False) -> dict[str, Any]:
    write(path, meta_of(bundle, per_window=per_window), per_window=per_window)
    with np.load(path) as columns:
        return dict(columns)


def member(header: dict[str, Any], content: bytes = b"") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + content


def replace(path: Path, name: str, content: bytes) -> None:
    """Put another member into a zip file, compressed."""
    with zipfile.ZipFile(path) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for other, data in (members | {f"{name}.npy": content}).items():
            new.writestr(other, data)


# ------------------------------------------------------------ .npz


@pytest.mark.parametrize("name", ["pitch", "path", "duration_s", "meta"])
@pytest.mark.parametrize("n", [10**9, 10**15, 10**400])
def test_a_header_without_its_values(bundle: Bundle, tmp_path: Path, name: str, n: int) -> None:
    path = tmp_path / "x.npz"
    arrays = arrays_of(bundle, path)
    shape = {"pitch": (n, arrays["pitch"].shape[1]), "meta": ()}.get(name, (n,))
    descr = f"<U{min(n, 2**28)}" if name in ("path", "meta") else "<f4"
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    replace(path, name, member(header, b"\0" * 64))
    refused(path, meta_too=True)


@pytest.mark.parametrize("name", ["pitch", "path", "extra"])
def test_a_bomb(bundle: Bundle, tmp_path: Path, name: str) -> None:
    """300 MB of zeros in a file of 300 kB, sizes and checksums right."""
    path = tmp_path / "x.npz"
    arrays = arrays_of(bundle, path)
    dim = arrays["pitch"].shape[1]
    n = 300 << 20
    shape, descr = (n // 4 // dim, dim), "<f4"
    if name == "path":
        shape, descr = (n // 400,), "<U100"
    content = member({"descr": descr, "fortran_order": False, "shape": shape})
    content += b"\0" * (int(np.prod(shape)) * np.dtype(descr).itemsize)
    replace(path, name, content)
    del content
    assert path.stat().st_size < 1 << 20
    refused(path, meta_too=True)


@pytest.mark.slow
def test_the_bomb_in_a_process_with_little_memory(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    arrays_of(bundle, path)
    header = {"descr": "<f4", "fortran_order": False, "shape": (260 << 20,)}
    content = member(header, bytes(4 * (260 << 20)))
    replace(path, "duration_s", content)
    del content

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    done = subprocess.run(
        [sys.executable, "-m", "loev_cli", "search", str(path), "a.wav"],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert str(path) in line


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_methods_that_take_what_memory_they_like(tmp_path: Path, method: int) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.npy", member({"descr": "<f4", "fortran_order": False, "shape": (0,)}))
    with pytest.raises(ValueError, match="'a'"):
        Archive(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pitch", np.zeros((3, 4), np.float32)),
        ("pitch", np.zeros((3, 5, 2), np.float32)),
        ("pitch", np.zeros((), np.float32)),
        ("pitch", np.array(["a"] * 3)),
        ("pitch", np.zeros((1, 5), np.float32)),
        ("path", np.zeros(3)),
        ("path", np.array("a")),
        ("path", np.array([b"a", b"b", b"c"])),
        ("duration_s", np.array(["1"] * 3)),
        ("silent", np.zeros(2, np.bool_)),
        ("path", np.frombuffer(b"\xff" * 12, "<U1")),
    ],
)
def test_columns_that_are_not_what_meta_says(
    bundle: Bundle, tmp_path: Path, name: str, value: Any
) -> None:
    path = tmp_path / "x.npz"
    arrays = arrays_of(bundle, path)
    np.savez(path, **(arrays | {name: value}))
    for reader in (read, lambda p: list(rows(p)), open_library):
        with pytest.raises(UsageError, match=str(path)):
            reader(path)  # type: ignore[operator]


@pytest.mark.parametrize("value", [-1, 99])
def test_windows_of_tracks_that_are_not_there(bundle: Bundle, tmp_path: Path, value: int) -> None:
    path = tmp_path / "x.npz"
    arrays = arrays_of(bundle, path, per_window=True)
    arrays["track"][-1] = value
    np.savez(path, **arrays)
    with pytest.raises(UsageError, match=str(path)):
        read(path)
    with pytest.raises(UsageError, match=str(path)):
        _ = open_library(path).vectors["pitch"]


def test_files_that_others_saved_again_are_read(bundle: Bundle, tmp_path: Path) -> None:
    """Compressed, in Fortran order, of wider numbers and of another byte order."""
    path = tmp_path / "x.npz"
    arrays = arrays_of(bundle, path)
    before = read(path)
    arrays["pitch"] = np.asfortranarray(arrays["pitch"])
    arrays["invariant"] = arrays["invariant"].astype(">f8")
    np.savez_compressed(path, **arrays, notes=np.zeros(3))
    after = read(path)
    assert after.paths == before.paths
    for name, vectors in before.vectors.items():
        np.testing.assert_array_equal(after.vectors[name], vectors)


def test_archives_as_numpy_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    arrays = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "s": np.array(["", "ü", "🎵" * 3]),
        "empty": np.zeros((0, 7), np.int16),
        "none": np.array(["", ""]),
        "scalar": np.array(3),
        "b": np.array([b"x", b"yz"]),
    }
    np.savez_compressed(path, **arrays)
    with Archive(path) as archive:
        assert set(archive.headers) == set(arrays)
        for name, array in arrays.items():
            found = archive.load(name)
            np.testing.assert_array_equal(found, array)
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.savez(path, objects=np.array([{}], object))
    with pytest.raises(NPZ_ERRORS, match="pickle"):
        Archive(path)


# ------------------------------------------------------------ JSON, TOML


@pytest.mark.parametrize(
    "line",
    [
        b'{"path": "a", "meta": ' + DEEP.encode() + b"}",
        DEEP.encode(),
        b'{"path": "\xff"}',
        b'{"path": ' + b"9" * 5000 + b"}",
    ],
)
def test_json_lines_that_are_none(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(line + b"\n")
    for reader in each_reader(path):
        with pytest.raises(UsageError, match=str(path)):
            reader()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("duration_s", 10**400),
        ("duration_s", {}),
        ("pitch", 10**400),
        ("pitch", [10**400] * 4),
        ("pitch", {"a": 1}),
        ("pitch", None),
        ("pitch", [[[[]]]]),
        ("path", None),
    ],
)
def test_json_lines_of_other_values(bundle: Bundle, tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "x.jsonl"
    write(path, meta_of(bundle))
    first, *others = path.read_text().splitlines()
    record = json.loads(first)
    record[key] = value
    if value is None:
        del record["pitch"]
    path.write_text("\n".join([*others, json.dumps(record)]) + "\n")
    for reader in (read, lambda p: list(rows(p)), open_library):
        with pytest.raises(UsageError, match=str(path)):
            reader(path)  # type: ignore[operator]


def test_a_line_that_is_too_long(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loev_cli.formats import jsonl

    path = tmp_path / "x.jsonl"
    write(path, meta_of(bundle))
    monkeypatch.setattr(jsonl, "_MAX_LINE_N_BYTES", 100)
    refused(path, meta_too=True)


@pytest.mark.parametrize("content", [b"\0" * 100, b"[1, 2]", b"\x1f\x8b" * 100])
def test_no_other_file_is_read_as_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    os.truncate(path, 1 << 30)  # a hole: nothing on disk
    refused(path, meta_too=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("subspaces", {"pitch": 10**9}),
        ("subspaces", {"pitch": 10**400}),
        ("subspaces", {"pitch": -1}),
        ("subspaces", {"pitch": "4"}),
        ("subspaces", []),
        ("model", 3),
        ("model_sha256", None),
        ("model_sha256", ["a"]),
        ("pooling", {}),
        ("tags", {"a": 1}),
        ("annotations", [1]),
        ("annotations", {"columns": [[]]}),
        ("nested", json.loads("[" * 200 + "]" * 200)),
    ],
)
@pytest.mark.parametrize("extension", [".npz", ".jsonl", ".parquet"])
def test_a_meta_of_other_values(
    bundle: Bundle, tmp_path: Path, extension: str, key: str, value: Any
) -> None:
    path = tmp_path / f"x{extension}"
    write(path, meta_of(bundle))
    meta = json.dumps(read_meta(path) | {key: value})
    if extension == ".npz":
        with np.load(path) as columns:
            arrays = dict(columns)
        np.savez(path, **(arrays | {"meta": np.array(meta)}))
    elif extension == ".parquet":
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({b"loev": meta.encode()}), path)
    else:
        records = [json.loads(line) | {"meta": "@"} for line in path.read_text().splitlines()]
        path.write_text("\n".join(json.dumps(r).replace('"@"', meta) for r in records) + "\n")
    refused(path, meta_too=True)


@pytest.mark.parametrize(
    "text",
    [
        f"x = {DEEP}",
        "x = " + "{a = " * 5000 + "1" + "}" * 5000,
        "a." * 200_000 + "b = 1",
        "[" + "a . " * 200_000 + "b]",
        "x = " + "9" * 5000,
        "# " + "x" * (2 << 20),
    ],
)
def test_toml_that_asks_for_too_much(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=str(file)):
        read_toml(str(file))


def test_toml_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(b"steps = 1 # \xff")
    with pytest.raises(UsageError, match=str(file)):
        read_toml(str(file))
    assert parse_assignment(f"x={DEEP}") == (["x"], DEEP)  # what is no TOML is text


def test_depth_is_counted_as_documented() -> None:
    def nested(depth: int) -> str:
        return "[" * depth + "]" * depth

    bounded.parse_json(nested(bounded.MAX_DEPTH))
    with pytest.raises(ValueError, match="nested"):
        bounded.parse_json(nested(bounded.MAX_DEPTH + 2))


# ------------------------------------------------------------ bundles


@pytest.mark.parametrize(
    "content",
    [b"\xff{}", DEEP.encode(), b"[]", b"", b'{"a": ' + b"9" * 5000 + b"}", b" " * (5 << 20)],
)
def test_a_config_that_is_none(bundle: Bundle, tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "m"
    shutil.copytree(bundle.path, folder)
    (folder / bundles.CONFIG_FILE).write_bytes(content)
    with pytest.raises(BundleError, match=bundles.CONFIG_FILE):
        bundles.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"subspaces": {"pitch": 10**12}},
        {"sample_rate_hz": 10**400},
        {"window_n_samples": 10**12},
        {"files": {bundles.WEIGHTS_FILE: [], bundles.ONNX_FILE: 3}},
        {"encoder": json.loads("[" * 200 + "]" * 200)},
    ],
)
def test_a_config_of_sizes_that_nothing_has(
    bundle: Bundle, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(bundle.path, folder)
    write_config(folder, **changes)
    with pytest.raises(BundleError, match=bundles.CONFIG_FILE):
        bundles.load(folder)


@pytest.mark.parametrize(
    "header",
    [
        b'{"w": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4]}}',
        b'{"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"w": {"dtype": "??", "shape": [1], "data_offsets": [0, 4]}}',
        DEEP.encode(),
        b"\xff",
        b"",
    ],
)
def test_weights_with_a_header_that_lies(tmp_path: Path, header: bytes) -> None:
    (shipped,) = bundles.shipped()
    folder = tmp_path / "m"
    folder.mkdir()
    config = dict(shipped.config)
    for n_bytes in (len(header), 2**63):
        weights = folder / bundles.WEIGHTS_FILE
        weights.write_bytes(struct.pack("<Q", n_bytes) + header + b"\0" * 4)
        config["files"] = dict(config["files"])
        config["files"][bundles.WEIGHTS_FILE] = bundles.file_record(weights)
        (folder / bundles.CONFIG_FILE).write_text(json.dumps(config))
        with pytest.raises(BundleError) as raised:
            load_model(bundles.load(folder))
        assert str(folder) in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "encoder", [{}, {"name": 3}, {"name": "small", "n_channels": "x"}, {"name": "nobody's"}]
)
def test_an_encoder_that_is_none(tmp_path: Path, encoder: dict[str, Any]) -> None:
    (shipped,) = bundles.shipped()
    folder = tmp_path / "m"
    folder.mkdir()
    save_file({"w": np.zeros(1, np.float32)}, folder / bundles.WEIGHTS_FILE)
    files = shipped.config["files"] | {
        bundles.WEIGHTS_FILE: bundles.file_record(folder / bundles.WEIGHTS_FILE)
    }
    config = shipped.config | {"encoder": encoder, "files": files}
    (folder / bundles.CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(BundleError, match=str(folder)):
        load_model(bundles.load(folder))


# ------------------------------------------------------------ Parquet


@pytest.mark.slow
def test_a_table_of_one_value_repeated(bundle: Bundle, tmp_path: Path) -> None:
    """A million rows of the same vector in a file of some kilobytes."""
    path = tmp_path / "x.parquet"
    schema = schema_of(meta_of(bundle) | {"subspaces": {"pitch": 256}})
    n = 1_000_000
    big = {
        field.name: pa.FixedSizeListArray.from_arrays(
            pa.array(np.zeros(n * field.type.list_size, np.float32)), field.type.list_size
        )
        if pa.types.is_fixed_size_list(field.type)
        else pa.array([{"path": "a", "silent": False}.get(field.name, 1.0)] * n, field.type)
        for field in schema
    }
    pq.write_table(pa.table(big, schema=schema), path, compression="zstd")
    del big
    assert path.stat().st_size < 2 << 20
    refused(path)


@pytest.mark.parametrize("name", ["path", "duration_s", "silent", "pitch"])
@pytest.mark.parametrize(
    "values", [[{"a": 1}] * 3, [None] * 3, [[1], [2, 3], None], [b"\xff"] * 3, []]
)
def test_tables_of_other_types(
    bundle: Bundle, tmp_path: Path, name: str, values: list[Any]
) -> None:
    path = tmp_path / "x.parquet"
    write(path, meta_of(bundle))
    table = pq.read_table(path)
    values = (values * table.num_rows)[: table.num_rows]
    at = table.schema.get_field_index(name)
    changed = table.drop_columns([name]) if not values else None
    if changed is None:
        changed = table.set_column(at, name, pa.array(values))
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    for reader in each_reader(path):
        try:
            reader()
        except UsageError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)


# ------------------------------------------------------------ manifests, others' vectors


MANIFESTS = {
    "no parquet": b"PAR1" + b"\0" * 50 + b"PAR1",
    "cut": None,
}


@pytest.mark.parametrize("content", MANIFESTS)
def test_manifests_that_are_damaged(tmp_path: Path, content: str) -> None:
    path = tmp_path / "m.parquet"
    audio = write_audio(tmp_path / "a.wav")
    pq.write_table(pa.table({"path": [audio.name] * 100, "key": ["C major"] * 100}), path)
    path.write_bytes(MANIFESTS[content] or path.read_bytes()[:-100])
    for reader in (read_manifest, list_tracks):
        with pytest.raises(LoevError) as raised:
            reader(path)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_manifest_of_one_row_repeated(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    n = 40_000_000
    dictionary = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), pa.array(["a.wav"]))
    pq.write_table(pa.table({"path": dictionary}), path)
    assert path.stat().st_size < 1 << 20
    for reader in (read_manifest, list_tracks):
        with pytest.raises(UsageError, match=str(path)):
            reader(path)


def test_manifests_of_odd_values(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    times = pa.array([2**60], pa.timestamp("ms"))  # no datetime has it
    pq.write_table(pa.table({"path": ["a.wav"], "when": times}), path)
    with pytest.raises(UsageError, match=str(path)):
        read_manifest(path)


def test_others_vectors_that_are_a_bomb(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path\n{write_audio(tmp_path / 'a.wav').name}\n")
    path = tmp_path / "v.npz"
    np.savez_compressed(path, path=np.array(["a.wav"]), v=np.zeros((1, 280 << 18), np.float32))
    parquet = tmp_path / "v.parquet"
    n = 3_000_000
    same = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(n * 16, np.float32)), 16)
    table = pa.table({"path": pa.array(["a.wav"] * n), "v": same, "w": same})
    pq.write_table(table, parquet, compression="zstd")
    del table, same
    for file in (path, parquet):
        assert file.stat().st_size < 2 << 20
        with pytest.raises(UsageError, match=str(file)):
            read_foreign(read_manifest(manifest), file)


# ------------------------------------------------------------ what lies beside an output


@pytest.mark.parametrize(
    "content", [DEEP, '{"path": 3, "stage": 1, "error": [], "message": {}}', "[1]", "\ud800"]
)
def test_lists_of_failures_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.npz.failures.jsonl").write_text(content + "\n", errors="surrogatepass")
    assert read_failures(str(tmp_path / "x.npz")) == []
    good = Failure("a", "open", "E", "m")
    (tmp_path / "x.npz.failures.jsonl").write_text(json.dumps(vars(good)) + "\n")
    assert read_failures(str(tmp_path / "x.npz")) == [good]


@pytest.mark.parametrize("content", [DEEP, "[]", '{"format_version": 1e999}', " " * (5 << 20)])
def test_a_state_of_a_journal_that_is_none(bundle: Bundle, tmp_path: Path, content: str) -> None:
    meta = meta_of(bundle)
    journal = tmp_path / "x.npz.journal"
    journal.mkdir()
    (journal / "journal.json").write_text(content)
    with pytest.raises(UsageError, match=str(journal)):
        Journal(tmp_path / "x.npz", meta)


@pytest.mark.parametrize(
    "head", [{}, {"n_windows": 10**12}, {"n_windows": -1}, {"n_windows": "a"}, {"n_windows": None}]
)
def test_records_with_right_checksums_and_wrong_content(
    tmp_path: Path, head: dict[str, Any]
) -> None:
    file, owner = tmp_path / "part-000001.rows", bytes(32)
    writer = PartWriter(file, owner)
    text = json.dumps({"path": "a"} | head).encode()
    body = struct.pack("<I", len(text)) + text
    writer._append(struct.pack("<III", len(body), zlib.crc32(body), len(text)) + text)
    writer.add("b", Stamp(1, 2))
    writer.close()
    part = Part(file, owner)
    first, second = part.places()
    assert second.path == "b"
    with pytest.raises(UsageError, match=str(file)):
        part.row(first, {"pitch": 4})
    part.close()


# ------------------------------------------------------------ paths of any type


def test_paths_may_be_text(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write(path, meta_of(bundle))

    class Named(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(path)

    for given in (str(path), PurePath(path), Named()):
        assert read(given).paths == read(path).paths
        assert read_meta(given) == read_meta(path)
        assert len(list(rows(given))) == len(read(path).paths)
        assert formats.open_columns(given).meta == read_meta(path)
        assert open_library(given).paths == read(path).paths
    assert bundles.load(str(bundle.path)) == bundles.load(bundle.path)
    assert bundles.find(bundle.path) == bundles.load(bundle.path)
