"""Parts of a library, and the whole they make."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from loev_cli.audio import Source
from loev_cli.bundle import Bundle
from loev_cli.embed import Merged, Shard, embed, merge, parse_shard
from loev_cli.errors import UsageError
from loev_cli.formats import Row, make_meta, open_writer, read
from tests.conftest import Loev, add_bad_files, make_bundle
from tests.embed.common import assert_same, embedded, left_in, request

N_PARTS = 8  # of 7 files
SLURM = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}
SGE = {"SGE_TASK_ID": "5", "SGE_TASK_FIRST": "1", "SGE_TASK_LAST": "9", "SGE_TASK_STEPSIZE": "2"}


@pytest.mark.parametrize(
    ("text", "environment", "shard"),
    [
        ("3/8", {}, Shard(3, 8)),
        ("auto", SLURM, Shard(3, 4)),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_STEP": "2"}, Shard(2, 4)),
        ("auto", SGE, Shard(3, 5)),
        ("auto", {"PBS_ARRAY_INDEX": "2", "LOEV_SHARDS": "6"}, Shard(2, 6)),
    ],
)
def test_which_part(text: str, environment: dict[str, str], shard: Shard) -> None:
    assert parse_shard(text, environment) == shard


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        *((text, {}, "invalid --shard") for text in ("0/3", "4/3", "1", "1/0", "a/b", "-1/2")),
        ("auto", {}, "not running inside a Slurm, SGE or PBS array job"),
        ("auto", {"SGE_TASK_ID": "undefined"}, "not running inside"),
        ("auto", {"PBS_ARRAY_INDEX": "2"}, "set LOEV_SHARDS"),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_ID": "9"}, "task 9 is not one of 4"),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_COUNT": "x"}, "is 'x', not a number"),
    ],
)
def test_no_part(text: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_shard(text, environment)


def test_every_track_is_in_one_part_and_parts_are_even() -> None:
    sources = [Source(f"artist {i % 70}/{i}.mp3", "x") for i in range(7000)]
    parts = [Shard(i, 7).of(sources) for i in range(1, 8)]
    assert sorted(s.path for part in parts for s in part) == sorted(s.path for s in sources)
    assert all(900 < len(part) < 1100 for part in parts)


@pytest.mark.parametrize(
    ("extension", "per_window"),
    [
        (".npz", False),
        (".parquet", True),
        (".jsonl", False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(".npz", True), (".parquet", False), (".jsonl", True)]
        ),
    ],
)
def test_parts_make_the_whole(
    loev: Loev, bundle: Bundle, library: Path, tmp_path: Path, extension: str, per_window: bool
) -> None:
    add_bad_files(library)
    whole, _ = embedded(bundle, tmp_path / "whole.npz", library, per_window=per_window)
    options = ["--model", bundle.path, *(["--per-window"] if per_window else [])]
    parts = [tmp_path / f"part {i}{extension}" for i in range(1, N_PARTS + 1)]
    codes = set()
    for i, part in enumerate(parts, start=1):
        codes.add(loev("embed", library, "--out", part, "--shard", f"{i}/{N_PARTS}", *options).code)
    assert codes == {0, 3}
    assert min(len(read(part).paths) for part in parts) == 0, "a part that got nothing"
    out = tmp_path / "merged.npz"
    done = loev("merge", *parts, "--out", out)
    assert (done.code, done.err) == (0, f"5 tracks of {N_PARTS} parts -> {out}\n")
    assert_same(read(out), whole)
    listed = Path(f"{out}.failures.jsonl").read_text()
    assert listed == (tmp_path / "whole.npz.failures.jsonl").read_text()
    assert "shard" not in read(out).meta

    again = loev("embed", library, "--out", out, *options)  # stamps came along
    assert again.lines[0] == "5 files already done, 2 remaining"


def test_merging_any_format_into_any(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    embedded(bundle, tmp_path / "a.jsonl", library / "a" / "same.wav")
    embedded(bundle, tmp_path / "b.parquet", library / "b" / "same.wav")
    embedded(bundle, tmp_path / "c.npz", library / "short.WAV", library / "b" / "same.wav")
    parts = [str(tmp_path / name) for name in ("c.npz", "b.parquet", "a.jsonl")]
    for extension in (".npz", ".parquet", ".jsonl"):
        out = tmp_path / f"all{extension}"
        assert merge(parts, str(out)) == Merged(n_parts=3, n_rows=3, n_repeated=1)
        assert read(out).paths == [
            str(library / name) for name in ("a/same.wav", "b/same.wav", "short.WAV")
        ]


def test_what_cannot_be_merged(loev: Loev, bundle: Bundle, library: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        done = loev("merge", *map(str, arguments))
        assert (done.code, len(done.lines)) == (2, 1)
        return done.err

    a, b, out = tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "x.npz"
    embedded(bundle, a, library / "a")
    embedded(bundle, b, library / "b")
    assert "a.npz and" in (error := refused(a, b, "--out", out))
    assert "have different rows of 'same.wav'" in error
    other = make_bundle(tmp_path / "other", seed=1)
    embedded(other, tmp_path / "other.npz", library / "b")
    assert "differ in the model" in refused(a, tmp_path / "other.npz", "--out", out)
    embedded(bundle, tmp_path / "tempo.npz", library / "b", subspaces=["tempo"])
    assert "differ in subspaces" in refused(a, tmp_path / "tempo.npz", "--out", out)
    assert "is one of the parts" in refused(a, "--out", a)
    assert "exists (--overwrite replaces it)" in refused(a, "--out", b)
    assert "no such embedding file" in refused(tmp_path / "gone.npz", "--out", out)
    assert "not created with --shard" in refused(a, "--shards", "2", "--out", out)
    assert left_in(tmp_path) & {"x.npz", "x.npz.journal"} == set()


def test_a_missing_part_is_found(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    parts = [str(tmp_path / f"{i}.npz") for i in range(1, 4)]
    for i, part in enumerate(parts, start=1):
        embed(request(bundle, part, library, shard=Shard(i, 3)))
    out = str(tmp_path / "x.npz")
    with pytest.raises(UsageError, match="1 of 3 parts missing: 2"):
        merge([parts[0], parts[2]], out)
    with pytest.raises(UsageError, match="1/3, not one of 2"):
        merge(parts, out, shards=2)
    embed(request(bundle, tmp_path / "twin.npz", library, shard=Shard(1, 3)))
    with pytest.raises(UsageError, match="are both part 1/3"):
        merge([*parts, str(tmp_path / "twin.npz")], out)
    with pytest.raises(UsageError, match="shard counts differ: 3 and 4"):
        embed(request(bundle, tmp_path / "4.npz", library, shard=Shard(1, 4)))
        merge([*parts, str(tmp_path / "4.npz")], out)
    assert merge(parts, out, shards=3).n_rows == 5
    with pytest.raises(UsageError, match=r"--overwrite"):
        embedded(bundle, Path(parts[0]), library, shard=Shard(2, 3))


@pytest.mark.parametrize(
    "extension", [".npz", ".parquet", pytest.param(".jsonl", marks=pytest.mark.slow)]
)
def test_merging_needs_little_memory(bundle: Bundle, tmp_path: Path, extension: str) -> None:
    dim = 2000
    n_rows = 300 if extension == ".jsonl" else 3000  # per part; text is slow
    meta = make_meta(
        bundle,
        subspaces={"a": dim},
        hop_n_samples=2000,
        per_window=False,
        backend="onnx",
        device="cpu",
        precision="fp32",
    )
    parts = []
    for i in range(2):
        parts.append(str(tmp_path / f"{i}.npz"))
        with open_writer(parts[-1], meta) as writer:
            for j in range(n_rows):
                writer.add(Row(f"{j:05}-{i}", 1.0, False, {"a": np.full(dim, j, np.float32)}))
            writer.commit()
    if extension == ".parquet":
        import pyarrow.parquet  # noqa: F401  (its import is not what is measured)
    tracemalloc.start()
    merge(parts, str(tmp_path / f"x{extension}"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * n_rows * dim * 4 / 1.5
