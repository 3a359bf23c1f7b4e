"""``loev models``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loev_cli.cli import _options as options
from loev_cli.cli._console import show, size, table

if TYPE_CHECKING:
    from loev_cli.bundle import Bundle


def models(
    name: Annotated[
        str | None, typer.Argument(help="Show this model's card.", metavar="NAME|FOLDER")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """List the models that came with loev, or show the card of one.

    Example: loev models loevpp-small
    """
    from loev_cli import bundle as bundles

    if name is None:
        described = [_describe(bundle) for bundle in bundles.shipped()]
        show(json.dumps(described, indent=2) if as_json else _table(described), raw=True)
        return
    bundle = bundles.find(name)
    card = bundle.path / bundles.CARD_FILE
    text = (
        card.read_text(encoding="utf-8", errors="replace")
        if card.is_file()
        else "(this model has no card)"
    )
    if as_json:
        show(json.dumps(_describe(bundle) | {"card": text}, indent=2), raw=True)
    else:
        show(text.rstrip().expandtabs())


def _describe(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "method": bundle.config["method"],
        "subspaces": bundle.subspaces,
        "window_s": bundle.window_s,
        "sample_rate_hz": bundle.sample_rate_hz,
        "n_bytes": sum(int(record["n_bytes"]) for record in bundle.config["files"].values()),
        "sha256": bundle.sha256,
        "path": str(bundle.path),
    }


def _table(described: list[dict[str, Any]]) -> str:
    if not described:
        return "this installation ships no models"
    return table(
        ["name", "method", "subspaces", "window", "size", "path"],
        [
            [
                model["name"],
                model["method"],
                ", ".join(f"{name} ({dim})" for name, dim in model["subspaces"].items()),
                f"{model['window_s']:.4g} s",
                size(model["n_bytes"]),
                model["path"],
            ]
            for model in described
        ],
    )
