"""What a user asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loev_cli import bundle as bundles
from loev_cli.audio import DEFAULT_TIMEOUT_S
from loev_cli.embed.shards import Shard
from loev_cli.remote import DEFAULT_LIMITS, Limits


@dataclass(frozen=True)
class Request:
    """What to embed, with which model, into what; the options of ``loev embed``.

    None means: the default that fits the model or the machine.
    """

    inputs: Sequence[str]
    out: str | None
    model: str = bundles.DEFAULT_MODEL
    subspaces: Sequence[str] | None = None
    per_window: bool = False
    tags: bool = False
    annotate: bool = False
    hop_s: float | None = None
    device: str = "auto"
    backend: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    engine: str = "local"
    file_timeout_s: float = DEFAULT_TIMEOUT_S
    download_limits: Limits = DEFAULT_LIMITS
    shard: Shard | None = None
    prune: bool = False
    strict: bool = False
    overwrite: bool = False
    null: bool = False
