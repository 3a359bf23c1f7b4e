"""A model from its bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from loev_cli.bundle import WEIGHTS_FILE, Bundle
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
