"""loev: disentangled music embeddings, one subspace per thing you want to listen for.

import loev_cli as loev

model = loev.load()
model(waveform, sample_rate_hz)          # {"invariant": (D,), "pitch": (D,), "tempo": (D,)}
loev.embed(["~/Music"], "emb.parquet")   # what ``loev embed`` does
loev.read("emb.parquet").vectors         # {"invariant": (N, D), ...}

Names are imported when they are first used: importing the package takes no time.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loev_cli.api import Model, load
    from loev_cli.embed.job import embed_to_file as embed
    from loev_cli.errors import LoevError
    from loev_cli.formats import EmbeddingFile, read

__version__ = "1.0.0"

__all__ = ["EmbeddingFile", "LoevError", "Model", "__version__", "embed", "load", "read"]

_MODULE_OF = {
    "EmbeddingFile": "loev_cli.formats",
    "LoevError": "loev_cli.errors",
    "Model": "loev_cli.api",
    "load": "loev_cli.api",
    "read": "loev_cli.formats",
}

# Libraries that report to their makers read these when they are imported, which is after this
# line in every process of loev. Not defaults: loev makes no connection that nobody asked for.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime keeps a device id and queued events
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def __getattr__(name: str) -> Any:
    if name == "embed":  # the package, which can be called: see there
        return importlib.import_module("loev_cli.embed")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'loev_cli' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
