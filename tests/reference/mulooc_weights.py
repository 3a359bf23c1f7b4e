"""The weights that `sf_nfnet.npz` was computed with: a rule, so that 78 million need no file."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent
Case = Literal["split", "shared"]
_TENSORS = json.loads((HERE / "sf_nfnet_tensors.json").read_text(encoding="utf-8"))


def tensor_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Names in the research code -> shapes."""
    return {name: tuple(shape) for name, shape in _TENSORS[case].items()}


def mulooc_weights(case: Case) -> dict[str, Tensor]:
    """A state dict of the research code, filled by the rule."""
    return {name: _fill(name, shape) for name, shape in tensor_shapes(case).items()}


def _fill(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith(".scalar"):
        return torch.tensor(_TENSORS["scalars"][name])
    index = np.arange(1, math.prod(shape) + 1, dtype=np.float64)
    u = np.sin(index * 12.9898 + zlib.crc32(name.encode()) % 1000) * 43758.5453
    values = 2 * (u - np.floor(u)) - 1
    if len(shape) >= 2:
        values *= math.sqrt(6 / math.prod(shape[1:]))
    elif name.endswith("running_var"):
        values = 1 + 0.1 * abs(values)
    else:
        values = 0.05 * values + name.endswith("weight")
    return torch.tensor(values.reshape(shape), dtype=torch.float32)
