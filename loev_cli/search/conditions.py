"""Syntax tree of a filter, which evaluates to a mask over NumPy arrays, or to SQL.

The language is documented in :mod:`loev_cli.search.where`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Value = str | float | bool
Mask = NDArray[np.bool_]
Columns = Mapping[str, NDArray[Any]]

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Condition(Protocol):
    """A filter, or a part of one."""

    def mask(self, columns: Columns, n: int) -> Mask:
        """(N,): which of the ``n`` tracks match."""
        ...

    def sql(self, columns: Columns) -> str:
        """The same for a database with these columns (DataFusion's SQL, as Lance takes it)."""
        ...


@dataclass(frozen=True)
class Compare:
    """``column sign value``."""

    column: str
    sign: str
    value: Value

    def mask(self, columns: Columns, n: int) -> Mask:
        values = columns[self.column]
        if isinstance(self.value, str):
            values = _texts(values)
        return np.asarray(COMPARE[self.sign](values, self.value) & _known(values), np.bool_)

    def sql(self, columns: Columns) -> str:
        column = _sql_column(self.column, columns)
        value = _sql_value(self.value)
        if columns[self.column].dtype == np.float32:  # NumPy compares in float32
            value = f"CAST({value} AS FLOAT)"
        test = f"{column} {self.sign} {value}"
        return f"({_sql_known(self.column, columns)} AND {test})"


@dataclass(frozen=True)
class IsTrue:
    """``column`` alone."""

    column: str

    def mask(self, columns: Columns, n: int) -> Mask:
        return np.asarray(columns[self.column], np.bool_)

    def sql(self, columns: Columns) -> str:
        return f"coalesce({_sql_name(self.column)}, false)"


@dataclass(frozen=True)
class Like:
    """``column like pattern``, by its parts between the ``%``."""

    column: str
    pattern: str

    def mask(self, columns: Columns, n: int) -> Mask:
        fits = _like(self.pattern).fullmatch
        return np.fromiter(
            (fits(text.lower()) is not None for text in _texts(columns[self.column])),
            np.bool_,
            count=n,
        )

    def sql(self, columns: Columns) -> str:
        pattern = _sql_value(self.pattern.lower().replace("\\", "\\\\"))
        return f"(lower({_sql_column(self.column, columns)}) LIKE {pattern})"


@dataclass(frozen=True)
class Contains:
    """``column contains part``."""

    column: str
    part: str

    def mask(self, columns: Columns, n: int) -> Mask:
        part = self.part.lower()
        return np.fromiter(
            (part in text.lower() for text in _texts(columns[self.column])), np.bool_, count=n
        )

    def sql(self, columns: Columns) -> str:
        column = _sql_column(self.column, columns)
        return f"(strpos(lower({column}), {_sql_value(self.part.lower())}) > 0)"


@dataclass(frozen=True)
class OneOf:
    """``column`` is one of several texts."""

    column: str
    texts: tuple[str, ...]

    def mask(self, columns: Columns, n: int) -> Mask:
        wanted = frozenset(self.texts)
        return np.fromiter(
            (text in wanted for text in _texts(columns[self.column]).tolist()), np.bool_, count=n
        )

    def sql(self, columns: Columns) -> str:
        texts = ", ".join(map(_sql_value, self.texts))
        return f"({_sql_column(self.column, columns)} IN ({texts}))"


@dataclass(frozen=True)
class AllOf:
    """Every part holds."""

    parts: tuple[Condition, ...]

    def mask(self, columns: Columns, n: int) -> Mask:
        return np.asarray(np.logical_and.reduce([p.mask(columns, n) for p in self.parts]))

    def sql(self, columns: Columns) -> str:
        return f"({' AND '.join(part.sql(columns) for part in self.parts)})"


@dataclass(frozen=True)
class AnyOf:
    """Some part holds."""

    parts: tuple[Condition, ...]

    def mask(self, columns: Columns, n: int) -> Mask:
        return np.asarray(np.logical_or.reduce([p.mask(columns, n) for p in self.parts]))

    def sql(self, columns: Columns) -> str:
        return f"({' OR '.join(part.sql(columns) for part in self.parts)})"


@dataclass(frozen=True)
class Not:
    """The part does not hold."""

    part: Condition

    def mask(self, columns: Columns, n: int) -> Mask:
        return ~self.part.mask(columns, n)

    def sql(self, columns: Columns) -> str:
        return f"(NOT {self.part.sql(columns)})"


def _texts(values: NDArray[Any]) -> NDArray[Any]:
    """A text column; missing values become empty."""
    if values.dtype.kind == "O":
        return np.array([text if isinstance(text, str) else "" for text in values], object)
    return values


def _known(values: NDArray[Any]) -> Mask | np.bool_:
    return ~np.isnan(values) if values.dtype.kind == "f" else np.True_


def _like(pattern: str) -> re.Pattern[str]:
    """The regular expression for ``like``. Each part matches at its first occurrence, without
    backtracking: equivalent to ``.*``, but never slow."""
    parts = [
        "".join("." if c == "_" else re.escape(c) for c in part)
        for part in pattern.lower().split("%")
    ]
    first, *rest = parts
    if not rest:
        return re.compile(first, re.DOTALL)
    middle = "".join(f"(?>.*?{part})" for part in rest[:-1])
    # The last part ends the text: only so many characters may come after the others.
    return re.compile(f"{first}{middle}.*{rest[-1]}", re.DOTALL)


def _sql_name(column: str) -> str:
    return "`" + column.replace("`", "``") + "`"


def _sql_column(column: str, columns: Columns) -> str:
    name = _sql_name(column)
    return f"coalesce({name}, '')" if columns[column].dtype.kind in "UO" else name


def _sql_known(column: str, columns: Columns) -> str:
    name, kind = _sql_name(column), columns[column].dtype.kind
    if kind in "UO":
        return "true"
    return f"{name} IS NOT NULL AND NOT isnan({name})" if kind == "f" else f"{name} IS NOT NULL"


def _sql_value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(float(value))
