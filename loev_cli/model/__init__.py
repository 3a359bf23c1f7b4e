"""The model, one definition for training, export and inference. Needs torch."""

from loev_cli.model.load import load_model
from loev_cli.model.loev import GLOBAL, INVARIANT, METHODS, LoevModel, ModelSpec

__all__ = ["GLOBAL", "INVARIANT", "METHODS", "LoevModel", "ModelSpec", "load_model"]
