"""A model, and its readouts, from its bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from loev_cli.annotations import Annotator, Readout
from loev_cli.bundle import ANNOTATIONS_FILE, WEIGHTS_FILE, Bundle
from loev_cli.errors import BundleError, UsageError
from loev_cli.model.loev import LoevModel, ModelSpec
from loev_cli.storage.bounded import DATA_ERRORS, in_one_line


def load_model(bundle: Bundle) -> LoevModel:
    """The bundle's model with its weights, on the CPU, in evaluation mode.

    Raises:
        BundleError: damaged weights, or weights that do not fit the config.
    """
    try:
        model = LoevModel(ModelSpec.from_config(bundle.config))
        file = bundle.verified(WEIGHTS_FILE)
        load_weights(model, load_file(file), file)
    except (*DATA_ERRORS, RuntimeError, SafetensorError, UsageError) as error:
        raise BundleError(
            f"config.json and the weights of bundle {bundle.path} are inconsistent: "
            f"{in_one_line(error)}"
        ) from error
    return model.eval()


def load_weights(model: LoevModel, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load weights into a model.

    Raises:
        UsageError: the layers do not match, e.g. weights of another loev version.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(
            f"{source} does not match the model architecture: {' '.join(str(error).split())}",
            hint="checkpoints from other loev versions may be incompatible; retrain",
        ) from error


class Readouts(nn.Module):
    """The readouts of :mod:`loev_cli.annotations`, a linear layer each; ``state_dict`` has
    ``<name>.weight`` and ``<name>.bias``.

    Args:
        readouts: name -> readout.
        subspaces: subspace -> dimension D.
    """

    def __init__(self, readouts: Mapping[str, Readout], subspaces: Mapping[str, int]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {
                name: nn.Linear(subspaces[readout.subspace], readout.n_logits)
                for name, readout in readouts.items()
            }
        )
        self._readouts = readouts

    def forward(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{subspace: (B, D)} -> {output: (B, n)}, in fp32 whatever the vectors are in."""
        logits = {}
        for name, readout in self._readouts.items():
            x = vectors[readout.subspace]
            with torch.autocast(x.device.type, enabled=False):
                logits[readout.output] = self.layers[name](x.float())
        return logits


def load_readouts(bundle: Bundle, annotator: Annotator) -> Readouts:
    """A bundle's readouts with their weights, on the CPU.

    Raises:
        BundleError: weights that are damaged or do not fit the config.
    """
    module = Readouts(annotator.readouts, bundle.subspaces)
    try:
        module.layers.load_state_dict(load_file(bundle.verified(ANNOTATIONS_FILE)))
    except (*DATA_ERRORS, RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"bundle {bundle.path} does not describe its annotations: {in_one_line(error)}"
        ) from error
    return module.eval()
