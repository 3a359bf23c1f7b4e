"""The model, one definition for training, export and inference. Needs torch."""

from loev_cli.model.layers import GLOBAL, INVARIANT, METHODS, Method
from loev_cli.model.load import load_model, load_weights
from loev_cli.model.loev import LoevModel, ModelSpec, Projected

__all__ = [
    "GLOBAL",
    "INVARIANT",
    "METHODS",
    "LoevModel",
    "Method",
    "ModelSpec",
    "Projected",
    "load_model",
    "load_weights",
]
