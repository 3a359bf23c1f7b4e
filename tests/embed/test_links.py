"""Links planted beside an output, in a folder that others can write to: refused, not followed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from loev_cli.bundle import Bundle
from loev_cli.embed import embed
from loev_cli.embed.merge import merge
from loev_cli.errors import OutputError
from loev_cli.storage.atomic import write_own
from loev_cli.storage.own import own, own_folder
from tests.conftest import Loev, write_audio
from tests.embed.common import embedded, left_in, request

CONTENT = "worth keeping\n"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of somebody's that no run has any business with."""
    file = tmp_path / "elsewhere" / "victim"
    file.parent.mkdir()
    file.write_text(CONTENT)
    return file


def refused(bundle: Bundle, audio: Path, out: Path, planted: Path, *, overwrite: bool) -> None:
    with pytest.raises(OutputError) as raised:
        embed(request(bundle, out, audio, overwrite=overwrite))
    assert str(planted) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not out.exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "name", ["lock", "journal.json", "part-000001.rows", f"index-{'0' * 32}.rows"]
)
@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_only_regular_files_are_used_as_journal(
    bundle: Bundle, tmp_path: Path, victim: Path, name: str, kind: str, overwrite: bool
) -> None:
    audio, out = write_audio(tmp_path / "a.wav"), tmp_path / "x.npz"
    planted = tmp_path / "x.npz.journal" / name
    planted.parent.mkdir()
    if kind == "link":
        planted.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(planted)
    else:
        planted.mkdir()
    refused(bundle, audio, out, planted, overwrite=overwrite)
    assert victim.read_text() == CONTENT


def test_a_dangling_link_is_not_written_through(bundle: Bundle, tmp_path: Path) -> None:
    audio, out = write_audio(tmp_path / "a.wav"), tmp_path / "x.npz"
    for name in ("lock", "journal.json"):
        planted = tmp_path / "x.npz.journal" / name
        planted.parent.mkdir(exist_ok=True)
        planted.symlink_to(tmp_path / "made")
        refused(bundle, audio, out, planted, overwrite=False)
        assert not (tmp_path / "made").exists()
        planted.unlink()


def test_a_lock_that_is_another_name_of_a_file(
    bundle: Bundle, tmp_path: Path, victim: Path
) -> None:
    audio, out = write_audio(tmp_path / "a.wav"), tmp_path / "x.npz"
    planted = tmp_path / "x.npz.journal" / "lock"
    planted.parent.mkdir()
    planted.hardlink_to(victim)
    refused(bundle, audio, out, planted, overwrite=False)
    planted.unlink()
    planted.write_text("somebody's notes\n")  # a file, and not ours
    refused(bundle, audio, out, planted, overwrite=False)
    assert (victim.read_text(), planted.read_text()) == (CONTENT, "somebody's notes\n")


def test_a_linked_journal_folder(bundle: Bundle, tmp_path: Path, victim: Path) -> None:
    audio, out = write_audio(tmp_path / "a.wav"), tmp_path / "x.npz"
    planted = tmp_path / "x.npz.journal"
    planted.symlink_to(victim.parent)
    refused(bundle, audio, out, planted, overwrite=False)
    assert left_in(victim.parent) == {"victim"}


def test_a_linked_list_of_failures(
    bundle: Bundle, library: Path, tmp_path: Path, victim: Path
) -> None:
    out = tmp_path / "x.npz"
    planted = tmp_path / "x.npz.failures.jsonl"
    planted.symlink_to(victim)
    (library / "bad.wav").write_text("no audio")
    refused(bundle, library, out, planted, overwrite=False)
    embedded(bundle, tmp_path / "part.npz", write_audio(tmp_path / "a.wav"))
    with pytest.raises(OutputError, match=str(planted)):
        merge([str(tmp_path / "part.npz")], str(out))
    assert victim.read_text() == CONTENT


def test_leftovers_that_are_links_go_alone(bundle: Bundle, tmp_path: Path, victim: Path) -> None:
    planted = tmp_path / ".x.npz.01234567.tmp"
    planted.symlink_to(victim.parent)
    embedded(bundle, tmp_path / "x.npz", write_audio(tmp_path / "a.wav"))
    assert not planted.is_symlink()
    assert victim.read_text() == CONTENT


def test_the_command_says_so_in_one_line(
    bundle: Bundle, tmp_path: Path, victim: Path, loev: Loev
) -> None:
    planted = tmp_path / "x.npz.journal" / "lock"
    planted.parent.mkdir()
    planted.symlink_to(victim)
    done = loev(
        "embed", write_audio(tmp_path / "a.wav"), "--out", tmp_path / "x.npz",
        "--model", bundle.path,
    )  # fmt: skip
    assert done.code == 1
    assert [line for line in done.lines if str(planted) in line] == done.lines[-1:]


def test_outputs_that_users_name_may_be_links(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "x.npz").symlink_to(tmp_path / "disk" / "real.npz")
    file, _ = embedded(bundle, tmp_path / "x.npz", write_audio(tmp_path / "a.wav"))
    assert len(file.paths) == 1
    assert (tmp_path / "x.npz").is_symlink()
    assert (tmp_path / "disk" / "real.npz").is_file()


# ------------------------------------------------------------ the parts that all of them use


def test_truncating_waits_until_the_file_is_known(tmp_path: Path, victim: Path) -> None:
    link = tmp_path / "log"
    link.hardlink_to(victim)
    with pytest.raises(OutputError, match=str(link)), open(link, "w", opener=own):
        pass
    link.unlink()
    link.symlink_to(victim)
    for mode in ("r", "w", "a"):
        with pytest.raises(OutputError, match=str(link)), open(link, mode, opener=own):
            pass
    assert victim.read_text() == CONTENT


def test_cache_entries_replace_nothing_through_a_link(tmp_path: Path, victim: Path) -> None:
    link = tmp_path / "entry.npz"
    link.symlink_to(victim)
    with pytest.raises(OutputError, match=str(link)):
        write_own(link, b"rows")
    assert victim.read_text() == CONTENT
    assert left_in(tmp_path) == {"elsewhere", "entry.npz"}
    folder = tmp_path / "cache"
    folder.symlink_to(victim.parent)
    with pytest.raises(OutputError, match=str(folder)):
        own_folder(folder)


def test_a_link_where_a_cache_or_a_run_keeps_its_own(tmp_path: Path, victim: Path) -> None:
    from loev_cli.train.checkpoint import write_checkpoint
    from loev_cli.train.data.cache import Cache
    from loev_cli.train.metrics import MetricsFile

    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "entries").symlink_to(victim.parent)
    cache = Cache(tmp_path / "cache")
    cache.prepare()
    with cache.drafts() as drafts:
        cache.write_draft(np.zeros((2, 3), np.float32), drafts / "draft")
        with pytest.raises(OutputError, match=str(tmp_path / "cache" / "entries")):
            cache.adopt(drafts / "draft", "ab" * 16)
    for name in (".last.pt.tmp", "metrics.csv"):
        (tmp_path / name).symlink_to(victim)
    with pytest.raises(OutputError, match=r"last\.pt"):
        write_checkpoint(tmp_path / "last.pt", {"step": 1})
    with pytest.raises(OutputError, match=r"metrics\.csv"):
        MetricsFile(tmp_path / "metrics.csv", 0)
    assert left_in(victim.parent) == {"victim"}
    assert victim.read_text() == CONTENT
