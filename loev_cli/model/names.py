"""Names that the whole project agrees on: subspaces and methods."""

from __future__ import annotations

import keyword
from typing import Literal, get_args

INVARIANT = "invariant"
GLOBAL = "global"

Method = Literal["loev++", "loev", "looc", "cl"]
METHODS: tuple[Method, ...] = get_args(Method)


def module_key(name: str) -> str:
    """What a submodule for the subspace ``name`` is called.

    ONNX export writes modules' names into Python code, where `global` is no name.
    """
    return f"{name}_" if keyword.iskeyword(name) else name
