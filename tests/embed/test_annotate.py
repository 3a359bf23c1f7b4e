"""``--annotate`` through whole runs, ``loev annotate``, and the graph that has readouts."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile

from loev_cli import bundle as bundles
from loev_cli.annotations import COLUMNS, KeyReadout, TempoReadout, open_annotator
from loev_cli.backends import open_encoder
from loev_cli.bundle import CONFIG_FILE, WEIGHTS_FILE, Bundle
from loev_cli.embed import Event, RunStarted, dry_run, embed, merge
from loev_cli.errors import UsageError
from loev_cli.export import add_readouts
from loev_cli.formats import EmbeddingFile, fingerprint, read, rows
from loev_cli.music_keys import KEYS
from loev_cli.search.library import annotated, open_library
from tests.conftest import RATE_HZ, SUBSPACES, WINDOW_N, Loev, music, write_audio
from tests.embed.common import assert_same, embedded, interrupted, left_in, request
from tests.embed.test_tags import every_format

TEMPO = TempoReadout("tempo", temperature=0.9)


@pytest.fixture(scope="session")
def annotating(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with random readouts."""
    return with_random_readouts(bundle, tmp_path_factory.mktemp("annotating") / "telling")


def with_random_readouts(bundle: Bundle, out: Path, *, seed: int = 0) -> Bundle:
    rng = np.random.default_rng(seed)

    def readout(kind: KeyReadout | TempoReadout) -> tuple[KeyReadout | TempoReadout, ...]:
        shape = (kind.n_logits, bundle.subspaces[kind.subspace])
        weight = (20 * rng.standard_normal(shape)).astype(np.float32)
        return kind, weight, rng.standard_normal(kind.n_logits).astype(np.float32)  # type: ignore[return-value]

    readouts = {"key": readout(KeyReadout("pitch")), "tempo": readout(TEMPO)}
    return add_readouts(bundle, readouts, out, name=out.name, fitted={}, card="# x\n")  # type: ignore[arg-type]


@pytest.fixture
def tracks(library: Path) -> Path:
    """The library, and a silent file."""
    soundfile.write(library / "silence.wav", np.zeros(2 * RATE_HZ, np.float32), RATE_HZ)
    return library


def assert_annotated_alike(a: EmbeddingFile, b: EmbeddingFile) -> None:
    assert list(a.annotations) == list(b.annotations) == list(COLUMNS)
    for name, values in a.annotations.items():
        if values.dtype.kind == "U":
            np.testing.assert_array_equal(values, b.annotations[name])
        else:
            np.testing.assert_allclose(values, b.annotations[name], rtol=1e-4, equal_nan=True)


def test_the_rest_of_the_model_stays(bundle: Bundle, annotating: Bundle) -> None:
    assert annotating.sha256 == bundle.sha256
    assert (bundle.name, annotating.name) == ("tiny", "telling")
    assert (annotating.path / WEIGHTS_FILE).read_bytes() == (
        bundle.path / WEIGHTS_FILE
    ).read_bytes()
    windows = music(4.0).reshape(-1, WINDOW_N)
    plain = open_encoder(bundle).encode(windows)
    told = open_encoder(annotating).encode(windows)
    assert list(plain) == list(told) == list(SUBSPACES)
    for name, vectors in plain.items():
        np.testing.assert_array_equal(vectors, told[name])


def test_readouts_are_replaced_and_not_piled_up(annotating: Bundle, tmp_path: Path) -> None:
    again = with_random_readouts(annotating, tmp_path / "again", seed=1)
    graph = onnx.load(again.path / "model.onnx").graph
    assert [o.name for o in graph.output] == [*SUBSPACES, "key_logits", "tempo_logits"]
    assert sum(node.op_type == "Gemm" for node in graph.node) == 2
    assert open_annotator(again).sha256 != open_annotator(annotating).sha256
    assert again.sha256 == annotating.sha256


@every_format
@pytest.mark.parametrize("per_window", [False, True])
def test_every_format_keeps_the_answers(
    annotating: Bundle, tracks: Path, tmp_path: Path, extension: str, per_window: bool
) -> None:
    out = tmp_path / f"x{extension}"
    file, _ = embedded(annotating, out, tracks, annotate=True, per_window=per_window)
    reference, _ = embedded(annotating, tmp_path / "reference.npz", tracks, annotate=True)
    assert_annotated_alike(file, reference)
    silent = file.paths.index("silence.wav")
    for name, missing in COLUMNS.items():
        values = file.annotations[name]
        assert len(values) == len(file.paths) == 6
        absent = (values == "") if missing == "" else np.isnan(values)
        np.testing.assert_array_equal(np.flatnonzero(absent), [silent])
    assert set(file.annotations["key"]) <= {*KEYS, ""}
    for row in rows(out):
        i = file.paths.index(row.path)
        for name, value in row.annotations.items():
            np.testing.assert_equal(value, file.annotations[name][i].item())


def test_answers_come_from_the_mean_of_the_vectors(
    annotating: Bundle, tracks: Path, tmp_path: Path
) -> None:
    """A linear readout commutes with the mean: weights x pooled vector gives the same answers."""
    from safetensors.numpy import load_file

    file, _ = embedded(annotating, tmp_path / "x.npz", tracks, annotate=True)
    weights = load_file(annotating.path / "annotations.safetensors")
    for i, silent in enumerate(file.silent):
        if silent:
            continue
        for name, readout in open_annotator(annotating).readouts.items():
            vector = file.vectors[readout.subspace][i].astype(np.float64)
            logits = weights[f"{name}.weight"] @ vector + weights[f"{name}.bias"]
            for column, value in readout.answer(logits).items():
                said = file.annotations[column][i]
                assert (
                    said == value
                    if isinstance(value, str)
                    else said == pytest.approx(value, rel=1e-4)
                )


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_and_subspaces_change_no_answer(
    annotating: Bundle, tracks: Path, tmp_path: Path, batch_size: int
) -> None:
    one, _ = embedded(annotating, tmp_path / "a.npz", tracks, annotate=True)
    other, _ = embedded(
        annotating,
        tmp_path / "b.npz",
        tracks,
        annotate=True,
        batch_size=batch_size,
        subspaces=["invariant"],
    )
    assert list(other.vectors) == ["invariant"]
    assert_annotated_alike(one, other)


def test_without_the_option_nothing_is_new(
    bundle: Bundle, annotating: Bundle, tracks: Path, tmp_path: Path
) -> None:
    plain, _ = embedded(bundle, tmp_path / "a.npz", tracks)
    silent, _ = embedded(annotating, tmp_path / "b.npz", tracks)
    assert_same(plain, silent)
    assert not silent.annotations and "annotations" not in silent.meta
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert a.files == b.files
        assert all((a[n].shape, a[n].dtype) == (b[n].shape, b[n].dtype) for n in a.files[1:])


def test_later_runs_and_merged_parts_keep_the_answers(
    annotating: Bundle, tracks: Path, tmp_path: Path
) -> None:
    whole, _ = embedded(annotating, tmp_path / "whole.npz", tracks, annotate=True)
    (tracks / "b" / "same.wav").rename(tmp_path / "later.wav")
    out = tmp_path / "x.parquet"
    embedded(annotating, out, tracks, annotate=True)
    (tmp_path / "later.wav").rename(tracks / "b" / "same.wav")
    grown, report = embedded(annotating, out, tracks, annotate=True)
    assert report.n_done == 1
    assert_annotated_alike(grown, whole)
    merge([str(out), str(tmp_path / "whole.npz")], str(tmp_path / "merged.jsonl"))
    merged = read(tmp_path / "merged.jsonl")
    assert merged.paths == whole.paths
    assert_annotated_alike(merged, whole)


def test_what_does_not_go_together(annotating: Bundle, tracks: Path, tmp_path: Path) -> None:
    told, plain = tmp_path / "told.npz", tmp_path / "plain.npz"
    embedded(annotating, told, tracks, annotate=True)
    embedded(annotating, plain, tracks)
    with pytest.raises(UsageError, match=r"differ in annotations: bpm, .* and none"):
        merge([str(told), str(plain)], str(tmp_path / "x.npz"))
    with pytest.raises(UsageError, match=r"will not replace .* annotations"):
        embedded(annotating, told, tracks, annotate=True, bpm_range=(80.0, 160.0))
    other = with_random_readouts(annotating, tmp_path / "other", seed=2)
    with pytest.raises(UsageError, match="annotations"):
        embedded(other, told, tracks, annotate=True)
    again, report = embedded(annotating, plain, tracks, annotate=True, overwrite=True)
    assert report.n_done == 6 and again.annotations
    narrow = tmp_path / "narrow.npz"  # without what annotations are read from
    embedded(annotating, narrow, tracks, subspaces=["invariant"])
    with pytest.raises(UsageError, match=r"will not replace .* annotations"):
        embedded(annotating, narrow, tracks, subspaces=["invariant"], annotate=True)


def test_an_update_remembers_the_options_of_the_output(
    annotating: Bundle, tracks: Path, tmp_path: Path
) -> None:
    made: dict[str, object] = {
        "tags": True,
        "annotate": True,
        "bpm_range": (80.0, 160.0),
        "per_window": True,
        "hop_s": 0.1,
        "subspaces": ["pitch", "tempo"],
    }
    whole, _ = embedded(annotating, tmp_path / "whole.npz", tracks, **made)
    out = tmp_path / "x.npz"
    interrupted(request(annotating, out, tracks, **made), after=2)
    told: list[Event] = []
    plain = request(annotating, out, tracks)
    embed(plain, on_event=told.append)  # goes on as it began
    (started,) = [event for event in told if isinstance(event, RunStarted)]
    assert (started.n_tracks, started.n_kept) == (4, 2)
    assert started.remembered == (
        "--hop-s 0.1",
        "--subspaces pitch,tempo",
        "--per-window",
        "--tags",
        "--annotate",
        "--bpm-range 80-160",
    )
    assert_same(read(out), whole)
    assert_annotated_alike(read(out), whole)
    assert read(out).tags == whole.tags
    write_audio(tracks / "added.wav", seed=9)
    n_windows = dry_run(plain).n_vectors
    embed(plain)
    file = read(out)
    assert fingerprint(file.meta) == fingerprint(whole.meta)
    assert file.track is not None and len(file.track) == n_windows
    assert list(file.vectors) == ["pitch", "tempo"] and file.annotations["bpm"][-1] > 0
    embed(replace(plain, overwrite=True))
    file = read(out)
    assert (list(file.vectors), file.tags, file.annotations) == (list(SUBSPACES), {}, {})
    assert file.track is None


def test_what_an_update_remembers_is_told(
    annotating: Bundle, tracks: Path, tmp_path: Path, loev: Loev
) -> None:
    embed = ("embed", tracks, "--out", tmp_path / "x.npz", "--model", annotating.path)
    loev(*embed, "--annotate", "--tags")
    done = loev(*embed)
    assert (done.code, done.lines[0]) == (0, "as in the earlier output: --tags --annotate")
    assert loev(*embed, "--annotate", "--tags").lines[0] == "6 files already done, 0 remaining"


def make_unreadable(tracks: Path) -> None:
    """Nothing can be heard of the files any more, which seem to be what they were."""
    for file in [path for path in tracks.rglob("*") if path.is_file()]:
        status = file.stat()
        file.write_bytes(b"\0" * status.st_size)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@every_format
@pytest.mark.parametrize("per_window", [False, True])
def test_an_output_is_annotated_without_its_audio(
    annotating: Bundle, tracks: Path, tmp_path: Path, extension: str, per_window: bool
) -> None:
    out = tmp_path / f"x{extension}"
    reference, _ = embedded(annotating, tmp_path / "reference.npz", tracks, annotate=True)
    plain, _ = embedded(annotating, out, tracks, per_window=per_window)
    make_unreadable(tracks)
    file, report = embedded(annotating, out, tracks, annotate=True, per_window=per_window)
    assert (report.n_done, report.n_annotated, report.failures) == (0, 6, ())
    assert_annotated_alike(file, reference)
    for name, vectors in plain.vectors.items():
        np.testing.assert_array_equal(vectors, file.vectors[name])
    _, report = embedded(annotating, out, tracks, annotate=True, per_window=per_window)
    assert (report.n_done, report.n_annotated) == (0, 0)


def test_a_run_that_was_interrupted_is_annotated_too(
    annotating: Bundle, tracks: Path, tmp_path: Path
) -> None:
    """Rows that no output has yet are kept, and files that are new are embedded."""
    reference, _ = embedded(annotating, tmp_path / "reference.npz", tracks, annotate=True)
    out = tmp_path / "x.npz"
    interrupted(request(annotating, out, tracks, workers=1), after=2)
    interrupted(request(annotating, out, tracks, workers=1, annotate=True), after=1)
    file, report = embedded(annotating, out, tracks, annotate=True)
    assert (report.n_done, report.n_annotated) == (3, 2)
    assert_annotated_alike(file, reference)
    assert_same(file, reference)


def test_embedding_files_are_annotated(
    loev: Loev, annotating: Bundle, tracks: Path, tmp_path: Path
) -> None:
    """As the audio is, in every format of lists, with a range of tempi and without."""
    out = tmp_path / "x.npz"
    embedded(annotating, out, tracks)
    for more in ((), ("--bpm-range", "80-160")):
        for of_list in ("table", "csv", "jsonl", "m3u"):
            options = ("--model", annotating.path, "--format", of_list, *more)
            heard = loev("annotate", tracks, *options)
            stored = loev("annotate", out, *options)
            assert (stored.code, stored.err) == (heard.code, heard.err) == (0, "")
            assert stored.out == heard.out
    listed = tmp_path / "x.csv"
    assert loev("annotate", out, "--model", annotating.path, "--out", listed).code == 0
    assert len(listed.read_text().splitlines()) == 7


def test_new_readouts_read_old_vectors(
    loev: Loev, annotating: Bundle, tracks: Path, tmp_path: Path
) -> None:
    """The model is the same, its graph is not."""
    out = tmp_path / "x.npz"
    embedded(annotating, out, tracks)
    other = with_random_readouts(annotating, tmp_path / "other", seed=2)
    stored = loev("annotate", out, "--model", other.path, "--format", "csv")
    assert stored.code == 0
    assert stored.out == loev("annotate", tracks, "--model", other.path, "--format", "csv").out


def test_embedding_files_that_cannot_be_annotated(
    loev: Loev, annotating: Bundle, tracks: Path, tmp_path: Path
) -> None:
    out, narrow = tmp_path / "x.npz", tmp_path / "narrow.npz"
    embedded(annotating, out, tracks)
    embedded(annotating, narrow, tracks, subspaces=["pitch"])
    model = ("--model", annotating.path)
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(out.read_bytes()[:-1000])
    for arguments, says in (
        ((out,), "made by telling"),  # and not by the shipped model
        ((narrow, *model), "no subspace 'tempo'"),
        ((out, tracks, *model), "is an embedding file and"),
        ((damaged, *model), "damaged.npz"),
        ((tmp_path / "gone.npz", *model), "gone.npz"),
        ((out, *model, "--write-tags"), "--write-tags is for audio files"),
        ((out, *model, "--out", out, "--overwrite"), "is one of the inputs"),
    ):
        outcome = loev("annotate", *arguments)
        assert outcome.code == 2 and says in outcome.err, outcome.err
        assert len(outcome.lines) == 1


def test_a_model_without_readouts_says_so(loev: Loev, bundle: Bundle, tracks: Path) -> None:
    out = tracks.parent / "x.npz"
    for arguments in (("embed", tracks, "--annotate", "--out", out), ("annotate", tracks)):
        outcome = loev(*arguments, "--model", bundle.path)
        assert outcome.code == 2 and "cannot annotate" in outcome.err
        assert len(outcome.lines) == 1
    assert not out.exists()


def test_a_table(loev: Loev, annotating: Bundle, tracks: Path) -> None:
    outcome = loev("annotate", tracks, "--model", annotating.path)
    assert outcome.code == 0 and outcome.err == ""
    header, *lines = outcome.out.splitlines()
    assert header.split() == [
        *("path", "length", "bpm", "confidence", "or", "key", "camelot", "confidence")
    ]
    assert len(lines) == 6
    assert next(line for line in lines if line.startswith("silence.wav")).split()[2:] == ["-"] * 6


def test_csv_and_json_say_the_same_as_the_embedding_file(
    loev: Loev, annotating: Bundle, tracks: Path, tmp_path: Path
) -> None:
    file, _ = embedded(annotating, tmp_path / "x.npz", tracks, annotate=True)
    as_csv = loev("annotate", tracks, "--model", annotating.path, "--format", "csv")
    as_json = loev("annotate", tracks, "--model", annotating.path, "--format", "jsonl")
    assert as_csv.code == as_json.code == 0
    read_csv = list(csv.DictReader(io.StringIO(as_csv.out)))
    read_json = [json.loads(line) for line in as_json.out.splitlines()]
    assert [r["path"] for r in read_csv] == [r["path"] for r in read_json] == file.paths
    for i, (cells, record) in enumerate(zip(read_csv, read_json, strict=True)):
        assert list(cells) == list(record)
        assert {*COLUMNS, "camelot", "duration_s"} < set(record)
        assert cells["key"] == (record["key"] or "") == file.annotations["key"][i]
        bpm = float(file.annotations["bpm"][i])
        assert (record["bpm"] is None) == (cells["bpm"] == "") == math.isnan(bpm)
        if record["bpm"] is not None:
            assert float(cells["bpm"]) == record["bpm"] == pytest.approx(bpm, abs=0.01)


def test_a_range_of_tempi(loev: Loev, annotating: Bundle, tracks: Path, tmp_path: Path) -> None:
    """Every tempo lies in it, in a list as in a file; files of other ranges are not mixed."""
    listed = loev(
        *("annotate", tracks, "--model", annotating.path, "--format", "csv"),
        *("--bpm-range", "80-160"),
    )
    assert listed.code == 0
    said = {row["path"]: row["bpm"] for row in csv.DictReader(io.StringIO(listed.out))}
    assert all(80 <= float(bpm) < 160 for bpm in said.values() if bpm)
    out, plain = tmp_path / "x.npz", tmp_path / "plain.npz"
    embed_it = ("embed", tracks, "--model", annotating.path, "--annotate", "--quiet")
    assert loev(*embed_it, "--out", out, "--bpm-range", "80-160").code == 0
    assert loev(*embed_it, "--out", plain).code == 0
    file = read(out)
    assert file.meta["annotations"]["bpm_range"] == [80.0, 160.0]
    for path, bpm in zip(file.paths, file.annotations["bpm"], strict=True):
        assert (said[path] == "") == math.isnan(bpm)
        if said[path]:
            assert bpm == pytest.approx(float(said[path]), abs=0.01)
    folded = open_annotator(annotating, (80.0, 160.0))
    library = annotated(open_library(plain), folded)  # as `loev explore --bpm-range` has it
    assert {"path", "duration_s", *COLUMNS} < set(library.columns)
    for name in COLUMNS:
        if COLUMNS[name] == "":
            np.testing.assert_array_equal(library.columns[name], file.annotations[name])
        else:
            np.testing.assert_allclose(library.columns[name], file.annotations[name], rtol=1e-3)
    with pytest.raises(UsageError, match="80-160 BPM"):
        merge([str(out), str(plain)], str(tmp_path / "merged.npz"))
    assert loev("annotate", tracks, "--bpm-range", "80-100").code == 2
    outcome = loev("embed", tracks, "--out", tmp_path / "y.npz", "--bpm-range", "80-160")
    assert outcome.code == 2 and "--bpm-range needs --annotate" in outcome.err


def test_a_file_of_before_there_were_alternatives(
    annotating: Bundle, tracks: Path, tmp_path: Path
) -> None:
    """It has fewer columns, and is read as it is."""
    file, _ = embedded(annotating, tmp_path / "x.npz", tracks, annotate=True)
    old = [name for name in COLUMNS if not name.startswith("bpm_alt")]
    with np.load(tmp_path / "x.npz") as arrays:
        kept = {name: arrays[name] for name in arrays.files if not name.startswith("bpm_alt")}
    meta = json.loads(str(kept["meta"]))
    meta["annotations"]["columns"] = old
    np.savez(tmp_path / "old.npz", **(kept | {"meta": np.array(json.dumps(meta))}))
    again = read(tmp_path / "old.npz")
    assert list(again.annotations) == old
    np.testing.assert_array_equal(again.annotations["bpm"], file.annotations["bpm"])
    assert [list(row.annotations) for row in rows(tmp_path / "old.npz")] == [old] * 6


def test_an_output_file_is_whole_or_not_there(
    loev: Loev, annotating: Bundle, tracks: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "x.csv"
    out.parent.mkdir()
    arguments = ("annotate", tracks, "--model", annotating.path, "--out", out)
    (tracks / "bad.mp3").write_text("no music\n" * 50)
    outcome = loev(*arguments)
    assert outcome.code == 3 and "bad.mp3" in outcome.err and "1 file failed" in outcome.err
    assert len(out.read_text().splitlines()) == 7
    assert loev(*arguments).code == 2  # it exists
    assert loev(*arguments, "--overwrite", "--strict").code == 1
    assert len(out.read_text().splitlines()) == 7
    assert left_in(out.parent) == {"x.csv"}
    input_file = tracks / "b" / "same.wav"
    outcome = loev(
        "annotate", input_file, "--model", annotating.path, "--out", input_file, "--overwrite"
    )
    assert outcome.code == 2 and "is one of the inputs" in outcome.err
    assert loev("annotate", tracks / "bad.mp3", "--model", annotating.path).code == 1
    assert loev("annotate", tracks, "--out", tmp_path / "none" / "x.csv").code == 2


def test_a_damaged_bundle(loev: Loev, annotating: Bundle, tracks: Path, tmp_path: Path) -> None:
    broken = with_random_readouts(annotating, tmp_path / "broken")
    config = json.loads((broken.path / CONFIG_FILE).read_text())
    config["annotations"]["readouts"]["key"]["subspace"] = "rhythm"
    (broken.path / CONFIG_FILE).write_text(json.dumps(config))
    outcome = loev("annotate", tracks, "--model", broken.path)
    assert outcome.code == 1 and "does not describe its annotations" in outcome.err


def test_a_model_is_adapted(loev: Loev, annotating: Bundle, tracks: Path, tmp_path: Path) -> None:
    """The embeddings stay what they are; the readouts are others; what is left out is said."""
    files = sorted(path for path in tracks.rglob("*.wav") if path.name != "silence.wav")
    manifest, keep, out = tmp_path / "m.csv", tmp_path / "keep.csv", tmp_path / "adapted"
    lines = [
        f"{file},{KEYS[i % 24]},{90 + 10 * i},{'test' if i == 0 else 'train'},g{i}"
        for i, file in enumerate(files)
    ]
    manifest.write_text("\n".join(["path,key,tempo,split,group", *lines]) + "\n")
    keep.write_text("path\n" + "".join(f"{file}\n" for file in files[:2]))
    command = ("export", annotating.path, "--annotate", manifest, "--adapt", "--out", out)
    outcome = loev(*command, "--keep", keep, "--strength", "key=0.01")
    assert outcome.code == 0, outcome.err
    adapted = bundles.load(out)
    assert adapted.sha256 == annotating.sha256
    assert open_annotator(adapted).sha256 != open_annotator(annotating).sha256
    fitted = adapted.config["annotations"]["fitted"]
    assert fitted["key"]["regularisation"] == 0.01
    assert "adapted from the model's earlier ones" in (out / "README.md").read_text()
    manifest.write_text(manifest.read_text().replace("key,tempo", "mood,tempo"))
    outcome = loev(*command, "--overwrite")
    assert outcome.code == 2 and "no column 'key' to adapt" in outcome.err
    for wrong in ("key", "key=0", "mood=1", "key=x"):
        assert loev(*command, "--overwrite", "--strength", wrong).code == 2
    outcome = loev("export", annotating.path, "--out", out, "--overwrite", "--adapt")
    assert outcome.code == 2 and "--adapt needs --annotate" in outcome.err
