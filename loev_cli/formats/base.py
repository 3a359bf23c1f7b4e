"""What the formats share: the row going in, the file coming out, the writer between."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from loev_cli.annotations import COLUMNS, Annotator
from loev_cli.errors import OutputError, UsageError, needs_extra
from loev_cli.formats.meta import TAG_PREFIX, Meta, annotation_columns, keeps_windows

# Column names that a subspace must not take.
RESERVED = frozenset({"path", "duration_s", "silent", "meta", "track", "start_s", "file"})


@dataclass(frozen=True)
class Row:
    """One embedded track.

    Attributes:
        path: its row name.
        duration_s: decoded length.
        silent: whether it is never above -60 dBFS.
        vectors: subspace -> (D,) float32, or (M, D) where windows are kept.
        start_s: (M,) float32, where each kept window starts; None without windows.
        tags: name -> what the file says; those that the ``meta`` names are kept.
        annotations: column -> what the model says, text or a number; NaN and empty text for a
            track of which it says nothing.
        warnings: what the decoder skipped or corrected; told when the row is made, not written.
    """

    path: str
    duration_s: float
    silent: bool
    vectors: dict[str, NDArray[np.float32]]
    start_s: NDArray[np.float32] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, float | str] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    def annotated(self, annotator: Annotator) -> Row:
        """The same row with what the readouts of its model say of its vectors."""
        return replace(self, annotations=annotator.answer(self.vectors, silent=self.silent))


@dataclass(frozen=True)
class EmbeddingFile:
    """An embedding file in memory: N tracks and, where windows are kept, their M windows.

    Attributes:
        paths: N row names, sorted.
        duration_s: (N,) float32.
        silent: (N,) bool.
        vectors: subspace -> (N, D) float32, or (M, D) where windows are kept.
        meta: how it was made.
        track: (M,) int64, indexes ``paths``; None without windows.
        start_s: (M,) float32; None without windows.
        tags: name -> N strings, empty where a track's file does not say.
        annotations: column -> (N,) float32 or str; NaN and empty where the model says nothing.
    """

    paths: list[str]
    duration_s: NDArray[np.float32]
    silent: NDArray[np.bool_]
    vectors: dict[str, NDArray[np.float32]]
    meta: Meta
    track: NDArray[np.int64] | None = None
    start_s: NDArray[np.float32] | None = None
    tags: dict[str, list[str]] = field(default_factory=dict)
    annotations: dict[str, NDArray[Any]] = field(default_factory=dict)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with the columns of the same file as Parquet: a row per track, or
        per window where windows are kept; a subspace's cells are arrays (D,).

        Raises:
            MissingExtraError: pandas is not installed.
        """
        with needs_extra("to_pandas()", "pandas"):
            import pandas
        of_tracks = {
            "path": self.paths,
            "duration_s": self.duration_s,
            "silent": self.silent,
            **{f"{TAG_PREFIX}{tag}": values for tag, values in self.tags.items()},
            **self.annotations,
        }
        frame = pandas.DataFrame(of_tracks)
        if self.track is not None:
            frame = frame.iloc[self.track].reset_index(drop=True)
            frame["track"], frame["start_s"] = self.track, self.start_s
        for name, x in self.vectors.items():
            frame[name] = list(x)
        return frame


def as_column(name: str, values: Sequence[float | str | None]) -> NDArray[Any]:
    """An annotation's values, None where there is none -> (N,) float32 or str."""
    missing = COLUMNS[name]
    filled = [missing if value is None else value for value in values]
    return np.array(filled, dtype=np.str_ if isinstance(missing, str) else np.float32)


class Columns(Protocol):
    """The columns of an embedding file, read one at a time.

    Attributes:
        meta: how the file was made.
        names: what :meth:`load` can give, in the file's order.
    """

    meta: Meta
    names: tuple[str, ...]

    def load(self, name: str) -> NDArray[Any]:
        """A column: (N,) of what is said of tracks, (N, D) of subspaces. Where windows are kept,
        subspaces, ``track`` and ``start_s`` are per window: (M, D) and (M,).

        Texts are ``str`` or ``object`` arrays.

        Raises:
            UsageError: the file is damaged.
        """
        ...


class Target(Protocol):
    """Where bytes go: a file that appears whole on commit, or a stream."""

    stream: BinaryIO
    name: str

    def commit(self) -> None: ...

    def abort(self) -> None: ...


class RowWriter(ABC):
    """Takes rows in order; leaving the context without :meth:`commit` leaves no output behind.

    Raises (all methods):
        OutputError: no space, or another error of the system while writing.
        BrokenPipeError: the reader of standard output has gone.
    """

    def __init__(self, target: Target, meta: Meta) -> None:
        reserved = RESERVED.union(annotation_columns(meta))
        for name in meta["subspaces"]:
            if name in reserved or name.startswith(TAG_PREFIX):
                target.abort()
                raise UsageError(f"a subspace cannot be called '{name}' in an embedding file")
        self.meta = meta
        self.keeps_windows = keeps_windows(meta)
        self._target = target
        self._open = True

    def add(self, row: Row) -> None:
        """Append one track."""
        with _writing(self._target):
            self._add(row)

    def commit(self) -> None:
        """Finish the file and put it in its place."""
        with _writing(self._target):
            self._finish()
            self._target.commit()
        self._open = False

    @abstractmethod
    def _add(self, row: Row) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...

    def _discard(self) -> None:  # noqa: B027  (some formats hold nothing open)
        """Let go of what the format holds open on the target."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._open:
            self._open = False
            self._discard()
            self._target.abort()


@contextlib.contextmanager
def _writing(target: Target) -> Iterator[None]:
    """Turns the system's errors into :class:`OutputError`, save a broken pipe."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {target.name}: {error.strerror or error}") from error
