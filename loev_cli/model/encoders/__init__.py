"""Encoders, by name. Adding one is one file here and one line below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, Protocol

from torch import Tensor

from loev_cli.errors import UsageError
from loev_cli.model.encoders.small import SmallEncoder
from loev_cli.model.frontend import Features, FrontendConfig


class Encoder(Protocol):
    """Features of B windows in, one (B, D) vector per branch out.

    ``dims`` names the branches in order. A split encoder (LOEV++) has one per subspace, a shared
    one has the single branch ``global``.
    """

    dims: dict[str, int]

    def __call__(self, features: Features) -> dict[str, Tensor]: ...


ENCODERS: Mapping[str, type[SmallEncoder]] = {"small": SmallEncoder}


def build_encoder(
    name: str, frontend: FrontendConfig, branches: Sequence[str], options: Mapping[str, Any]
) -> SmallEncoder:
    """The encoder called ``name`` with one branch per entry of ``branches``.

    Raises:
        UsageError: no such encoder, or an option it does not have.
    """
    if name not in ENCODERS:
        raise UsageError(f"no encoder '{name}'", hint=f"encoders: {', '.join(ENCODERS)}")
    encoder = ENCODERS[name]
    known = [p.name for p in signature(encoder).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise UsageError(
                f"encoder '{name}' has no option '{option}'", hint=f"options: {', '.join(known)}"
            )
    return encoder(frontend, branches, **options)
