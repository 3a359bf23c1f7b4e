"""Names that the whole project agrees on: subspaces and methods."""

from __future__ import annotations

from typing import Literal, get_args

INVARIANT = "invariant"
GLOBAL = "global"

Method = Literal["loev++", "loev", "looc", "cl"]
METHODS: tuple[Method, ...] = get_args(Method)
