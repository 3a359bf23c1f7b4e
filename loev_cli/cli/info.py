"""``loev info``: what an embedding file says about itself."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loev_cli.cli import _options as options
from loev_cli.cli._console import clock, plural, show, size

if TYPE_CHECKING:
    from loev_cli.embed import Failure

_N_REASONS = 5
_N_HEX = 12


def info(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A file of 'loev embed'.", show_default=False),
    ],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show what an embedding file contains: tracks, model, settings, and which files failed.

    Example: loev info emb.parquet
    """
    described = _describe(file)
    if as_json:
        show(json.dumps(described, indent=2), raw=True)
        return
    for name, text in _lines(described):
        show(f"{f'{name}:' if name else '':13}{text}")


def _describe(file: Path) -> dict[str, Any]:
    from loev_cli.embed.report import read_failures
    from loev_cli.formats import open_columns

    columns = open_columns(file)
    duration_s = columns.load("duration_s")
    failures = read_failures(str(file))
    parts = file.rglob("*") if file.is_dir() else [file]
    track = columns.load("track") if "track" in columns.names else None
    return {
        "file": str(file),
        "n_bytes": sum(part.stat().st_size for part in parts if part.is_file()),
        "n_tracks": len(duration_s),
        "n_windows": None if track is None else len(track),
        "audio_s": round(float(duration_s.sum(dtype=float)), 3),
        "n_failed": len(failures),
        "reasons": dict(Counter(map(_reason, failures)).most_common(_N_REASONS)),
        "meta": columns.meta,
    }


def _reason(failure: Failure) -> str:
    """Why a file failed, without its name."""
    return failure.message.rpartition(f"{PurePosixPath(failure.path).name}: ")[2]


def _lines(described: dict[str, Any]) -> list[tuple[str, str]]:
    """For people: a name and what there is to say, line by line."""
    from loev_cli.formats import SPACE

    meta = described["meta"]
    windows = described["n_windows"]
    tracks = plural(described["n_tracks"], "track")
    annotations = meta.get("annotations")
    lines = [
        ("file", f"{described['file']}, {size(described['n_bytes'])}"),
        ("rows", tracks if windows is None else f"{plural(windows, 'window')} of {tracks}"),
        ("audio", clock(described["audio_s"])),
        ("model", f"{meta['model']} ({meta['model_sha256'][:_N_HEX]})"),
        ("subspaces", ", ".join(f"{name} ({dim})" for name, dim in meta["subspaces"].items())),
        *([("vector", f"scored by {_weights(meta[SPACE])}")] if SPACE in meta else []),
        ("windows", f"{meta['window_s']:.4g} s every {meta['hop_s']:.4g} s, {_pooled(windows)}"),
        ("tags", ", ".join(meta.get("tags", ())) or "none"),
        ("annotations", ", ".join(annotations["columns"]) if annotations else "none"),
        *([("shard", str(meta["shard"]))] if "shard" in meta else []),
        ("created", f"{_said(meta, 'created')} by loev {_said(meta, 'loev_version')}"),
        ("backend", ", ".join(_said(meta, key) for key in ("backend", "device", "precision"))),
        ("failed", plural(described["n_failed"], "file")),
    ]
    return lines + [("", f"{n} x {reason}") for reason, n in described["reasons"].items()]


def _weights(space: dict[str, Any]) -> str:
    """Of vectors for another database: what their inner product is the score of."""
    return ",".join(f"{name}={weight:g}" for name, weight in space["weights"].items())


def _pooled(n_windows: int | None) -> str:
    return "their mean is kept" if n_windows is None else "all are kept"


def _said(meta: dict[str, Any], key: str) -> str:
    return str(meta.get(key, "unknown"))
