"""Embedding files, written and read: ``.npz``, ``.parquet``, ``.lance``, ``.jsonl``, and JSON lines
on stdout.

    with open_writer(out, meta) as writer:      # a temporary file beside `out`
        writer.add(row)                         # rows in sorted path order
        writer.commit()                         # `out` appears, whole; without it nothing does

    read(path) -> EmbeddingFile                 # any format, by its extension
    rows(path) -> Iterator[Row]                 # the same in sorted order, a few at a time
    open_columns(path) -> Columns               # the same a column at a time

Every format is one file that defines ``Writer``, ``read``, ``read_meta``, ``rows`` and
``Columns``; adding one touches that file and ``FORMATS``. Neither writing nor ``rows`` needs
memory for the whole file.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from loev_cli.errors import UsageError
from loev_cli.formats.base import Columns, EmbeddingFile, Row, RowWriter, as_column
from loev_cli.formats.meta import (
    AGREEING_KEYS,
    ANNOTATIONS,
    AUDIO_ROOT,
    ONNX_SHA256,
    SPACE,
    Meta,
    annotation_columns,
    annotator_for,
    check_agree,
    difference,
    fingerprint,
    is_made_by,
    keeps_windows,
    make_meta,
    not_made_by,
    tag_columns,
    without_annotations,
)
from loev_cli.storage.atomic import AtomicFile, AtomicFolder, StreamTarget, check_target
from loev_cli.storage.remote import is_url

__all__ = [
    "AGREEING_KEYS",
    "ANNOTATIONS",
    "AUDIO_ROOT",
    "FOLDERS",
    "FORMATS",
    "ONNX_SHA256",
    "SPACE",
    "STDOUT",
    "AtomicFile",
    "Columns",
    "EmbeddingFile",
    "Meta",
    "Row",
    "RowWriter",
    "annotation_columns",
    "annotator_for",
    "as_column",
    "check_agree",
    "check_output",
    "check_replaceable",
    "check_target",
    "difference",
    "fingerprint",
    "is_embedding_file",
    "is_made_by",
    "keeps_windows",
    "make_meta",
    "not_made_by",
    "open_columns",
    "open_writer",
    "read",
    "read_meta",
    "rows",
    "tag_columns",
    "without_annotations",
]

# Extension -> module that writes and reads it.
FORMATS = {
    ".npz": "loev_cli.formats.npz",
    ".parquet": "loev_cli.formats.parquet",
    ".lance": "loev_cli.formats.lance",
    ".jsonl": "loev_cli.formats.jsonl",
}
# Extensions of formats that are folders.
FOLDERS = frozenset({".lance"})
STDOUT = "-"

AnyPath = str | os.PathLike[str]


class _FormatModule(Protocol):
    Writer: Callable[[Any, Meta], RowWriter]  # a Target, for a folder an AtomicFolder

    def read(self, path: Path) -> EmbeddingFile: ...

    def read_meta(self, path: Path) -> Meta: ...

    def rows(self, path: Path) -> Iterator[Row]: ...

    Columns: Callable[[Path], Columns]


def check_output(out: str) -> None:
    """Everything about an output that can be known before the work.

    Raises:
        UsageError: unsupported extension, what is at ``out`` is not of its kind, or its
            folder is missing.
        OutputError: nothing can be written there.
    """
    if out == STDOUT:
        return
    if out.endswith(("/", os.sep)):
        raise UsageError(f"{out} is a folder, not a file")
    path = Path(out)
    if is_url(out):
        _format_of(path)
        if _is_folder_format(path):
            raise UsageError(f"{out}: {path.suffix} is a folder", hint="write it here, or a file")
        return
    _format_of(path)
    check_target(path, is_folder=_is_folder_format(path))
    if path.is_dir() and any(path.iterdir()) and not (path / "_versions").is_dir():
        raise UsageError(f"{out} exists and is not a Lance dataset")


def check_replaceable(out: str, meta: Meta, *, adds_annotations: bool = False) -> None:
    """Whether a run with ``meta`` may add to what lies at ``out``.

    It may if nothing does, or an embedding file made by the same model with the same settings.

    Args:
        adds_annotations: the file may also be one without annotations.

    Raises:
        UsageError: it holds something else; the hint is to overwrite.
    """
    path = Path(out)
    if out == STDOUT or not path.exists():
        return
    try:
        existing = read_meta(path)
        if adds_annotations and ANNOTATIONS not in existing:
            meta = without_annotations(meta)
        keys = fingerprint(meta) | fingerprint(existing)
        check_agree({out: existing, "this run": meta}, keys=keys)
    except UsageError as error:
        raise UsageError(
            f"will not replace {out}: {error.message}", hint="--overwrite discards it"
        ) from error


def open_writer(
    out: str,
    meta: Meta,
    *,
    stdout: BinaryIO | None = None,
    before_replace: Callable[[Path], None] = lambda finished: None,
) -> RowWriter:
    """A writer for the format that the extension of ``out`` names, or JSON lines to ``stdout``.

    ``before_replace`` is called on commit with the finished file, before it appears at ``out``.

    Raises:
        UsageError: the extension is not a supported format.
        OutputError: the temporary file beside ``out`` cannot be made.
    """
    if out == STDOUT:
        if stdout is None:
            raise UsageError("standard output is not available")
        return _module(FORMATS[".jsonl"]).Writer(StreamTarget(stdout), meta)
    path = Path(out)
    module = _format_of(path)
    make_target = AtomicFolder if _is_folder_format(path) else AtomicFile
    return module.Writer(make_target(path, before_replace=before_replace), meta)


def read(path: AnyPath) -> EmbeddingFile:
    """Read an embedding file whole.

    Raises:
        UsageError: no such file, not an embedding file, damaged, or of a newer format.
    """
    return _existing(path).read(Path(path))


def read_meta(path: AnyPath) -> Meta:
    """Only the ``meta`` of an embedding file. Raises as :func:`read`."""
    return _existing(path).read_meta(Path(path))


def rows(path: AnyPath) -> Iterator[Row]:
    """The rows of an embedding file in sorted path order, a few at a time.

    Raises (also while iterating):
        UsageError: as :func:`read`.
    """
    return _existing(path).rows(Path(path))


def open_columns(path: AnyPath) -> Columns:
    """The columns of an embedding file, to be read one at a time. Raises as :func:`read`."""
    return _existing(path).Columns(Path(path))


def is_embedding_file(path: AnyPath) -> bool:
    """Whether something with the extension of a format is there."""
    path = Path(path)
    return path.suffix.lower() in FORMATS and _is_there(path)


def _is_there(path: Path) -> bool:
    return path.is_dir() if _is_folder_format(path) else path.is_file()


def _existing(path: AnyPath) -> _FormatModule:
    path = Path(path)
    if not _is_there(path):
        raise UsageError(f"no such embedding file: {path}")
    return _format_of(path)


def _is_folder_format(path: Path) -> bool:
    return path.suffix.lower() in FOLDERS


def _format_of(path: Path) -> _FormatModule:
    name = FORMATS.get(path.suffix.lower())
    if name is None:
        raise UsageError(
            f"{path}: '{path.suffix}' is not a supported embedding format"
            if path.suffix
            else f"{path}: has no extension, cannot infer the format",
            hint=f"{', '.join(FORMATS)}, or - for JSON lines on stdout",
        )
    return _module(name)


def _module(name: str) -> _FormatModule:
    return cast(_FormatModule, importlib.import_module(name))
