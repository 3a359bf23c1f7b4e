"""The filter language of ``--where``: conditions on a track's columns.

    duration_s > 60 and bpm between 120 and 128
    key in ("C major", "A minor") and not silent
    tag_artist contains "bach" or path like "live/%"

    expression = term {"or" term}
    term       = factor {"and" factor}
    factor     = "not" factor | "(" expression ")" | condition
    condition  = column
               | column ("=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=") value
               | column ["not"] "between" value "and" value
               | column ["not"] "in" "(" value {"," value} ")"
               | column ["not"] ("like" | "contains") text
    column     = a word, or `anything` in backquotes
    value      = a number | text | true | false
    text       = "..." or '...'; the quote itself is written twice

Keywords are case-insensitive. A column alone is a condition if it is true or false.
``like`` compares the whole text, ``%`` stands for anything and ``_`` for one character;
``contains`` looks for a part; both ignore case. Texts that ``<`` and ``>`` compare are in the order
of their characters. In columns called ``key``, or ``something_key``, ``=``, ``!=`` and ``in``
compare keys, however they are spelled: "C# minor" is "Dbm" and "12A". Where there is a column
``key``, ``camelot`` is its Camelot code. A missing value (NaN) matches no condition, not even
``!=``; ``not`` inverts the result of its condition.

Nothing is ever evaluated as code: text becomes a :class:`Condition`, which is a mask over NumPy
arrays, and SQL for a database.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from loev_cli.errors import UsageError, known_names
from loev_cli.music_keys import KEYS, camelot, parse_key, spellings

Mask = NDArray[np.bool_]
Columns = Mapping[str, NDArray[Any]]

_MAX_N_CHARS = 20_000
_MAX_DEPTH = 100
_KEY_COLUMN = re.compile(r"(?:^|_)key$", re.IGNORECASE)
_CAMELOT = "camelot"  # derived from the column "key"
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SPELLED = {"==": "=", "<>": "!="}
_KEYWORDS = {"and", "or", "not", "between", "in", "like", "contains", "true", "false"}
_TOKEN = re.compile(
    r"""(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<text>"(?:[^"]|"")*"|'(?:[^']|'')*')
      | (?P<name>`[^`]+`)
      | (?P<word>[^\W\d]\w*)
      | (?P<sign>==|!=|<>|<=|>=|[=<>(),])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Condition:
    """A filter, or a part of one.

    Attributes:
        mask: gives a new (N,): which of the N tracks match.
        sql: the same for a database (DataFusion's SQL, as Lance takes it).
    """

    mask: Callable[[], Mask]
    sql: str


def parse_where(text: str, columns: Columns) -> Condition:
    """Read a filter.

    Args:
        columns: the available columns; the filter is checked against their types.

    Raises:
        UsageError: invalid syntax, an unknown column (names the nearest), or a comparison of a
            number with a text. The message has the position.
    """
    return _Parser(text, columns).parse()


class _Token(NamedTuple):
    kind: str  # number, text, name, word, keyword, sign, or end
    text: str
    place: int


class _Parser:
    """Recursive descent, one method per rule of the grammar above."""

    def __init__(self, text: str, columns: Columns) -> None:
        self._text = text
        self._columns = columns
        self._depth = 0
        if len(text) > _MAX_N_CHARS:
            raise UsageError(f"a filter of {len(text)} characters is too long")
        self._tokens = self._tokenize()
        self._next = 0

    def parse(self) -> Condition:
        if self._token.kind == "end":
            self._fail("is empty", hint="for example --where 'duration_s > 60'")
        condition = self._expression()
        if self._token.kind != "end":
            self._fail_here("'and', 'or' or the end")
        return condition

    def _expression(self) -> Condition:
        parts = [self._term()]
        while self._take("or"):
            parts.append(self._term())
        return _joined("OR", parts)

    def _term(self) -> Condition:
        parts = [self._factor()]
        while self._take("and"):
            parts.append(self._factor())
        return _joined("AND", parts)

    def _factor(self) -> Condition:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._fail(f"is nested more than {_MAX_DEPTH} deep")
        if self._take("not"):
            condition = _not(self._factor())
        elif self._take("("):
            condition = self._expression()
            if not self._take(")"):
                self._fail_here("')'")
        else:
            condition = self._condition()
        self._depth -= 1
        return condition

    def _condition(self) -> Condition:
        column = self._column()
        if column not in self._columns:
            return self._camelot()
        token = self._token
        if token.kind == "sign" and _SPELLED.get(token.text, token.text) in _COMPARE:
            self._next += 1
            sign = _SPELLED.get(token.text, token.text)
            return self._compare(column, sign)
        negated = self._take("not")
        condition = self._named_condition(column)
        if condition is None:
            if negated or self._kind_of(column) != "truth":
                self._fail_here(f"a comparison of '{column}', such as = or >,")
            return _is_true(column, self._columns[column])
        return _not(condition) if negated else condition

    def _camelot(self) -> Condition:
        """A condition on the 24 Camelot codes -> one on ``key``."""
        columns, place = self._columns, self._tokens[self._next - 1].place
        self._columns = {_CAMELOT: np.array([camelot(key) for key in range(len(KEYS))])}
        self._next -= 1
        keys = np.flatnonzero(self._condition().mask())
        self._columns = columns
        if not len(keys):
            self._fail("names no Camelot code", place=place, hint="1A to 12A, 1B to 12B")
        texts = [text for key in keys.tolist() for text in spellings(key)]
        return _one_of("key", columns["key"], texts)

    def _named_condition(self, column: str) -> Condition | None:
        """A condition that begins with a keyword, or None."""
        if self._take("between"):
            low = self._compare(column, ">=")
            if not self._take("and"):
                self._fail_here("'and'")
            return _joined("AND", [low, self._compare(column, "<=")])
        if self._take("in"):
            if not self._take("("):
                self._fail_here("'('")
            parts = [self._compare(column, "=")]
            while self._take(","):
                parts.append(self._compare(column, "="))
            if not self._take(")"):
                self._fail_here("',' or ')'")
            return _joined("OR", parts)
        for keyword, condition in (("like", _like), ("contains", _contains)):
            if self._take(keyword):
                if self._kind_of(column) != "text":
                    self._fail(
                        f"asks for '{column} {keyword}', but {column} is not text",
                        place=self._tokens[self._next - 1].place,
                    )
                if self._token.kind != "text":
                    self._fail_here("a text in quotes")
                text = _unquoted(self._token.text)
                self._next += 1
                return condition(column, self._columns[column], text)
        return None

    def _compare(self, column: str, sign: str) -> Condition:
        token = self._token
        kind = self._kind_of(column)
        value: float | str | bool
        if token.kind == "number":
            found, value = "number", float(token.text)
        elif token.kind == "text":
            found, value = "text", _unquoted(token.text)
        elif token.kind == "keyword" and token.text.lower() in ("true", "false"):
            found, value = "truth", token.text.lower() == "true"
        elif token.kind == "word":
            self._fail_here("a number, a text in quotes, true or false", hint="put text in quotes")
        else:
            self._fail_here("a number, a text in quotes, true or false")
        if found != kind:
            wanted = {"number": "a number", "text": "a text in quotes", "truth": "true or false"}
            self._fail(
                f"compares {column} with {token.text}, but {column} is {wanted[kind]}",
                place=token.place,
            )
        if value == float("inf") or value == -float("inf"):
            self._fail(
                f"compares {column} with {token.text}, which is too large", place=token.place
            )
        if found == "truth" and sign not in ("=", "!="):
            self._fail(
                f"compares {column} by {sign}, which allows only = and !=", place=token.place
            )
        self._next += 1
        if isinstance(value, str) and sign in ("=", "!=") and _KEY_COLUMN.search(column):
            key = parse_key(value)
            if key is not None:
                same = _one_of(column, self._columns[column], (value, *spellings(key)))
                return same if sign == "=" else _not(same)
        return _compare(column, self._columns[column], sign, value)

    def _column(self) -> str:
        token = self._token
        if token.kind not in ("word", "name"):
            self._fail_here("a column")
        name = token.text.strip("`")
        if name not in self._columns and not (name == _CAMELOT and "key" in self._columns):
            self._fail(
                f"names no column: '{name}'",
                place=token.place,
                hint=known_names(name, self._columns, "there are"),
            )
        self._next += 1
        return name

    def _kind_of(self, column: str) -> str:
        return {"U": "text", "O": "text", "b": "truth"}.get(
            self._columns[column].dtype.kind, "number"
        )

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, text: str) -> bool:
        """Go past a keyword or a sign, if it is this one."""
        token = self._token
        taken = token.kind in ("keyword", "sign") and token.text.lower() == text
        self._next += taken
        return taken

    def _tokenize(self) -> list[_Token]:
        tokens, place = [], 0
        while place < len(self._text):
            if self._text[place].isspace():
                place += 1
                continue
            found = _TOKEN.match(self._text, place)
            if found is None:
                quote = self._text[place] in "\"'`"
                self._fail(
                    "has a quote that does not end" if quote else "cannot be read", place=place
                )
            kind = str(found.lastgroup)
            if kind == "word" and found.group().lower() in _KEYWORDS:
                kind = "keyword"
            tokens.append(_Token(kind, found.group(), place))
            place = found.end()
        return [*tokens, _Token("end", "", place)]

    def _fail_here(self, expected: str, *, hint: str | None = None) -> NoReturn:
        token = self._token
        found = f"'{token.text}'" if token.kind != "end" else "its end"
        self._fail(f"has {found} where {expected} should be", place=token.place, hint=hint)

    def _fail(self, what: str, *, place: int | None = None, hint: str | None = None) -> NoReturn:
        at = "" if place is None else f", at character {place + 1}"
        shown = self._text if len(self._text) <= 200 else f"{self._text[:200]}..."
        if place is not None and len(self._text) <= 200:
            shown = f"{shown[:place]}-->{shown[place:]}"
        raise UsageError(f"the filter {what}{at}: {shown}", hint=hint)


def _compare(name: str, values: NDArray[Any], sign: str, value: float | str | bool) -> Condition:
    """``name sign value``."""

    def mask() -> Mask:
        known = ~np.isnan(values) if values.dtype.kind == "f" else np.True_
        compared = _texts(values) if isinstance(value, str) else values
        return np.asarray(_COMPARE[sign](compared, value) & known, np.bool_)

    if isinstance(value, str):
        return Condition(mask, f"(true AND {_sql_text_column(name)} {sign} {_sql_text(value)})")
    column = _sql_name(name)
    number = str(value).lower() if isinstance(value, bool) else repr(float(value))
    if values.dtype == np.float32:  # NumPy compares in float32
        number = f"CAST({number} AS FLOAT)"
    known = f"{column} IS NOT NULL"
    if values.dtype.kind == "f":
        known += f" AND NOT isnan({column})"
    return Condition(mask, f"({known} AND {column} {sign} {number})")


def _is_true(name: str, values: NDArray[Any]) -> Condition:
    """``name`` alone."""
    return Condition(lambda: values.astype(np.bool_), f"coalesce({_sql_name(name)}, false)")


def _like(name: str, values: NDArray[Any], pattern: str) -> Condition:
    """``name like pattern``, by its parts between the ``%``.

    In the regular expression each part matches at its first occurrence, without backtracking:
    equivalent to ``.*``, but never slow.
    """
    first, *rest = (
        "".join("." if c == "_" else re.escape(c) for c in part)
        for part in pattern.lower().split("%")
    )
    middle = "".join(f"(?>.*?{part})" for part in rest[:-1])
    # The last part ends the text: only so many characters may come after the others.
    last = f".*{rest[-1]}" if rest else ""
    fits = re.compile(first + middle + last, re.DOTALL).fullmatch
    quoted = _sql_text(pattern.lower().replace("\\", "\\\\"))
    return _text_test(
        values,
        lambda text: fits(text.lower()) is not None,
        f"(lower({_sql_text_column(name)}) LIKE {quoted})",
    )


def _contains(name: str, values: NDArray[Any], part: str) -> Condition:
    """``name contains part``."""
    part = part.lower()
    return _text_test(
        values,
        lambda text: part in text.lower(),
        f"(strpos(lower({_sql_text_column(name)}), {_sql_text(part)}) > 0)",
    )


def _one_of(name: str, values: NDArray[Any], texts: Sequence[str]) -> Condition:
    """``name`` is one of several texts."""
    quoted = ", ".join(map(_sql_text, texts))
    return _text_test(
        values, frozenset(texts).__contains__, f"({_sql_text_column(name)} IN ({quoted}))"
    )


def _joined(word: str, parts: Sequence[Condition]) -> Condition:
    """All parts hold (AND), or one of them (OR)."""
    if len(parts) == 1:
        return parts[0]
    join = np.logical_and if word == "AND" else np.logical_or
    return Condition(
        lambda: np.asarray(join.reduce([part.mask() for part in parts])),
        f"({f' {word} '.join(part.sql for part in parts)})",
    )


def _not(part: Condition) -> Condition:
    return Condition(lambda: ~part.mask(), f"(NOT {part.sql})")


def _text_test(values: NDArray[Any], test: Callable[[str], bool], sql: str) -> Condition:
    return Condition(
        lambda: np.fromiter(map(test, _texts(values).tolist()), np.bool_, count=len(values)), sql
    )


def _texts(values: NDArray[Any]) -> NDArray[Any]:
    """A text column; missing values become empty."""
    if values.dtype.kind == "O":
        return np.array([text if isinstance(text, str) else "" for text in values], object)
    return values


def _sql_name(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _sql_text_column(name: str) -> str:
    return f"coalesce({_sql_name(name)}, '')"


def _sql_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _unquoted(text: str) -> str:
    return text[1:-1].replace(text[0] * 2, text[0])
