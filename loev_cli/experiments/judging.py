"""Models heard alike: vectors of the same tracks, and of the same changed excerpts.

OUT/embeddings/NAME.npz     written by ``loev embed``'s own job, so that a rerun embeds nothing
OUT/changes/NAME.npz        vectors of the changed excerpts; all models hear one rendering
OUT/changes/excerpts/       that rendering, for models that come later
OUT/probes/                 what fitted probes said
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from loev_cli import bundle as bundles
from loev_cli.api import Model
from loev_cli.backends import open_encoder
from loev_cli.embed import Request as EmbedRequest
from loev_cli.embed import TrackDone, embed
from loev_cli.errors import InputError
from loev_cli.evaluate import changes, equivariance
from loev_cli.evaluate.equivariance import Changed
from loev_cli.evaluate.job import Event, Skipped, Stage
from loev_cli.evaluate.labels import Column
from loev_cli.evaluate.manifest import Manifest
from loev_cli.evaluate.probes import Reading
from loev_cli.evaluate.splits import Fold
from loev_cli.evaluate.vectors import Vectors, read_embeddings, with_concatenation
from loev_cli.experiments.excerpts import Excerpts
from loev_cli.experiments.kept_probes import read_or_keep
from loev_cli.files.own import make_own_folder
from loev_cli.writers import is_made_by, read_meta
from loev_cli.writers.atomic import writing_own

EMBEDDINGS, CHANGES, EXCERPTS, PROBES = "embeddings", "changes", "excerpts", "probes"
_KEY = "key"

# (label, subspace, probe)
Readings = dict[tuple[str, str, str], Reading]
Tell = Callable[[Event], None]


@dataclass(frozen=True)
class Encoding:
    """How a model is run: the options of ``loev embed``."""

    device: str = "auto"
    backend: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True)
class Judged:
    """One model, or one foreign file, and what it says.

    Attributes:
        seed: of its training; None for a foreign file.
        heard: None where there is no model to hear changes with.
    """

    name: str
    seed: int | None
    vectors: Vectors
    readings: Readings
    heard: Changed | None = None


def embed_all(
    manifest: Manifest, models: Mapping[str, Path], out: Path, how: Encoding, on_event: Tell
) -> tuple[Manifest, dict[str, Vectors]]:
    """Vectors of the manifest's tracks by every model, and the manifest without unusable files.

    Args:
        models: name -> bundle.
        out: folder of the comparison.
    """
    make_own_folder(out / EMBEDDINGS)
    bad: dict[str, str] = {}
    files = {name: out / EMBEDDINGS / f"{name}.npz" for name in models}
    n, done = len(manifest) * len(models), 0
    for i, (name, bundle) in enumerate(models.items()):
        request = EmbedRequest(
            [str(file.absolute()) for file in manifest.files],
            str(files[name]),
            model=str(bundle),
            per_window=True,
            device=how.device,
            backend=how.backend,
            precision=how.precision,
            overwrite=_is_of_another(files[name], bundle),
        )

        def on_embedded(event: Any) -> None:
            nonlocal done
            if isinstance(event, TrackDone):
                done += 1
                on_event(Stage("embedding", done, n))

        on_event(Stage("embedding", done, n))
        report = embed(request, on_event=on_embedded)
        for failure in report.failures:
            if failure.path not in bad:
                on_event(Skipped(failure.message))
            bad[failure.path] = failure.message
        done = (i + 1) * len(manifest)
    on_event(Stage("embedding", n, n))
    usable = [i for i, file in enumerate(manifest.files) if str(file.absolute()) not in bad]
    manifest = manifest.select(usable)
    return manifest, {name: read_embeddings(manifest, [file]) for name, file in files.items()}


def _is_of_another(file: Path, bundle: Path) -> bool:
    return file.exists() and not is_made_by(read_meta(file), bundles.load(bundle))


def embed_changes(
    manifest: Manifest,
    rows: NDArray[np.int64],
    models: Mapping[str, Path],
    out: Path,
    stretcher: changes.Stretcher,
    how: Encoding,
    *,
    seed: int,
    on_event: Tell,
) -> dict[str, Changed]:
    """The answers of every model to changes of some tracks; made once, kept in ``out``."""
    make_own_folder(out / CHANGES)
    made = changes.changes(stretcher)
    opened = {name: bundles.load(bundle) for name, bundle in models.items()}
    keys = {
        name: json.dumps(
            {
                "model": bundle.sha256,
                "tracks": [manifest.paths[i] for i in rows],
                "sizes": {change.name: change.sizes for change in made},
                "stretcher": stretcher.name,
                "seed": seed,
            }
        )
        for name, bundle in opened.items()
    }
    heard = {
        name: found
        for name in models
        if (found := _read_heard(out / CHANGES / f"{name}.npz", keys[name])) is not None
    }
    missing = [name for name in models if name not in heard]
    if missing:
        embedders = [
            Model(
                open_encoder(
                    opened[name],
                    backend=how.backend,
                    device=how.device,
                    precision=how.precision,
                    subspaces=None,
                )
            )
            for name in missing
        ]

        def on_track(i: int, error: InputError | None) -> None:
            if error is not None:
                on_event(Skipped(error.message))
            on_event(Stage("changes", i + 1, len(rows)))

        answers = equivariance.embed_changes_together(
            [manifest.files[i] for i in rows],
            rows,
            manifest.groups[rows],
            embedders,
            made,
            stretcher.name,
            seed=seed,
            on_track=on_track,
            render=Excerpts(
                out / CHANGES / EXCERPTS, embedders[0], made, stretcher.name, seed=seed
            ),
        )
        for name, answer in zip(missing, answers, strict=True):
            _write_heard(out / CHANGES / f"{name}.npz", keys[name], answer)
            heard[name] = answer
    return {name: heard[name] for name in models}


def _write_heard(file: Path, key: str, heard: Changed) -> None:
    arrays: dict[str, NDArray[Any]] = {
        _KEY: np.array(key),
        "rows": heard.rows,
        "groups": heard.groups,
        "stretcher": np.array(heard.stretcher),
        "units": np.array(json.dumps(heard.units)),
        **{f"plain/{name}": x for name, x in heard.plain.items()},
        **{f"sizes/{change}": np.array(sizes) for change, sizes in heard.sizes.items()},
    }
    for change, of in heard.changed.items():
        arrays |= {f"changed/{change}/{name}": x for name, x in of.items()}
    with writing_own(file) as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def _read_heard(file: Path, key: str) -> Changed | None:
    """None if there is none, or one of other tracks, changes or another model."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if str(arrays[_KEY]) != key:
                return None
            plain, sizes, changed = {}, {}, {}  # type: ignore[var-annotated]
            for name in arrays.files:
                what, _, rest = name.partition("/")
                if what == "plain":
                    plain[rest] = arrays[name]
                elif what == "sizes":
                    sizes[rest] = tuple(arrays[name].tolist())
                elif what == "changed":
                    change, _, subspace = rest.partition("/")
                    changed.setdefault(change, {})[subspace] = arrays[name]
            return Changed(
                rows=arrays["rows"],
                groups=arrays["groups"],
                plain=plain,
                changed=changed,
                sizes=sizes,
                units=json.loads(str(arrays["units"])),
                stretcher=str(arrays["stretcher"]),
            )
    except (OSError, KeyError, ValueError, EOFError):
        return None


def read_all(
    vectors: Mapping[str, Vectors],
    columns: Sequence[Column],
    folds: Sequence[Fold],
    kinds: Sequence[str],
    out: Path,
    *,
    n_parallel: int,
    seed: int,
    on_event: Tell,
) -> dict[str, Readings]:
    """Every label read from every subspace of every model, and from all its subspaces together."""
    todo = [
        (name, (column.name, subspace, probe), x, column)
        for name, of in vectors.items()
        for column in columns
        for subspace, x in with_concatenation(of.subspaces).items()
        for probe in kinds
    ]
    make_own_folder(out / PROBES)
    results: dict[str, Readings] = {name: {} for name in vectors}
    work = Parallel(n_jobs=n_parallel, return_as="generator")(
        delayed(read_or_keep)(out / PROBES, x, column, folds, key[2], seed)
        for _, key, x, column in todo
    )
    on_event(Stage("probes", 0, len(todo)))
    for i, ((name, key, _, _), reading) in enumerate(zip(todo, work, strict=True)):
        results[name][key] = reading
        on_event(Stage("probes", i + 1, len(todo)))
    return results
