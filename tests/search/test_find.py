"""What a query means."""

from __future__ import annotations

from pathlib import Path

import pytest

from loev_cli.errors import UsageError
from loev_cli.search.find import FileQuery, RowQuery, find_query
from tests.conftest import write_audio

PATHS = ["a/b.mp3", "a/c.mp3", "b.mp3", "ü é/日本.wav", "x/c.mp3", "x/bb.mp3", "z\\xff.wav"]
EMB = Path("emb.npz")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("b.mp3", "b.mp3"),  # exact, though a/b.mp3 ends in it
        ("a/b.mp3", "a/b.mp3"),
        ("./a/b.mp3", "a/b.mp3"),
        ("日本.wav", "ü é/日本.wav"),
        ("bb.mp3", "x/bb.mp3"),
        ("z\udcff.wav", "z\\xff.wav"),  # a name that is no UTF-8
    ],
)
def test_a_row_by_its_path_or_its_end(text: str, path: str) -> None:
    assert find_query(text, PATHS, EMB) == RowQuery(path, PATHS.index(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c.mp3", r"'c.mp3' is ambiguous; it matches a/c.mp3, x/c.mp3 in emb.npz"),
        ("a/d.mp3", r"emb.npz has no track 'a/d.mp3', and there is no such file \(did you mean"),
        ("日木.wav", r"did you mean 'ü é/日本.wav'\?"),
        ("日", r"did you mean 'ü é/日本.wav'\?"),
        ("C.MP", r"did you mean 'a/c.mp3' or 'x/c.mp3'\?"),
        ("nothing like it at all", r"there is no such file$"),
        ("", "an empty query"),
        ("a" * 5000, "there is no such file"),
        ("a\0b", "there is no such file"),
    ],
)
def test_what_means_nothing(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_query(text, PATHS, EMB)


def test_a_file_that_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_audio(tmp_path / "lib" / "x" / "new.wav")
    found = find_query("lib/x/new.wav", PATHS, EMB)
    assert found == FileQuery(Path("lib/x/new.wav"))
    assert {"new.wav", "x/new.wav", "lib/x/new.wav", str(tmp_path / "lib/x/new.wav")} <= found.rows
    assert "ew.wav" not in found.rows


def test_names_are_suggested_in_large_libraries_too() -> None:
    paths = [f"{i:06}.mp3" for i in range(50_000)] + ["zauberfloete.mp3"]
    with pytest.raises(UsageError, match=r"did you mean 'zauberfloete.mp3'"):
        find_query("zauberfloete.mp", paths, EMB)
