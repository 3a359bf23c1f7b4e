"""The model card of a fresh run: what is known from training, and what nobody has measured yet."""

from __future__ import annotations

from typing import Any

from loev_cli.train.config import TrainConfig


def model_card(name: str, config: TrainConfig, facts: dict[str, Any]) -> str:
    """Markdown text of a bundle's ``README.md``."""
    subspaces = ", ".join(f"`{s}`" for s in ("invariant", *config.augs))
    rows = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in facts.items())
    window_s = config.window_n_samples / 16000
    return f"""# {name}

A {config.method} model with the `{config.encoder}` encoder. Subspaces: {subspaces}.

It reads mono audio at 16 kHz in windows of {window_s:.2f} s; a shorter file is repeated to fill
one window. The embedding of a track is the mean of its windows.

## Training

| | |
|---|---|
{rows}

`config.toml` of the run repeats it. Losses are averages over the last steps.

## What was measured

Nothing yet beyond the losses, which say how well views of one track are told from others, not
what a subspace is good for. Measure it on your own data before you rely on it.

## Licence

The weights are yours; check what the licences of your training data allow.
"""
