"""Models judged alike: vectors of the same tracks, and of the same changed excerpts.

OUT/embeddings/NAME.npz     written by ``loev embed``'s own job, so that a rerun embeds nothing
OUT/changes/                vectors of the changed excerpts; all models embed one rendering
OUT/changes/excerpts/       that rendering: the stretcher takes longer than any model
OUT/probes/                 predictions of fitted probes
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from loev_cli import __version__
from loev_cli import bundle as bundles
from loev_cli.api import Model
from loev_cli.backends import open_encoder
from loev_cli.embed import Request as EmbedRequest
from loev_cli.embed import TrackDone, embed
from loev_cli.evaluate import equivariance
from loev_cli.evaluate.equivariance import Change, Changed, Render, Rendered, Waveform
from loev_cli.evaluate.job import Event, Skipped, Stage, track_events
from loev_cli.evaluate.manifest import Column, Fold, Manifest
from loev_cli.evaluate.probes import Reading, read_label
from loev_cli.evaluate.vectors import Vectors, read_embeddings, with_concatenation
from loev_cli.experiments.cache import ArrayCache
from loev_cli.formats import is_made_by, read_meta
from loev_cli.storage.own import make_own_folder

EMBEDDINGS, CHANGES, EXCERPTS, PROBES = "embeddings", "changes", "excerpts", "probes"
_PROBES_VERSION = 2  # goes up whenever the same probe would predict something else
_INT16_MAX = 32767

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
    stretcher: equivariance.Stretcher,
    how: Encoding,
    *,
    seed: int,
    on_event: Tell,
) -> dict[str, Changed]:
    """The answers of every model to changes of some tracks; made once, kept in ``out``."""
    made = equivariance.changes(stretcher)
    sizes = {change.name: change.sizes for change in made}
    paths = [manifest.paths[i] for i in rows]
    opened = {name: bundles.load(bundle) for name, bundle in models.items()}
    cache = ArrayCache(out / CHANGES)
    keys = {
        name: (bundle.sha256, paths, sizes, stretcher.name, seed) for name, bundle in opened.items()
    }
    found = {name: cache.find(*keys[name]) for name in models}
    missing = [name for name in models if found[name] is None]
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
    heard: dict[str, Changed] = {}
    if missing:
        answers = equivariance.embed_changes(
            [manifest.files[i] for i in rows],
            rows,
            manifest.groups[rows],
            embedders,
            made,
            stretcher.name,
            seed=seed,
            on_track=track_events("changes", len(rows), on_event),
            render=_cached_render(
                out / CHANGES / EXCERPTS, embedders[0], made, stretcher.name, seed
            ),
        )
        for name, answer in zip(missing, answers, strict=True):
            cache.keep(_arrays_of(answer), *keys[name])
            heard[name] = answer
    for name, arrays in found.items():
        if arrays is not None:
            heard[name] = _changed_of(arrays, made, stretcher.name)
    return {name: heard[name] for name in models}


def _arrays_of(heard: Changed) -> dict[str, NDArray[Any]]:
    return {
        "rows": heard.rows,
        "groups": heard.groups,
        **{f"plain/{name}": x for name, x in heard.plain.items()},
        **{f"{change}/{name}": x for change, of in heard.changed.items() for name, x in of.items()},
    }


def _changed_of(
    arrays: Mapping[str, NDArray[Any]], made: Sequence[Change], stretcher: str
) -> Changed:
    of: dict[str, dict[str, NDArray[Any]]] = {}
    for key, x in arrays.items():
        what, _, name = key.partition("/")
        of.setdefault(what, {})[name] = x
    return Changed(
        rows=arrays["rows"],
        groups=arrays["groups"],
        plain=of["plain"],
        changed={change.name: of[change.name] for change in made},
        sizes={change.name: change.sizes for change in made},
        units={change.name: change.unit for change in made},
        stretcher=stretcher,
    )


def _cached_render(
    folder: Path, model: Model, changes: Sequence[Change], stretcher: str, seed: int
) -> Render:
    """Excerpts as int16 with a scale each, 90 dB above what rounding adds.

    They are rounded also when just made, so that every model gets the same.
    """
    cache = ArrayCache(folder)
    names = ["plain", *(f"{c.name}/{i}" for c in changes for i in range(len(c.sizes)))]

    def render(file: Path, place: int) -> Rendered:
        status = file.stat()
        key = (
            [str(file.absolute()), status.st_size, status.st_mtime_ns, place, seed],
            [model.sample_rate_hz, model.window_n_samples, stretcher],
            {change.name: change.sizes for change in changes},
        )
        arrays = cache.find(*key)
        if arrays is None:
            made = equivariance.render_excerpt(file, model, changes, (seed, place))
            waveforms = [made.plain, *(x for of in made.changed.values() for x in of)]
            scales = [max(float(np.abs(x).max(initial=0.0)), 1e-9) / _INT16_MAX for x in waveforms]
            arrays = {"scales": np.array(scales)}
            for name, x, scale in zip(names, waveforms, scales, strict=True):
                arrays[name] = np.round(x / scale).astype(np.int16)
            cache.keep(arrays, *key, compress=True)
        scale_of = dict(zip(names, arrays["scales"].astype(np.float32), strict=True))

        def waveform(name: str) -> Waveform:
            return np.asarray(arrays[name] * scale_of[name], np.float32)

        return Rendered(
            waveform("plain"),
            {
                change.name: [waveform(f"{change.name}/{i}") for i in range(len(change.sizes))]
                for change in changes
            },
        )

    return render


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


def read_or_keep(
    folder: Path,
    x: NDArray[np.float32],
    column: Column,
    folds: Sequence[Fold],
    probe: str,
    seed: int,
) -> Reading:
    """As :func:`loev_cli.evaluate.probes.read_label`, fitted only if it is not in ``folder``.

    Raises:
        OutputError: it cannot be kept.
    """
    cache = ArrayCache(folder)
    said = [__version__, _PROBES_VERSION, column.kind, column.classes, probe, seed]
    rows = [rows for fold in folds for rows in (fold.train, fold.val, fold.test)]
    key = (said, x, column.values, column.known, *rows)
    names = [field.name for field in dataclasses.fields(Reading)]
    found = cache.find(*key)
    if found is None:
        reading = read_label(x, column, folds, probe, seed=seed)
        cache.keep({name: np.asarray(getattr(reading, name)) for name in names}, *key)
        return reading
    return dataclasses.replace(
        Reading(**{name: found[name] for name in names}),  # type: ignore[arg-type]
        is_judged_by_fold=bool(found["is_judged_by_fold"]),
        strength=tuple(found["strength"].tolist()),
        reached=tuple(found["reached"].tolist()),
    )
