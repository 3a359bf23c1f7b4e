"""A trained model -> a bundle: safetensors, an ONNX graph that takes the waveform, a card."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors.torch import save
from torch import Tensor, nn

from loev_cli import __version__
from loev_cli.bundle import (
    CARD_FILE,
    CONFIG_FILE,
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

OPSET_VERSION = 18


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
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists", hint="choose another --out or add --overwrite")
    if not out.parent.is_dir():
        raise UsageError(f"no folder {out.parent}", hint="create it first")
    draft = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        draft.mkdir()
        model = model.eval()
        weights = {key: value.contiguous() for key, value in model.state_dict().items()}
        (draft / WEIGHTS_FILE).write_bytes(save(weights))
        write_onnx(model, draft / ONNX_FILE)
        config = {
            "format_version": FORMAT_VERSION,
            "name": name,
            **model.spec.to_config(),
            "pooling": "mean",
            "subspaces": model.subspaces,
            "augmentations": dict(augmentations),
            "training": {"loev_version": __version__, **training},
            "files": {f: file_record(draft / f) for f in (WEIGHTS_FILE, ONNX_FILE)},
        }
        (draft / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (draft / CARD_FILE).write_text(card, encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        draft.rename(out)
    except OSError as error:
        raise OutputError(f"cannot write bundle {out}: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return load(out)


def write_onnx(model: LoevModel, file: Path) -> None:
    """ONNX graph: ``waveform`` (B, N) -> one output (B, D) per subspace, B dynamic."""
    names = list(model.subspaces)
    # Standardised weights go in as they are used: no session has to work them out again.
    model = copy.deepcopy(model)
    fold_weights(model)
    example = 0.1 * torch.randn(
        2, model.spec.window_n_samples, generator=torch.Generator().manual_seed(0)
    )
    # The exporter reports its progress and missing optional packages as if they were news.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Outputs(model, names),
            (example,),
            input_names=["waveform"],
            output_names=names,
            dynamic_shapes={"waveform": {0: torch.export.Dim("batch")}},
            opset_version=OPSET_VERSION,
            dynamo=True,
            # The exporter's optimiser folds the frontend's "+ epsilon" away: log(0) in silence.
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


class _Outputs(nn.Module):
    """The model with its outputs as a tuple, which is what a graph has."""

    def __init__(self, model: LoevModel, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        vectors = self.model(waveform)
        return tuple(vectors[name] for name in self.names)
