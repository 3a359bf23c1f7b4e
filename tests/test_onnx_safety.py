"""Graphs that a bundle's checksums do not cover, that were swapped, or that never end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from loev_cli import bundle as bundles
from loev_cli.backends import open_encoder
from loev_cli.bundle import Bundle
from loev_cli.embed import embed
from loev_cli.embed.merge import merge
from loev_cli.errors import BundleError, UsageError
from loev_cli.formats import check_agree, read, read_meta
from loev_cli.storage.protobuf import external_tensor
from tests.conftest import (
    WINDOW_N,
    Loev,
    command,
    environment,
    foreground,
    make_bundle,
    write_audio,
    write_config,
)
from tests.embed.common import request

PATIENCE_S = 60


def save(model: onnx.ModelProto, folder: Path) -> Bundle:
    """The graph as that of the bundle in ``folder``, with checksums that fit."""
    (folder / bundles.ONNX_FILE).write_bytes(model.SerializeToString())
    write_config(folder)
    return bundles.load(folder)


def external(name: str = "outside") -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def constant(tensor: onnx.TensorProto) -> onnx.NodeProto:
    node = helper.make_node("Constant", [], ["unused"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    return node


def subgraph(*nodes: onnx.NodeProto, initializer: onnx.TensorProto | None = None) -> Any:
    return helper.make_graph(nodes, "inner", [], [], [initializer] if initializer else [])


def in_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(external())


def in_sparse_values(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(external())


def in_sparse_indices(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().indices.CopyFrom(external())


def in_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(constant(external()))


def in_tensors(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="x", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(external())


def in_sparse_attribute(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="x", type=onnx.AttributeProto.SPARSE_TENSORS)
    attribute.sparse_tensors.add().values.CopyFrom(external())


def in_subgraph(model: onnx.ModelProto) -> None:
    inner = helper.make_node("If", ["c"], ["y"], then_branch=subgraph(initializer=external()))
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=subgraph(inner)))


def in_graphs(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="x", type=onnx.AttributeProto.GRAPHS)
    attribute.graphs.append(subgraph(constant(external())))


def in_function(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function("own", "F", [], ["unused"], [constant(external())], [])
    )


def in_default_of_function(model: onnx.ModelProto) -> None:
    function = helper.make_function("own", "F", [], [], [], [])
    function.attribute_proto.add(name="x", type=onnx.AttributeProto.TENSOR).t.CopyFrom(external())
    model.functions.append(function)


def in_training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.initializer.append(external())


def without_location(model: onnx.ModelProto) -> None:
    tensor = external()
    tensor.ClearField("external_data")
    model.graph.initializer.append(tensor)


def without_flag(model: onnx.ModelProto) -> None:
    tensor = external()
    tensor.data_location = TensorProto.DEFAULT
    model.graph.initializer.append(tensor)


@pytest.mark.parametrize(
    "put",
    [
        in_initializer,
        in_sparse_values,
        in_sparse_indices,
        in_constant,
        in_tensors,
        in_sparse_attribute,
        in_subgraph,
        in_graphs,
        in_function,
        in_default_of_function,
        in_training,
        without_location,
        without_flag,
    ],
)
def test_values_in_other_files_are_found_wherever_they_hang(
    bundle: Bundle, tmp_path: Path, put: Callable[[onnx.ModelProto], None]
) -> None:
    model = onnx.load(bundle.path / bundles.ONNX_FILE)
    put(model)
    file = tmp_path / "model.onnx"
    file.write_bytes(model.SerializeToString())
    assert external_tensor(file) in ("outside", "")  # sparse tensors' parts may have no name


def test_what_is_inside_is_not_taken_for_outside(bundle: Bundle) -> None:
    assert external_tensor(bundle.path / bundles.ONNX_FILE) is None
    for shipped in bundles.shipped():
        assert external_tensor(shipped.path / bundles.ONNX_FILE) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"no model at all", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 30, b"\x3b\x3c"],
)
def test_what_is_no_onnx(tmp_path: Path, content: bytes) -> None:
    """``\\x3b\\x3c`` is a group, which readers skip and we have no use for."""
    bundle = make_bundle(tmp_path / "m")
    (bundle.path / bundles.ONNX_FILE).write_bytes(content)
    write_config(bundle.path)
    with pytest.raises(BundleError, match=bundles.ONNX_FILE):
        open_encoder(bundles.load(bundle.path), device="cpu")


def test_a_location_written_at_length_is_seen(tmp_path: Path) -> None:
    """Numbers have several spellings, and 2**32 + 1 is EXTERNAL to who keeps 32 bits of it."""
    for location in (b"\x81\x80\x00", b"\x81\x80\x80\x80\x10"):
        tensor = b"\x42\x01w" + b"\x70" + location
        graph = b"\x2a" + bytes([len(tensor)]) + tensor
        file = tmp_path / "model.onnx"
        file.write_bytes(b"\x3a" + bytes([len(graph)]) + graph)
        assert external_tensor(file) == "w"


def test_weights_cannot_be_swapped_behind_the_checksums(
    bundle: Bundle, tmp_path: Path, loev: Loev
) -> None:
    """The attack: all weights outside, config.json right, and the file beside it exchanged."""
    folder = tmp_path / "m"
    shutil.copytree(bundle.path, folder)
    onnx.save(
        onnx.load(folder / bundles.ONNX_FILE),
        folder / bundles.ONNX_FILE,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    write_config(folder)
    out = tmp_path / "x.npz"
    done = loev("embed", write_audio(tmp_path / "a.wav"), "--out", out, "--model", folder)
    assert done.code == 1
    assert str(folder / bundles.ONNX_FILE) in done.lines[-1]
    assert not out.exists()


# ------------------------------------------------------------ swapped graphs, same weights


@pytest.fixture
def twin(bundle: Bundle, tmp_path: Path) -> Bundle:
    """The same weights file and name; a graph that gives other vectors."""
    folder = tmp_path / "twin"
    shutil.copytree(bundle.path, folder)
    model = onnx.load(folder / bundles.ONNX_FILE)
    for i, tensor in enumerate(model.graph.initializer):
        if tensor.name.startswith("w_"):
            changed = numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name)
            model.graph.initializer[i].CopyFrom(changed)
    twin = save(model, folder)
    assert twin.sha256 == bundle.sha256
    assert twin.onnx_sha256 != bundle.onnx_sha256
    return twin


def without_graph(file: Path) -> None:
    """Make an embedding file and its journal what they were before the graph was noted."""
    with np.load(file) as columns:
        arrays = dict(columns)
    meta = json.loads(str(arrays["meta"]))
    del meta["onnx_sha256"]
    arrays["meta"] = np.array(json.dumps(meta))
    np.savez(file, **arrays)
    shutil.rmtree(f"{file}.journal")


def test_files_say_which_graph_made_them(bundle: Bundle, tmp_path: Path) -> None:
    audio = write_audio(tmp_path / "a.wav")
    embed(request(bundle, tmp_path / "x.npz", audio))
    assert read_meta(tmp_path / "x.npz")["onnx_sha256"] == bundle.onnx_sha256
    file = bundles.file_record(bundle.path / bundles.ONNX_FILE)
    assert file["sha256"] == bundle.onnx_sha256


def test_rows_of_different_graphs_are_not_merged(
    bundle: Bundle, twin: Bundle, tmp_path: Path
) -> None:
    for name, model in (("a", bundle), ("b", twin), ("old", bundle)):
        embed(request(model, tmp_path / f"{name}.npz", write_audio(tmp_path / f"{name}.wav")))
    without_graph(tmp_path / "old.npz")
    a, b, old = (str(tmp_path / f"{name}.npz") for name in ("a", "b", "old"))
    for parts in ([a, b], [old, a, b]):
        with pytest.raises(UsageError) as raised:
            merge(parts, str(tmp_path / "all.npz"))
        assert a in str(raised.value)
        assert b in str(raised.value)
    assert not (tmp_path / "all.npz").exists()
    merge([old, a], str(tmp_path / "all.npz"))
    assert read_meta(tmp_path / "all.npz")["onnx_sha256"] == bundle.onnx_sha256
    merge([old], str(tmp_path / "again.npz"))
    assert "onnx_sha256" not in read_meta(tmp_path / "again.npz")


@pytest.mark.parametrize("is_finished", [True, False])
def test_another_graph_does_not_resume_a_run(
    bundle: Bundle, twin: Bundle, library: Path, tmp_path: Path, is_finished: bool
) -> None:
    out = tmp_path / "x.npz"
    if is_finished:
        embed(request(bundle, out, library))
    else:

        def stop(event: object) -> None:
            if type(event).__name__ == "TrackDone":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            embed(request(bundle, out, library), on_event=stop)
    write_audio(library / "new.wav")
    with pytest.raises(UsageError, match=str(out)):
        embed(request(twin, out, library))
    embed(request(bundle, out, library))
    assert len(read(out).paths) == 6
    embed(request(twin, out, library, overwrite=True))
    assert read_meta(out)["onnx_sha256"] == twin.onnx_sha256


def test_files_of_before_go_on(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    embed(request(bundle, out, library))
    without_graph(out)
    write_audio(library / "new.wav")
    embed(request(bundle, out, library))
    assert len(read(out).paths) == 6


def test_a_journal_of_before_goes_on(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    n_done = 0

    def stop(event: object) -> None:
        nonlocal n_done
        n_done += type(event).__name__ == "TrackDone"
        if n_done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(request(bundle, out, library), on_event=stop)
    state = tmp_path / "x.npz.journal" / "journal.json"
    content = json.loads(state.read_text())
    del content["origin"]["onnx_sha256"]
    state.write_text(json.dumps(content))
    report = embed(request(bundle, out, library))
    assert (report.n_done, report.n_rows) == (3, 5)


def test_lines_of_different_graphs_in_one_file(
    bundle: Bundle, twin: Bundle, tmp_path: Path
) -> None:
    lines = []
    for name, model in (("old", bundle), ("a", bundle), ("b", twin)):
        out = tmp_path / f"{name}.jsonl"
        embed(request(model, out, write_audio(tmp_path / f"{name}.wav")))
        record = json.loads(out.read_text())
        if name == "old":
            del record["meta"]["onnx_sha256"]
        lines.append(json.dumps(record))
    both = tmp_path / "both.jsonl"
    both.write_text("\n".join(lines[:2]) + "\n")
    assert len(read(both).paths) == 2
    both.write_text("\n".join(lines) + "\n")
    with pytest.raises(UsageError, match=str(both)):
        read(both)


def test_a_query_by_audio_is_heard_by_the_graph_of_the_library(
    bundle: Bundle, twin: Bundle, library: Path, tmp_path: Path, loev: Loev
) -> None:
    out, query = tmp_path / "x.npz", write_audio(tmp_path / "q.wav")
    embed(request(bundle, out, library))
    assert loev("search", out, query, "--model", bundle.path).code == 0
    done = loev("search", out, query, "--model", twin.path)
    assert done.code == 2
    assert str(twin.path) in done.lines[-1]


def test_agreement_is_of_all_that_say_it() -> None:
    metas: dict[str, dict[str, Any]] = {
        "none": {},
        "x": {"onnx_sha256": "1"},
        "also none": {},
        "y": {"onnx_sha256": "2"},
    }
    check_agree({name: metas[name] for name in ("none", "x", "also none")}, keys=())
    with pytest.raises(UsageError, match="x and y"):
        check_agree(metas, keys=())


# ------------------------------------------------------------ graphs that never end


def endless(folder: Path) -> Bundle:
    """For windows that are loud enough the graph loops for ever; for others it ends."""
    make_bundle(folder)
    model = onnx.load(folder / bundles.ONNX_FILE)
    graph = model.graph
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Identity", ["state"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "limit"))
    first = list(graph.node)
    first[0].input[0] = "looped"
    del graph.node[:]
    graph.node.extend(
        [
            helper.make_node("ReduceMax", ["waveform"], ["peak"], keepdims=0),
            helper.make_node("Greater", ["peak", "limit"], ["is_loud"]),
            helper.make_node("Loop", ["", "is_loud", "waveform"], ["looped"], body=body),
            *first,
        ]
    )
    onnx.checker.check_model(model)
    return save(model, folder)


EMBED_TO_FILE = ["embed", "{music}", "--out", "{out}", "--batch-size", "1", "--workers", "1"]
EMBED_TO_STDOUT = ["embed", "{music}", "--out", "-"]
SEARCH_BY_FILE = ["search", "{library}", "{loud}"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "arguments", "is_resumable"),
    [
        (signal.SIGINT, EMBED_TO_FILE, True),
        (signal.SIGTERM, EMBED_TO_STDOUT, False),
        (signal.SIGTERM, SEARCH_BY_FILE, False),
        (signal.SIGTERM, EMBED_TO_FILE, True),
        (signal.SIGINT, EMBED_TO_STDOUT, False),
        (signal.SIGINT, SEARCH_BY_FILE, False),
    ],
)
def test_a_signal_ends_a_graph_that_does_not(
    tmp_path: Path, arguments: list[str], is_resumable: bool, number: signal.Signals
) -> None:
    import soundfile

    model, music = endless(tmp_path / "m"), tmp_path / "music"
    quiet = write_audio(music / "a.wav", 2.0)
    embed(request(model, tmp_path / "library.npz", quiet))
    loud = music / "z.wav"
    soundfile.write(loud, np.full(WINDOW_N, 0.9, np.float32), 8000, subtype="FLOAT")
    places = {"music": music, "loud": loud, "library": tmp_path / "library.npz"}
    out = tmp_path / "x.npz"
    line = [argument.format(out=out, **places) for argument in arguments]
    process = subprocess.Popen(
        command(*line, "--model", model.path),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
        preexec_fn=foreground,
    )  # fmt: skip
    try:
        stat = Path(f"/proc/{process.pid}/stat")
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and process.poll() is None:
            ticks = sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))
            if ticks / os.sysconf("SC_CLK_TCK") > 5:  # far beyond what the start takes
                break
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 128 + number, stderr
    assert b"Traceback" not in stderr
    if is_resumable:
        assert (tmp_path / "x.npz.journal").is_dir()
        loud.unlink()
        report = embed(request(model, out, music))
        assert (report.n_done, report.n_rows) == (0, 1)
