"""Storage that is away, for a while or for ever: what is done is kept, and said to be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from loev_cli.bundle import Bundle
from loev_cli.embed import Event, Failure, TrackDone, embed
from loev_cli.errors import StoppedError
from loev_cli.formats import read
from tests.conftest import Loev, in_process_of_its_own, write_audio
from tests.embed.common import assert_same, embedded, left_in, request

N_FILES = 20


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Twenty files in a folder, and one beside it that was embedded before."""
    for i in range(N_FILES):
        write_audio(tmp_path / "in" / "storage" / f"{i:02}.wav", 1.0, seed=i)
    write_audio(tmp_path / "in" / "zz.wav", seed=99)
    return tmp_path / "in" / "storage"


def after(n_done: int, act: Callable[[], object]) -> Callable[[Event], None]:
    """Do it when so many tracks are done; a failure that is told besides fails the test."""
    n_left = n_done

    def take(event: Event) -> None:
        nonlocal n_left
        assert not isinstance(event, Failure)
        if isinstance(event, TrackDone):
            n_left -= 1
            if n_left == 0:
                act()

    return take


@pytest.mark.parametrize("n_done", [3, 8])
def test_a_source_that_vanishes_stops_the_run_and_loses_nothing(
    bundle: Bundle, storage: Path, tmp_path: Path, n_done: int
) -> None:
    whole, _ = embedded(bundle, tmp_path / "whole.npz", storage.parent)
    out = tmp_path / "x.npz"
    inside = tmp_path / "away"
    storage.rename(inside)
    before, _ = embedded(bundle, out, storage.parent)
    assert before.paths == ["zz.wav"]
    inside.rename(storage)
    asked = request(bundle, out, storage.parent, workers=1)
    with pytest.raises(StoppedError, match="storage no longer exists"):
        embed(asked, on_event=after(n_done, lambda: storage.rename(inside)))
    assert_same(read(out), before)
    assert left_in(tmp_path) == {
        *("in", "away", "whole.npz", "whole.npz.journal", "x.npz", "x.npz.journal")
    }
    inside.rename(storage)
    _, report = embedded(bundle, out, storage.parent)
    assert 0 < report.n_done <= N_FILES - n_done
    assert_same(read(out), whole)


def test_a_vanished_source_is_one_line_that_says_how_to_resume(
    loev: Loev,
    bundle: Bundle,
    storage: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from loev_cli.cli import _embed_report

    out = tmp_path / "x.npz"
    take = _embed_report.Progress.take
    act = after(3, lambda: storage.rename(tmp_path / "away"))

    def taking(self: _embed_report.Progress, event: Event) -> None:
        act(event)
        take(self, event)

    monkeypatch.setattr(_embed_report.Progress, "take", taking)
    done = loev(*("embed", storage.parent, "--out", out, "--model", bundle.path, "--workers", "1"))
    (line,) = done.lines
    assert done.code == 1
    assert line.startswith(f"loev: error: {storage} no longer exists")
    assert line.endswith(
        f"are done and saved in {out}.journal; run the same command again to resume"
    )
    assert not out.exists()


def test_files_that_were_never_there_are_failures(
    bundle: Bundle, storage: Path, tmp_path: Path
) -> None:
    listed = [*(storage.parent / "gone" / f"{i}.wav" for i in range(8)), *storage.iterdir()]
    out = tmp_path / "x.npz"
    done = in_process_of_its_own(
        *("embed", "-", "--out", out, "--model", bundle.path),
        stdin="\n".join(map(str, listed)).encode(),
    )
    assert (done.code, len(read(out).paths)) == (3, N_FILES)
    assert sum(line.startswith("loev: failed (open)") for line in done.lines) == 8


def test_a_file_that_goes_while_its_folder_stays_is_a_failure(
    bundle: Bundle, storage: Path, tmp_path: Path
) -> None:
    def remove() -> None:
        for i in range(10, N_FILES):
            (storage / f"{i}.wav").unlink()

    def take(event: Event) -> None:
        if not isinstance(event, Failure):
            going(event)

    going = after(1, remove)
    report = embed(request(bundle, tmp_path / "x.npz", storage, workers=1), on_event=take)
    assert len(report.failures) + report.n_done == N_FILES
    assert len(report.failures) >= 5


# ---------------------------------------------------------------- --prune


@pytest.fixture
def two_disks(tmp_path: Path) -> Path:
    """A library that is spread over two disks, by links, and a file of its own."""
    for disk in ("one", "two"):
        write_audio(tmp_path / "disks" / disk / "a.wav", seed=1)
        write_audio(tmp_path / "disks" / disk / "b.wav", seed=2)
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / disk).symlink_to(tmp_path / "disks" / disk)
    write_audio(tmp_path / "in" / "own.wav", seed=3)
    return tmp_path / "in"


def rename_away(disk: Path) -> None:
    disk.rename(disk.with_name("away"))


def lock(disk: Path) -> None:
    disk.chmod(0)
    if os.access(disk, os.R_OK):
        pytest.skip("this user may look anywhere")


@pytest.mark.parametrize("go_away", [rename_away, lock])
def test_prune_keeps_rows_of_files_that_cannot_be_looked_at(
    loev: Loev, bundle: Bundle, two_disks: Path, tmp_path: Path, go_away: Callable[[Path], None]
) -> None:
    out = tmp_path / "x.npz"
    arguments = ["embed", two_disks, "--out", out, "--model", bundle.path]
    loev(*arguments)
    (two_disks / "one" / "b.wav").unlink()
    go_away(tmp_path / "disks" / "two")
    try:
        lines = loev(*arguments).lines
        assert [line.split(" ")[0] for line in lines if " row" in line] == ["1", "2"]
        lines = loev(*arguments, "--prune").lines
        assert [line.split(" ")[0] for line in lines if " row" in line] == ["1", "2"]
        assert read(out).paths == ["one/a.wav", "own.wav", "two/a.wav", "two/b.wav"]
    finally:
        (tmp_path / "disks" / "two").exists() and (tmp_path / "disks" / "two").chmod(0o700)


def test_prune_by_a_list(bundle: Bundle, two_disks: Path, tmp_path: Path) -> None:
    """Some of it listed and away, some listed and gone, some left out."""
    out = tmp_path / "x.npz"
    files = [two_disks / name for name in ("one/a.wav", "one/b.wav", "two/a.wav", "own.wav")]
    listed = "\n".join(map(str, files)).encode()
    arguments = ["embed", "-", "--out", out, "--model", bundle.path]
    assert in_process_of_its_own(*arguments, stdin=listed).code == 0
    (tmp_path / "disks" / "two").rename(tmp_path / "disks" / "away")
    (two_disks / "one" / "b.wav").unlink()
    fewer = "\n".join(map(str, files[:-1])).encode()
    done = in_process_of_its_own(*arguments, stdin=fewer)
    kept = [line for line in done.lines if " row" in line]
    assert [line.split(" ")[0] for line in kept] == ["1", "1", "1"]  # left out, gone, away
    assert len({*kept}) == 3
    assert "inputs that no longer exist" in kept[1]
    assert len(read(out).paths) == 4
    done = in_process_of_its_own(*arguments, "--prune", stdin=fewer)
    assert [line.split(" ")[0] for line in done.lines if " row" in line] == ["2", "1"]
    assert read(out).paths == [str(two_disks / "one/a.wav"), str(two_disks / "two/a.wav")]


def test_prune_and_folders_that_are_deleted(
    bundle: Bundle, two_disks: Path, tmp_path: Path
) -> None:
    """They look like a disk that is away; an empty folder in their place says that they are not."""
    album = write_audio(two_disks / "album" / "x.wav", seed=7).parent
    out = tmp_path / "x.npz"
    embedded(bundle, out, two_disks)
    shutil.rmtree(album)
    _, report = embedded(bundle, out, two_disks, prune=True)
    assert (report.n_pruned, report.n_out_of_sight, report.n_rows) == (0, 1, 6)
    album.mkdir()
    _, report = embedded(bundle, out, two_disks, prune=True)
    assert (report.n_pruned, report.n_out_of_sight, report.n_rows) == (1, 0, 5)


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_prune_knows_names_that_are_no_utf8(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/caf\xe9"))
    for name in ("a.wav", "b\udcff.wav", "c\udcff.wav"):
        folder.mkdir(parents=True, exist_ok=True)
        write_audio(tmp_path / "x.wav").rename(folder / name)
    out = tmp_path / "x.npz"
    file, _ = embedded(bundle, out, tmp_path / "in")
    assert file.paths == ["caf\\xe9/a.wav", "caf\\xe9/b\\xff.wav", "caf\\xe9/c\\xff.wav"]
    (folder / "b\udcff.wav").unlink()
    file, report = embedded(bundle, out, tmp_path / "in", prune=True)
    assert (report.n_pruned, report.n_out_of_sight) == (1, 0)
    assert file.paths == ["caf\\xe9/a.wav", "caf\\xe9/c\\xff.wav"]


@pytest.mark.parametrize("extension", [".npz", ".parquet", ".jsonl"])
def test_a_library_whose_only_file_went_bad(
    loev: Loev, bundle: Bundle, tmp_path: Path, extension: str
) -> None:
    file, out = write_audio(tmp_path / "in" / "x.wav"), tmp_path / f"x{extension}"
    arguments = ["embed", file.parent, "--out", out, "--model", bundle.path]
    assert loev(*arguments).code == 0
    file.write_text("no music any more")
    done = loev(*arguments)
    assert done.code == 1
    assert str(out) in done.lines[-1]
    assert "nothing written" not in done.lines[-1]
    assert read(out).paths == []
    write_audio(file)
    assert loev(*arguments).code == 0
    assert read(out).paths == ["x.wav"]
