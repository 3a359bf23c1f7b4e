"""Where the audio of a library is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from loev_cli.bundle import Bundle
from loev_cli.embed import Request, embed, merge
from loev_cli.formats import read_meta
from loev_cli.search.library import audio_root, open_library
from tests.conftest import write_audio
from tests.search.common import write_library


def root_of(emb: Path) -> Path | None:
    library = open_library(emb)
    return audio_root(emb, library.meta, library.paths)


@pytest.mark.parametrize("extension", ["npz", "parquet", "jsonl"])
def test_the_folder_that_was_embedded(
    library: Path, bundle: Bundle, tmp_path: Path, extension: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    emb = tmp_path / "elsewhere" / f"x.{extension}"
    monkeypatch.chdir(tmp_path)
    embed(Request([library.name], str(emb), model=str(bundle.path)))
    monkeypatch.chdir("/")
    assert root_of(emb) == library
    # The folder has moved: the audio is found beside the file, or from where the command is run.
    moved = shutil.move(library, tmp_path / "moved")
    assert root_of(emb) is None
    monkeypatch.chdir(moved)
    assert root_of(emb) == Path(moved)
    monkeypatch.chdir("/")
    assert root_of(Path(shutil.move(emb, moved))) == Path(moved)


def test_files_and_several_folders_are_named_from_the_working_folder(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/x.wav", "b/x.wav"):
        write_audio(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    embed(Request(["a", "b"], "both.npz", model=str(bundle.path)))
    for name in ("a", "b"):
        embed(Request([f"{name}/x.wav"], f"{name}.npz", model=str(bundle.path)))
    merge(["a.npz", "b.npz"], "joined.npz")
    embed(Request(["a"], "of_a.npz", model=str(bundle.path)))
    merge(["a.npz", "of_a.npz"], "mixed.npz")
    monkeypatch.chdir("/")
    for emb in ("both.npz", "joined.npz"):
        assert root_of(tmp_path / emb) == tmp_path
    assert read_meta(tmp_path / "mixed.npz")["audio_root"] is None


def test_files_of_before_it_was_kept(tmp_path: Path) -> None:
    write_library(tmp_path / "x.npz", 3)
    assert root_of(tmp_path / "x.npz") is None
    write_audio(tmp_path / "a" / "001.wav")
    assert root_of(tmp_path / "x.npz") == tmp_path
