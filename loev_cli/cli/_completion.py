"""What a shell offers for the values of options: names that the file before them has."""

from __future__ import annotations

import contextlib
import re

import typer


def subspaces(context: typer.Context, incomplete: str) -> list[str]:
    """Subspaces of EMB, or of the model; after others and a comma too."""
    return _after(incomplete, r"[^,]*$", _subspaces(context))


def weights(context: typer.Context, incomplete: str) -> list[str]:
    """Subspaces of EMB, each to be given a weight."""
    return _after(incomplete, r"[^,]*$", [f"{name}=" for name in _subspaces(context)])


def columns(context: typer.Context, incomplete: str) -> list[str]:
    """Columns of EMB, as the last word of a filter."""
    known: list[str] = []
    with contextlib.suppress(Exception):  # whatever is wrong, the command will say it
        from loev_cli.search import open_library

        known = list(open_library(_emb(context)).columns)
    return _after(incomplete, r"\w*$", known)


def models(incomplete: str) -> list[str]:
    """Shipped models."""
    known: list[str] = []
    with contextlib.suppress(Exception):
        from loev_cli import bundle as bundles

        known = [bundle.name for bundle in bundles.shipped()]
    return _after(incomplete, r".*$", known)


def _subspaces(context: typer.Context) -> list[str]:
    with contextlib.suppress(Exception):
        if "emb" in context.params:
            from loev_cli.search import open_library

            return list(open_library(_emb(context)).meta["subspaces"])
        from loev_cli import bundle as bundles

        return list(bundles.find(context.params.get("model") or bundles.DEFAULT_MODEL).subspaces)
    return []


def _emb(context: typer.Context) -> str:
    """The first argument: an option without its value leaves arguments unparsed."""
    return str(context.params["emb"] or context.args[0])


def _after(incomplete: str, last: str, known: list[str]) -> list[str]:
    """The text as far as it stays, with each name that its last part may become."""
    found = re.search(last, incomplete)
    start = found.start() if found else len(incomplete)
    return [incomplete[:start] + name for name in known if name.startswith(incomplete[start:])]
