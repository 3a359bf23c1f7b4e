"""The model card of a new run: training facts and validation figures."""

from __future__ import annotations

from typing import Any

from loev_cli.model import ModelSpec
from loev_cli.train.validation import Validation


def model_card(
    name: str, spec: ModelSpec, facts: dict[str, Any], validation: Validation | None
) -> str:
    """Markdown text of a bundle's ``README.md``."""
    rows = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in facts.items())
    heads = ", ".join(f"`{head}`" for head in spec.heads)
    return f"""# {name}

A {spec.method} model with the `{spec.encoder}` encoder. Heads: {heads}.

It reads mono audio at {spec.frontend.sample_rate_hz / 1000:g} kHz in windows of
{spec.window_s:.2f} s; a shorter file is repeated to fill one window. The embedding of a track is
the mean of its windows.

## Training

| | |
|---|---|
{rows}

The `config.toml` of the run reproduces it. Losses are averages over the last steps.

## What was measured

{_measured(validation)}

## License

The weights are yours; check what the licenses of your training data allow.
"""


def _measured(validation: Validation | None) -> str:
    if validation is None or not validation.sensitivity:
        return (
            "Nothing beyond the losses. They measure how well views of one track are separated "
            "from\nother tracks, not what a subspace is useful for. Evaluate it on your own data."
        )
    augs = list(next(iter(validation.sensitivity.values())))
    header = ["subspace", *(f"moved by {aug}" for aug in augs), "alignment", "uniformity"]
    lines = [header, ["---"] * len(header)]
    for subspace, row in validation.sensitivity.items():
        values = [*row.values(), validation.alignment[subspace], validation.uniformity[subspace]]
        lines.append([f"`{subspace}`", *(f"{value:.2f}" for value in values)])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    losses = ", ".join(f"`{head}` {loss:.3f}" for head, loss in validation.losses.items())
    return f"""Measured by `loev train` on validation tracks of the same collection:

{table}

*Moved by*: how far that augmentation moves a window, over the mean distance between different
tracks. 1 is as far away as another recording; ideal is large for a subspace's own augmentation and
0 elsewhere. *Alignment*: mean squared distance of two crops of one track, *uniformity*: log of the
mean of exp(-2 d^2) over pairs of tracks, both of unit vectors (Wang & Isola 2020); lower is better
for both. Validation loss: {losses}.

These figures do not show what a subspace is useful for: evaluate it on your own data and labels."""
