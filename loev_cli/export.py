"""A trained model -> a bundle: safetensors, an ONNX graph that takes the waveform, a model card.
A bundle -> the same with readouts of key and tempo."""

from __future__ import annotations

import copy
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as save_arrays
from safetensors.torch import save
from torch import Tensor, nn

from loev_cli import __version__
from loev_cli.annotations import Readout, to_config
from loev_cli.bundle import (
    ANNOTATIONS_FILE,
    CARD_FILE,
    CONFIG_FILE,
    FILES,
    FORMAT_VERSION,
    ONNX_FILE,
    WEIGHTS_FILE,
    Bundle,
    file_record,
    load,
)
from loev_cli.errors import OutputError, UsageError
from loev_cli.model import LoevModel
from loev_cli.model.layers import fold_weights
from loev_cli.storage.atomic import AtomicFolder
from loev_cli.storage.replacing import check_place

OPSET_VERSION = 18
_READOUT = "readout."  # how the names of their parts begin in a graph

Weighted = tuple[Readout, NDArray[np.float32], NDArray[np.float32]]


def export_bundle(
    model: LoevModel,
    out: Path,
    *,
    name: str,
    augmentations: Mapping[str, Any],
    training: Mapping[str, Any],
    card: str,
    overwrite: bool = False,
) -> Bundle:
    """Write ``model`` as the bundle ``out``; the folder appears whole or not at all.

    Args:
        augmentations: name -> range and units, as the model was trained.
        training: what made the weights (data, steps, seed), kept in ``config.json``.
        card: text of the model card.

    Raises:
        UsageError: ``out`` exists and ``overwrite`` was not asked for, or its parent does not.
        OutputError: it cannot be written.
    """
    with _new_bundle(out, overwrite=overwrite) as draft:
        model = model.eval()
        weights = {key: value.contiguous() for key, value in model.state_dict().items()}
        (draft / WEIGHTS_FILE).write_bytes(save(weights))
        write_onnx(model, draft / ONNX_FILE)
        config = {
            "format_version": FORMAT_VERSION,
            "name": name,
            **model.spec.to_config(),
            # Windows side by side: overlapping ones cost twice as much and measure no better.
            **(
                {"hop_n_samples": model.spec.window_n_samples} if model.spec.reads_waveforms else {}
            ),
            "pooling": "mean",
            "subspaces": model.subspaces,
            "augmentations": dict(augmentations),
            "training": {"loev_version": __version__, **training},
            "files": {f: file_record(draft / f) for f in (WEIGHTS_FILE, ONNX_FILE)},
        }
        _write_config(draft, config)
        (draft / CARD_FILE).write_text(card, encoding="utf-8")
    return load(out)


def add_readouts(
    bundle: Bundle,
    readouts: Mapping[str, Weighted],
    out: Path,
    *,
    name: str,
    fitted: Mapping[str, Any],
    card: str,
    overwrite: bool = False,
) -> Bundle:
    """Write ``bundle`` with these readouts, and no others, as the bundle ``out``.

    Nothing else of it changes: ``model.safetensors`` is copied, so the model stays who it is, and
    the readouts' logits become further outputs of the graph as it is.

    Args:
        readouts: name -> readout, its weight (n, D) and its bias (n,).
        fitted: what they were fitted to and what they are worth, kept in ``config.json``.
        card: text of the model card.
        out: not ``bundle`` itself.

    Raises: as :func:`export_bundle`, and
        BundleError: the bundle's files are missing or damaged.
    """
    with _new_bundle(out, overwrite=overwrite, inputs=[bundle.path]) as draft:
        shutil.copyfile(bundle.verified(WEIGHTS_FILE), draft / WEIGHTS_FILE)
        weights: dict[str, NDArray[np.float32]] = {}
        for key, (_, weight, bias) in readouts.items():
            weights |= {f"{key}.weight": weight, f"{key}.bias": bias}
        (draft / ANNOTATIONS_FILE).write_bytes(save_arrays(weights))
        graph = with_readouts(onnx.load(bundle.verified(ONNX_FILE)), readouts)
        onnx.save(graph, draft / ONNX_FILE)
        described = to_config({key: readout for key, (readout, _, _) in readouts.items()})
        files = {f: file_record(draft / f) for f in (WEIGHTS_FILE, ONNX_FILE, ANNOTATIONS_FILE)}
        config = bundle.config | {
            "name": name,
            "annotations": {"readouts": described, "fitted": dict(fitted)},
            "files": files,
        }
        _write_config(draft, config)
        (draft / CARD_FILE).write_text(card, encoding="utf-8")
    return load(out)


def with_readouts(graph: onnx.ModelProto, readouts: Mapping[str, Weighted]) -> onnx.ModelProto:
    """The graph with an output of logits (B, n) per readout, instead of those it may have had."""
    graph = copy.deepcopy(graph)
    old = [node for node in graph.graph.node if node.name.startswith(_READOUT)]
    outputs = {name for node in old for name in node.output}
    for node in old:
        graph.graph.node.remove(node)
    for values in (graph.graph.initializer, graph.graph.output):
        for value in [v for v in values if v.name.startswith(_READOUT) or v.name in outputs]:
            values.remove(value)
    shapes = {value.name: value.type.tensor_type.shape for value in graph.graph.output}
    for name, (readout, weight, bias) in readouts.items():
        parts = {f"{_READOUT}{name}.weight": weight, f"{_READOUT}{name}.bias": bias}
        graph.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.asarray(array, np.float32), part)
            for part, array in parts.items()
        )
        graph.graph.node.append(
            onnx.helper.make_node(
                "Gemm",
                [readout.subspace, *parts],
                [readout.output],
                name=f"{_READOUT}{name}",
                transB=1,
            )
        )
        batch = shapes[readout.subspace].dim[0].dim_param or None
        graph.graph.output.append(
            onnx.helper.make_tensor_value_info(
                readout.output, onnx.TensorProto.FLOAT, [batch, readout.n_logits]
            )
        )
    onnx.checker.check_model(graph)
    return graph


def check_out(out: Path, *, overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Whether a bundle may be made at ``out``.

    Raises:
        UsageError: something is there and ``overwrite`` was not asked for, or it is no bundle,
            which nothing replaces; an input lies there; or its parent is missing.
        OutputError: it cannot be written there.
    """
    check_place(out, inputs=inputs, overwrite=overwrite, is_folder=True)
    if not out.is_dir():
        return
    foreign = {file.name for file in out.iterdir() if not file.name.startswith(".")} - set(FILES)
    if foreign:
        raise UsageError(
            f"will not replace {out}: it contains {min(foreign)}, which is not part of a model",
            hint="choose another --out, or remove it yourself",
        )


@contextmanager
def _new_bundle(out: Path, *, overwrite: bool, inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """A folder to fill, which becomes ``out`` unless something is raised."""
    check_out(out, overwrite=overwrite, inputs=inputs)
    folder = AtomicFolder(out)
    try:
        yield folder.folder
        folder.commit()
    except OSError as error:
        raise OutputError(f"cannot write bundle {out}: {error}") from error
    finally:
        folder.abort()


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    text = json.dumps(config, indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def write_onnx(model: LoevModel, file: Path) -> None:
    """ONNX graph: ``waveform`` (B, N) -> one output (B, D) per subspace, B dynamic.

    Where the model reads no waveform, its input is called ``input`` (B, ...).
    """
    input_name = "waveform" if model.spec.reads_waveforms else "input"
    names = list(model.subspaces)
    # Standardized weights go in as they are used: no session has to work them out again.
    model = copy.deepcopy(model)
    fold_weights(model)
    example = 0.1 * torch.randn(
        2, *model.spec.input_shape, generator=torch.Generator().manual_seed(0)
    )
    # The exporter reports its progress and missing optional packages as if they were news.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Outputs(model, names),
            (example,),
            input_names=[input_name],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET_VERSION,
            dynamo=True,
            # The exporter's optimizer folds the frontend's "+ epsilon" away: log(0) in silence.
            optimize=False,
        )
    assert program is not None
    proto = program.model_proto
    for prop in [p for p in proto.metadata_props if p.key.startswith("pkg.torch.export")]:
        proto.metadata_props.remove(prop)
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces of the exporting machine
        node.doc_string = ""
    for value in proto.graph.value_info:
        del value.metadata_props[:]
    onnx.checker.check_model(proto)
    onnx.save(proto, file)


def write_nothing(model: LoevModel) -> None:
    """Make ``model`` into a graph and forget it: shows what :func:`export_bundle` will take."""
    with tempfile.TemporaryDirectory() as folder:
        write_onnx(model, Path(folder) / ONNX_FILE)


class _Outputs(nn.Module):
    """The model with its outputs as a tuple, which is what a graph has."""

    def __init__(self, model: LoevModel, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        vectors = self.model(waveform)
        return tuple(vectors[name] for name in self.names)
