"""``--tags``, and ``.lance`` outputs, through whole runs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from loev_cli.audio import TAGS
from loev_cli.bundle import Bundle
from loev_cli.embed.merge import merge
from loev_cli.errors import UsageError
from loev_cli.formats import FORMATS, read
from tests.audio.common import write_with_ffmpeg
from tests.conftest import Loev, write_audio
from tests.embed.common import assert_same, embedded, left_in

needs_lance = pytest.mark.skipif(
    importlib.util.find_spec("lance") is None, reason="the extra 'db' is not installed"
)
every_format = pytest.mark.parametrize(
    "extension",
    [pytest.param(name, marks=needs_lance) if name == ".lance" else name for name in FORMATS],
)


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    """Two files that say something of themselves, and one that does not."""
    root = tmp_path / "tagged"
    root.mkdir()
    write_with_ffmpeg(root / "a.flac", "flac", tags={"artist": "Ärtist", "ISRC": "USRC1"})
    write_with_ffmpeg(root / "b.m4a", "aac", tags={"artist": "日本 🎵", "album_artist": "All"})
    write_audio(root / "c.wav")
    return root


@every_format
@pytest.mark.parametrize("per_window", [False, True])
def test_tags_are_kept(
    bundle: Bundle, tagged: Path, tmp_path: Path, extension: str, per_window: bool
) -> None:
    out = tmp_path / f"x{extension}"
    file, _ = embedded(bundle, out, tagged, tags=True, per_window=per_window)
    assert file.meta["tags"] == list(TAGS)
    assert set(file.tags) == set(TAGS)
    assert file.tags["artist"] == ["Ärtist", "日本 🎵", ""]
    assert file.tags["isrc"] == ["USRC1", "", ""]
    assert file.tags["albumartist"] == ["", "All", ""]


def test_tags_stay_with_rows_of_earlier_runs(bundle: Bundle, tagged: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    (tagged / "b.m4a").rename(tmp_path / "later.m4a")
    embedded(bundle, out, tagged, tags=True)
    (tmp_path / "later.m4a").rename(tagged / "b.m4a")
    file, report = embedded(bundle, out, tagged, tags=True)
    assert report.n_done == 1
    assert file.tags["artist"] == ["Ärtist", "日本 🎵", ""]
    plain = tmp_path / "plain.npz"
    embedded(bundle, plain, tagged)
    with pytest.raises(UsageError, match="tags"):
        embedded(bundle, plain, tagged, tags=True)


def test_tags_on_stdout(loev: Loev, bundle: Bundle, tagged: Path) -> None:
    done = loev("embed", tagged, "--out", "-", "--tags", "--model", bundle.path)
    first = json.loads(done.out.splitlines()[0])
    assert (first["path"], first["tag_artist"], first["tag_genre"]) == ("a.flac", "Ärtist", "")


@needs_lance
def test_a_lance_output_is_brought_up_to_date(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    reference, _ = embedded(bundle, tmp_path / "reference.npz", library)
    out = tmp_path / "x.lance"
    (library / "short.WAV").rename(tmp_path / "later.WAV")
    _, first = embedded(bundle, out, library)
    (tmp_path / "later.WAV").rename(library / "short.WAV")
    file, second = embedded(bundle, out, library)
    assert (first.n_done, second.n_done, second.n_rows) == (4, 1, 5)
    assert_same(file, reference)
    _, third = embedded(bundle, out, library)
    assert third.n_done == 0
    assert merge([str(out)], str(tmp_path / "all.lance")).n_rows == 5
    assert_same(read(tmp_path / "all.lance"), reference)
    assert left_in(tmp_path) == {
        *("library", "reference.npz", "reference.npz.journal", "x.lance", "x.lance.journal"),
        *("all.lance", "all.lance.journal"),
    }


@needs_lance
def test_what_a_killed_run_left_of_a_lance_output_goes(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    leftover = tmp_path / ".x.lance.0123abcd.tmp"
    (leftover / "data").mkdir(parents=True)
    embedded(bundle, tmp_path / "x.lance", library)
    assert not leftover.exists()
