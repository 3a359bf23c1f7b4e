"""loev: disentangled music embeddings, one subspace per thing you want to listen for."""

import os

__version__ = "0.1.0"

# Libraries that report to their makers read these when they are imported, which is after this
# line in every process of loev. Not defaults: loev makes no connection that nobody asked for.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime keeps a device id and queued events
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
