"""``meta``: the JSON in every embedding file that says how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loev_cli import __version__
from loev_cli.annotations import COLUMNS, Annotator, BpmRange, open_annotator
from loev_cli.bundle import MAX_DIM, Bundle
from loev_cli.errors import UsageError
from loev_cli.storage.bounded import in_one_line, parse_json

FORMAT_VERSION = 1
Meta = dict[str, Any]

TAG_PREFIX = "tag_"
ANNOTATIONS = "annotations"
AUDIO_ROOT = "audio_root"
# Of vectors for other databases, see loev_cli.search.vectors.
SPACE = "space"
POOLED = "mean"
PER_WINDOW = "none"
# SHA-256 of the graph, where ONNX made the rows. Files of before it was kept do not have it.
ONNX_SHA256 = "onnx_sha256"

# Files that differ in one of these hold vectors that cannot be compared.
AGREEING_KEYS = ("model_sha256", "window_s", "hop_s", "pooling")
# Rows that differ in one of these, or in the above, do not belong in one output.
_SETTINGS_KEYS = (*AGREEING_KEYS, "subspaces", "precision", "shard", "tags")
_REQUIRED_KEYS = ("format_version", "model", "subspaces", *AGREEING_KEYS)
_KINDS = {"model": str, "subspaces": dict, "model_sha256": str, "pooling": str}
_MAX_N_CHARACTERS = 1 << 20


def make_meta(
    bundle: Bundle,
    *,
    subspaces: Mapping[str, int],
    hop_n_samples: int,
    per_window: bool,
    backend: str,
    device: str,
    precision: str,
    shard: str | None = None,
    tags: Sequence[str] = (),
    annotator: Annotator | None = None,
    audio_root: str | None = None,
) -> Meta:
    """The ``meta`` of a run that starts now.

    Args:
        shard: as ``3/8``, if it makes a part.
        tags: names of tags to keep, as columns ``tag_<name>``.
        annotator: whose answers are kept, as columns ``bpm``, ``key`` and so on.
        audio_root: folder that the rows' paths are relative to, as a row name.
    """
    meta: Meta = {
        "format_version": FORMAT_VERSION,
        "model": bundle.name,
        "model_sha256": bundle.sha256,
        "loev_version": __version__,
        "sample_rate_hz": bundle.sample_rate_hz,
        "window_s": bundle.window_s,
        "hop_s": hop_n_samples / bundle.sample_rate_hz,
        "pooling": PER_WINDOW if per_window else POOLED,
        "subspaces": dict(subspaces),
        "backend": backend,
        "device": device,
        "precision": precision,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if backend in ("auto", "onnx"):
        meta[ONNX_SHA256] = bundle.onnx_sha256
    if shard is not None:
        meta["shard"] = shard
    if tags:
        meta["tags"] = list(tags)
    if audio_root is not None:
        meta[AUDIO_ROOT] = audio_root
    if annotator is not None:
        meta[ANNOTATIONS] = {"columns": list(annotator.columns), "sha256": annotator.sha256}
        if annotator.bpm_range is not None:
            meta[ANNOTATIONS]["bpm_range"] = list(annotator.bpm_range)
    return meta


def fingerprint(meta: Meta) -> dict[str, Any]:
    """What decides a row's values and which rows there are; not where and when it was made.

    ``annotations`` is in it only where there are some: journals of before they were stay ours.
    ``onnx_sha256`` is not in it, since not all rows have one: see :func:`check_agree`.
    """
    settings = {key: meta.get(key) for key in _SETTINGS_KEYS}
    if ANNOTATIONS in meta:
        settings[ANNOTATIONS] = meta[ANNOTATIONS]
    return settings


def without_annotations(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A ``meta``, or its fingerprint, as it is where no annotations are kept."""
    return {key: value for key, value in settings.items() if key != ANNOTATIONS}


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The differences of two fingerprints, for messages."""

    def said(settings: Mapping[str, Any], key: str) -> Any:
        value = settings.get(key)
        return _annotations_in_short(value) if key == ANNOTATIONS else value

    return ", ".join(
        f"{key} {said(theirs, key)} and not {said(ours, key)}"
        for key in {**ours, **theirs}
        if theirs.get(key) != ours.get(key)
    )


def _annotations_in_short(annotations: dict[str, Any] | None) -> str:
    """What ``meta`` says of them, in short, for messages."""
    if annotations is None:
        return "none"
    columns = ", ".join(annotations["columns"])
    folded = annotations.get("bpm_range")
    within = f", {'-'.join(f'{bpm:g}' for bpm in folded)} BPM" if isinstance(folded, list) else ""
    return f"{columns} ({str(annotations['sha256'])[:12]}{within})"


def keeps_windows(meta: Meta) -> bool:
    """Whether the file has a vector per window instead of one per track."""
    return bool(meta["pooling"] == PER_WINDOW)


def tag_columns(meta: Meta) -> dict[str, str]:
    """Column -> tag: ``tag_artist`` -> ``artist`` for every tag that the file keeps."""
    return {TAG_PREFIX + name: name for name in meta.get("tags", ())}


def annotation_columns(meta: Meta) -> tuple[str, ...]:
    """Those of ``loev_cli.annotations.COLUMNS`` that the file has; older files have fewer."""
    return tuple(meta.get(ANNOTATIONS, {}).get("columns", ()))


def to_json(meta: Meta) -> str:
    return json.dumps(meta, ensure_ascii=False, separators=(",", ":"))


def from_json(text: str | bytes, *, name: str) -> Meta:
    """Parse and check the ``meta`` of the file called ``name``.

    Raises:
        UsageError: it is not loev's, lacks a key, or is of a newer format.
    """
    try:
        if len(text) > _MAX_N_CHARACTERS:
            raise ValueError("it is too long")
        meta = parse_json(text)
    except ValueError as error:
        raise not_ours(name) from error
    return checked(meta, name=name)


def checked(meta: Any, *, name: str) -> Meta:
    """``meta`` itself if it is one. Raises as :func:`from_json`."""
    if not isinstance(meta, dict) or not isinstance(meta.get("format_version"), int):
        raise not_ours(name)
    if meta["format_version"] > FORMAT_VERSION:
        raise UsageError(
            f"{name} has format {meta['format_version']}, this version of loev reads up to "
            f"{FORMAT_VERSION}",
            hint="pip install --upgrade loev-cli",
        )
    missing = [key for key in _REQUIRED_KEYS if key not in meta]
    wrong = [key for key, kind in _KINDS.items() if not isinstance(meta.get(key), kind)]
    if missing or wrong:
        raise UsageError(f"{name} is damaged: its meta has no {', '.join(missing or wrong)}")
    dims = meta["subspaces"].values()
    if not all(isinstance(dim, int) and 0 < dim <= MAX_DIM for dim in dims):
        raise UsageError(f"{name} is damaged: a subspace needs a dimension of 1 to {MAX_DIM}")
    tags = meta.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise UsageError(f"{name} is damaged: its meta has no list of tags")
    try:
        unknown = set(annotation_columns(meta)) - set(COLUMNS)
    except (AttributeError, TypeError):
        unknown = {ANNOTATIONS}
    if unknown:
        raise UsageError(f"{name} is damaged: its meta does not describe its annotations")
    return meta


def not_ours(name: str) -> UsageError:
    """The error for a file that is not an embedding file."""
    return UsageError(f"{name} is not a loev embedding file")


def damaged(path: Path, error: BaseException) -> UsageError:
    """The error for an embedding file that cannot be read to its end; one line, whatever the
    library says."""
    return UsageError(f"{path} is damaged: {in_one_line(error)}")


def check_agree(metas: Mapping[str, Meta], *, keys: Iterable[str] = AGREEING_KEYS) -> None:
    """Check that files (name -> meta) may be mixed: same model, window, hop and pooling.

    Those that say which ONNX graph made them must say the same. Rows of torch and of earlier
    versions of loev do not say it, and may be mixed with either.

    Raises:
        UsageError: naming the first two that differ, and how.
    """
    names = list(metas)
    pairs = [(names[0], name, key) for name in names[1:] for key in keys]
    named = [name for name in names if ONNX_SHA256 in metas[name]]
    pairs += [(named[0], name, ONNX_SHA256) for name in named[1:]]
    for first, other, key in pairs:
        if metas[first].get(key) != metas[other].get(key):
            label, theirs, ours = _readable(key, metas[first], metas[other])
            raise UsageError(f"{first} and {other} differ in {label}: {theirs} and {ours}")


def is_made_by(meta: Meta, bundle: Bundle) -> bool:
    """Whether the model in ``bundle`` made a file, as far as the file says."""
    graph = meta.get(ONNX_SHA256, bundle.onnx_sha256)
    return (meta["model_sha256"], graph) == (bundle.sha256, bundle.onnx_sha256)


def annotator_for(
    meta: Meta, name: str, bundle: Bundle, bpm_range: BpmRange | None = None
) -> Annotator:
    """A model's readouts, to read the vectors of the file called ``name``.

    Raises: as :func:`loev_cli.annotations.open_annotator`, and
        UsageError: the file was made by another model, or lacks a subspace that is read.
    """
    annotator = open_annotator(bundle, bpm_range)
    # Not the graph, which changes with the readouts in it: new ones may read old vectors.
    if meta["model_sha256"] != bundle.sha256:
        hint = "pass the model that made it with --model"
        raise not_made_by(bundle, meta, f"{name} was", hint=hint)
    for subspace in annotator.subspaces:
        if subspace not in meta["subspaces"]:
            raise UsageError(
                f"{name} has no subspace '{subspace}', which annotations are read from",
                hint="annotate the audio, or embed it with that subspace",
            )
    return annotator


def not_made_by(bundle: Bundle, meta: Meta, what: str, *, hint: str) -> UsageError:
    """The error for ``what``, with that ``meta``, which another model made."""
    return UsageError(
        f"{what} made by {meta['model']} ({str(meta['model_sha256'])[:12]}), not by {bundle.name} "
        f"({bundle.sha256[:12]}) in {bundle.path}",
        hint=hint,
    )


def _readable(key: str, first: Meta, other: Meta) -> tuple[str, Any, Any]:
    if key == ANNOTATIONS:
        said = [_annotations_in_short(meta.get(key)) for meta in (first, other)]
        return key, said[0], said[1]
    if key == ONNX_SHA256:
        return "model.onnx", str(first[key])[:12], str(other[key])[:12]
    if key != "model_sha256":
        return key, first.get(key), other.get(key)
    named = [f"{meta['model']} ({str(meta[key])[:12]})" for meta in (first, other)]
    return "the model", named[0], named[1]
