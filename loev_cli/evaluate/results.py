"""The results of one evaluation, and their JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loev_cli import __version__
from loev_cli.evaluate.equivariance import Changed, Response
from loev_cli.evaluate.geometry import Leak, Shape
from loev_cli.evaluate.labels import Column
from loev_cli.evaluate.manifest import Manifest
from loev_cli.evaluate.probes import ProbeResult
from loev_cli.evaluate.retrieval import RetrievalResult
from loev_cli.evaluate.splits import Splits
from loev_cli.evaluate.vectors import Vectors

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Results:
    """Data, settings and results; parts that were not requested are empty.

    Attributes:
        command: the command line to reproduce it.
        created: UTC, ISO 8601.
        settings: other settings that affect the results.
        skipped: files that failed, one line each.
        notes: remarks on the data.
        maps: subspace -> (n, 2), of the test rows.
        map_method: the projection used.
    """

    command: str
    created: str
    manifest: Manifest
    columns: Sequence[Column]
    splits: Splits
    vectors: Vectors
    settings: dict[str, Any]
    skipped: Sequence[str]
    notes: Sequence[str]
    probes: Sequence[ProbeResult] = ()
    heard: Changed | None = None
    responses: Sequence[Response] = ()
    retrieval: Sequence[RetrievalResult] = ()
    shapes: Sequence[Shape] = ()
    leaks: Sequence[Leak] = ()
    maps: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    map_method: str = "pca"

    @property
    def n_groups(self) -> int:
        return len(np.unique(self.manifest.groups))

    def as_dict(self) -> dict[str, Any]:
        """For ``results.json``; undefined values are null."""
        heard = self.heard
        document = {
            "format_version": FORMAT_VERSION,
            "command": self.command,
            "created": self.created,
            "loev_version": __version__,
            "model": self.vectors.model,
            "data": {
                "n_tracks": len(self.manifest),
                "n_groups": self.n_groups,
                "n_judged": len(self.splits.judged),
                "split": self.splits.description,
                "labels": {
                    column.name: {
                        "kind": column.kind,
                        "n_known": int(column.known.sum()),
                        "classes": list(column.classes),
                    }
                    for column in self.columns
                },
            },
            "settings": self.settings,
            "interval": "95 %, over groups of tracks",
            "skipped": list(self.skipped),
            "notes": list(self.notes),
            "probes": [record for probe in self.probes for record in probe.records()],
            "equivariance": {
                "stretcher": heard.stretcher if heard else None,
                "tracks": [self.manifest.paths[i] for i in heard.rows] if heard else [],
                "responses": [r.record(heard.units[r.change]) for r in self.responses]
                if heard
                else [],
            },
            "retrieval": [record for result in self.retrieval for record in result.records()],
            "geometry": {
                "subspaces": [shape.record() for shape in self.shapes],
                "between": [leak.record() for leak in self.leaks],
            },
        }
        return dict(plain(document))


def plain(value: Any) -> Any:
    """JSON-compatible: NumPy scalars as Python numbers, NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
