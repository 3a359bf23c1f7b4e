"""The linear heads of :mod:`loev_cli.annotations` as a torch module."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from loev_cli.annotations import Annotator, Readout
from loev_cli.bundle import ANNOTATIONS_FILE, Bundle
from loev_cli.errors import BundleError
from loev_cli.files.bounded import DATA_ERRORS, in_one_line


class Readouts(nn.Module):
    """One linear layer per readout; ``state_dict`` has ``<name>.weight`` and ``<name>.bias``.

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
