"""A model from its bundle."""

from __future__ import annotations

from safetensors.torch import load_file

from loev_cli.bundle import WEIGHTS_FILE, Bundle
from loev_cli.errors import BundleError, UsageError
from loev_cli.model.loev import LoevModel, ModelSpec


def load_model(bundle: Bundle) -> LoevModel:
    """The bundle's model with its weights, on the CPU, in evaluation mode.

    Raises:
        BundleError: damaged weights, or weights that do not fit the config.
    """
    try:
        model = LoevModel(ModelSpec.from_config(bundle.config))
        model.load_state_dict(load_file(bundle.verified(WEIGHTS_FILE)))
    except (KeyError, TypeError, RuntimeError, UsageError) as error:
        raise BundleError(f"bundle {bundle.path} does not describe its weights: {error}") from error
    return model.eval()
