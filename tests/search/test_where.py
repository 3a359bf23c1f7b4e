"""The filter language: what it means, and that nothing odd gets through."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loev_cli.errors import UsageError
from loev_cli.search import parse_where

COLUMNS = {
    "path": np.array(["live/a.mp3", "live/b.mp3", "c_1.mp3", "50%.mp3"], object),
    "duration_s": np.array([30.0, 60.0, 90.0, np.nan], np.float32),
    "bpm": np.array([120, 124, 90, 60]),
    "silent": np.array([False, False, True, False]),
    "tag_artist": np.array(["J. S. Bach", "BACH", "", 'O\'Neil "x"']),
    "key": np.array(["Db major", "C#m", "", "tonic"], object),
    "odd name": np.array(["a", None, "c", "d"], object),
}


def rows(text: str) -> list[int]:
    mask = parse_where(text, COLUMNS).mask()
    assert mask.dtype == np.bool_
    assert mask.shape == (4,)
    return np.flatnonzero(mask).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("duration_s > 30", [1, 2]),
        ("duration_s>=30", [0, 1, 2]),
        ("duration_s < 6e1", [0]),
        ("duration_s != 30", [1, 2]),  # what is not known fulfils nothing
        ("not duration_s = 30", [1, 2, 3]),
        ("bpm == 120", [0]),
        ("bpm <> 120", [1, 2, 3]),
        ("bpm between 90 and 120", [0, 2]),
        ("bpm not between 90 and 120", [1, 3]),
        ("bpm in (60, 90.0)", [2, 3]),
        ("bpm not in (60)", [0, 1, 2]),
        ("bpm > -1 and bpm > +1.", [0, 1, 2, 3]),
        ("key = 'C# major'", [0]),
        ("key = 'd♭ maj'", [0]),
        ("key in ('Dbm', 'tonic')", [1, 3]),
        ("key != 'C# minor'", [0, 2, 3]),  # no text is a text
        ("key = '12A'", [1]),
        ("camelot in ('8B', '12A')", [1]),
        ("camelot like '%B'", [0]),
        ("camelot != '12A'", [0]),
        ("not camelot = '12A' and bpm < 100", [2, 3]),
        ("path = 'Db major'", []),
        ("silent", [2]),
        ("not silent", [0, 1, 3]),
        ("silent = true", [2]),
        ("silent != TRUE", [0, 1, 3]),
        ("NOT NOT silent", [2]),
        ("bpm = 60 or bpm = 90 and silent", [2, 3]),
        ("(bpm = 60 or bpm = 90) and silent", [2]),
        ("bpm between 90 and 124 and not silent", [0, 1]),
        ('path = "c_1.mp3"', [2]),
        ("path < 'd'", [2, 3]),
        ("path like 'live/%'", [0, 1]),
        ("path like '%.mp3'", [0, 1, 2, 3]),
        ("path like 'LIVE/_.mp3'", [0, 1]),
        ("path like '%i%e%'", [0, 1]),
        ("path like 'live'", []),
        ("path not like '%e%b%'", [0, 2, 3]),
        ("path contains '%'", [3]),
        ("path contains '.*'", []),
        ("tag_artist contains 'bach'", [0, 1]),
        ("tag_artist = ''", [2]),
        ("tag_artist like 'o''neil \"x\"'", [3]),
        ('tag_artist = "O\'Neil ""x"""', [3]),
        ("`odd name` in ('a', 'd')", [0, 3]),
        ("`odd name` = ''", [1]),
        ("`odd name` contains 'a'", [0]),
    ],
)
def test_what_a_filter_means(text: str, expected: list[int]) -> None:
    assert rows(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        (
            "duration > 3",
            "at character 1: -->duration > 3 (did you mean 'duration_s'? there are path, ",
        ),
        ("bpm > 3 and foo = 1", "names no column: 'foo', at character 13"),
        ("bpm", "has its end where a comparison of 'bpm', such as = or >, should be"),
        ("bpm >", "has its end where a number, a text in quotes, true or false should be"),
        (
            "bpm > 3 4",
            "has '4' where 'and', 'or' or the end should be, at character 9: bpm > 3 -->4",
        ),
        ("bpm > 3)", "has ')' where 'and', 'or' or the end"),
        ("(bpm > 3", "has its end where ')' should be"),
        ("bpm > 'x'", "compares bpm with 'x', but bpm is a number"),
        ("tag_artist = 3", "compares tag_artist with 3, but tag_artist is a text in quotes"),
        ("tag_artist = bach", "put text in quotes"),
        ("silent > true", "compares silent by >"),
        ("bpm like '1%'", "'bpm like', but bpm is not text"),
        ("path like 3", "has '3' where a text in quotes should be"),
        ("path = 'x", "has a quote that does not end, at character 8"),
        ("bpm > 3; drop table x", "cannot be read, at character 8"),
        ("bpm = 3 and", "has its end where a column should be"),
        ("bpm < 9 or camelot = '13A'", "names no Camelot code, at character 12"),
        ("camelot = 8", "compares camelot with 8, but camelot is a text"),
        ("bpm in 3", "has '3' where '(' should be"),
        ("bpm in ()", "has ')' where a number"),
        ("bpm in (3", "has its end where ',' or ')' should be"),
        ("bpm between 3", "has its end where 'and' should be"),
        ("bpm not = 3", "has '=' where a comparison"),
        ("__import__('os')", "names no column: '__import__'"),
        ("3 < bpm", "has '3' where a column should be"),
        ("bpm = 1x", "cannot be read"),
        ("bpm < 1e999", "compares bpm with 1e999, which is too large"),
        ("(" * 200 + "silent" + ")" * 200, "nested more than 100 deep"),
        ("not " * 200 + "silent", "nested more than 100 deep"),
        ("silent or " * 3000 + "silent", "characters is too long"),
    ],
)
def test_what_cannot_be_read_says_where(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        parse_where(text, COLUMNS)
    assert "\n" not in str(caught.value)


SOUP = """bpm path silent tag_artist and or not between in like contains ( ) , = != < >= 3 -1e9
1e999 'a' "%_" true ' \\ é"""
WORDS = st.sampled_from(SOUP.split())


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=12).map(" ".join)))
def test_anything_is_a_mask_or_a_usage_error(text: str) -> None:
    try:
        condition = parse_where(text, COLUMNS)
    except UsageError:
        return
    assert condition.mask().shape == (4,)
    assert isinstance(condition.sql, str)


def test_patterns_that_make_backtracking_slow() -> None:
    columns = {"path": np.array(["a" * 5000 + "b"] * 20, object)}
    began = time.process_time()
    assert not parse_where("path like '" + "%a" * 40 + "c'", columns).mask().any()
    assert parse_where("path like '" + "%a" * 40 + "b'", columns).mask().all()
    assert time.process_time() - began < 20  # not a matter of speed: backtracking takes years
