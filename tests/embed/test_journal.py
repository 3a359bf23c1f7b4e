"""Running it again: only what is new, changed or failed; never what is not to be trusted."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loev_cli.bundle import Bundle
from loev_cli.embed import Event, Notice, Request, TrackDone, embed
from loev_cli.embed.journal import Journal
from loev_cli.embed.parts import Stamp
from loev_cli.errors import OutputError, UsageError
from loev_cli.formats import Row, make_meta, read
from tests.conftest import SUBSPACES, add_bad_files, make_bundle, write_audio
from tests.embed.common import assert_same, embedded, interrupted, left_in, request

FORMATS = [".npz", ".parquet", ".jsonl"]
every_format = pytest.mark.parametrize("extension", FORMATS)


def run(asked: Request) -> tuple[list[str], list[str]]:
    """Which tracks were embedded, and what was noted."""
    events: list[Event] = []
    embed(asked, on_event=events.append)
    done = sorted(event.path for event in events if isinstance(event, TrackDone))
    return done, [event.text for event in events if isinstance(event, Notice)]


@every_format
@pytest.mark.parametrize("per_window", [False, True])
def test_an_interrupted_run_goes_on(
    bundle: Bundle, library: Path, tmp_path: Path, extension: str, per_window: bool
) -> None:
    whole, _ = embedded(bundle, tmp_path / f"whole{extension}", library, per_window=per_window)
    out = tmp_path / f"x{extension}"
    asked = request(bundle, out, library, per_window=per_window)
    interrupted(asked, after=2)
    assert not out.exists()
    interrupted(asked, after=1)
    assert left_in(tmp_path) >= {f"x{extension}.journal"}
    done, notes = run(asked)
    assert len(done) == 2
    assert notes == []
    assert_same(read(out), whole)
    for name in whole.meta.keys() - {"created"}:
        assert read(out).meta[name] == whole.meta[name]


def test_an_output_that_only_had_to_be_put_together(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    whole, _ = embedded(bundle, tmp_path / "whole.npz", library)
    interrupted(request(bundle, tmp_path / "x.npz", library), after=5)
    assert run(request(bundle, tmp_path / "x.npz", library)) == ([], [])
    assert_same(read(tmp_path / "x.npz"), whole)
    assert read(tmp_path / "x.npz").meta["device"] == whole.meta["device"]


def test_nothing_new_is_nothing_done(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    embedded(bundle, out, library)
    before = out.stat()
    assert run(request(bundle, out, library)) == ([], [])
    assert out.stat().st_mtime_ns == before.st_mtime_ns
    assert out.stat().st_ino == before.st_ino
    out.unlink()  # then all of it is new
    assert len(run(request(bundle, out, library))[0]) == 5


@every_format
def test_a_library_that_changes(
    bundle: Bundle, library: Path, tmp_path: Path, extension: str
) -> None:
    out = tmp_path / f"x{extension}"
    add_bad_files(library)
    embedded(bundle, out, library)
    write_audio(library / "new.wav", seed=7)
    write_audio(library / "a" / "same.wav", 1.5, seed=8)  # changed
    os.utime(library / "short.WAV", ns=(0, 123))  # touched: it might have changed
    (library / "long one.flac").unlink()
    write_audio(library / "empty.wav", seed=9)  # failed before
    (library / "b" / "same.wav").write_text("no music any more")
    done, notes = run(request(bundle, out, library))
    assert done == ["a/same.wav", "empty.wav", "new.wav", "short.WAV"]
    assert notes == []
    file = read(out)
    assert "long one.flac" in file.paths, "rows of files that are gone stay"
    assert "b/same.wav" not in file.paths, "but not rows of what is not there any more"
    assert len(file.paths) == 6
    assert sorted(
        json.loads(line)["path"] for line in Path(f"{out}.failures.jsonl").read_text().splitlines()
    ) == ["b/same.wav", "bad.mp3"]

    report = embed(request(bundle, out, library, prune=True))
    assert (report.n_done, report.n_pruned, report.n_rows) == (0, 1, 5)
    (library / "b" / "same.wav").unlink()
    (library / "bad.mp3").unlink()
    fresh, _ = embedded(bundle, tmp_path / f"fresh{extension}", library)
    assert_same(read(out), fresh)


def test_other_inputs_are_added(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    embedded(bundle, out, library / "a")
    other = write_audio(tmp_path / "more" / "other.wav", seed=3).parent
    _, report = embedded(bundle, out, other)
    assert (report.n_done, report.n_rows, report.n_orphans) == (1, 2, 1)
    assert read(out).paths == ["other.wav", "same.wav"]


def test_other_settings_stop(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    embedded(bundle, out, library)
    interrupted(request(bundle, tmp_path / "y.npz", library), after=1)
    other = make_bundle(tmp_path / "other", seed=1)
    for changed in ({"hop_s": 0.1}, {"subspaces": ["tempo"]}, {"per_window": True}):
        with pytest.raises(UsageError, match=r"differ in .*--overwrite"):
            embedded(bundle, out, library, **changed)
        with pytest.raises(UsageError, match=r"computed with different settings: .*--overwrite"):
            embedded(bundle, tmp_path / "y.npz", library, **changed)
    for name in ("x.npz", "y.npz"):
        with pytest.raises(UsageError, match=r"model.*--overwrite"):
            embedded(other, tmp_path / name, library)
        file, report = embedded(other, tmp_path / name, library, overwrite=True)
        assert report.n_done == len(file.paths) == 5
        assert file.meta["model_sha256"] == other.sha256
    assert run(request(other, out, library)) == ([], [])


def test_what_there_is_keeps_its_hop_when_the_default_is_another(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    whole, _ = embedded(bundle, tmp_path / "whole.npz", library, hop_s=0.1, per_window=True)
    out = tmp_path / "x.npz"
    interrupted(request(bundle, out, library, hop_s=0.1, per_window=True), after=2)
    default = request(bundle, out, library, per_window=True)
    assert len(run(default)[0]) == 3
    added = write_audio(library / "added.wav", seed=3)
    assert len(run(default)[0]) == 1
    added.unlink()
    embed(replace(default, prune=True))
    assert_same(read(out), whole)
    assert read(out).meta["hop_s"] == 0.1
    embed(replace(default, overwrite=True))
    assert read(out).meta["hop_s"] == bundle.hop_n_samples() / bundle.sample_rate_hz


def test_overwrite_discards_what_is_finished_and_goes_on_with_what_is_not(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.npz"
    embedded(bundle, out, library, hop_s=0.1)
    asked = request(bundle, out, library, overwrite=True)
    interrupted(asked, after=2)
    assert read(out).meta["hop_s"] == 0.1, "until the new one is whole"
    assert len(run(asked)[0]) == 3
    assert len(run(asked)[0]) == 5


def test_a_torn_part_is_reported_and_what_is_whole_is_used(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    whole, _ = embedded(bundle, tmp_path / "whole.npz", library)
    asked = request(bundle, tmp_path / "x.npz", library)
    for damage, n_to_do in (("cut off", 3), ("flipped", 5), ("lengthened", 2)):
        interrupted(asked, after=3)
        (part,) = (tmp_path / "x.npz.journal").glob("part-*.rows")
        content = bytearray(part.read_bytes())
        if damage == "cut off":
            content = content[:-10]
        elif damage == "flipped":
            content[60] ^= 4  # within the first record
        else:
            content += b"\xff" * 100
        part.write_bytes(content)
        done, (note,) = run(asked)
        assert len(done) == n_to_do
        assert "is damaged or cut off; what follows is embedded again" in note
        assert_same(read(tmp_path / "x.npz"), whole)
        (tmp_path / "x.npz").unlink()


def test_a_part_of_something_else_is_reported_and_not_used(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    interrupted(request(bundle, tmp_path / "y.npz", library, hop_s=0.1), after=2)
    (foreign,) = (tmp_path / "y.npz.journal").glob("part-*.rows")
    interrupted(request(bundle, tmp_path / "x.npz", library), after=1)
    shutil.copy(foreign, tmp_path / "x.npz.journal" / "part-000002.rows")
    (tmp_path / "x.npz.journal" / "part-000003.rows").write_text("what is this")
    done, notes = run(request(bundle, tmp_path / "x.npz", library))
    assert len(done) == 4
    assert [note.partition(".rows ")[2] for note in notes] == [
        "belongs to different settings; it is not used",
        "is not part of a journal; it is not used",
    ]


def test_a_folder_that_is_no_journal_is_left_alone(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "x.npz.journal"
    folder.mkdir()
    (folder / "journal.json").write_text("my diary")
    with pytest.raises(UsageError, match="is not a loev journal, or is damaged"):
        embedded(bundle, tmp_path / "x.npz", library)
    assert (folder / "journal.json").read_text() == "my diary"
    (folder / "journal.json").write_text('{"format_version": 99}')
    with pytest.raises(UsageError, match=r"format 99.*upgrade"):
        embedded(bundle, tmp_path / "x.npz", library)
    (folder / "journal.json").unlink()
    (folder / "holiday.jpg").write_text("a picture")
    embedded(bundle, tmp_path / "x.npz", library)
    (tmp_path / "x.npz").unlink()
    embedded(bundle, tmp_path / "x.npz", library, overwrite=True)
    assert (folder / "holiday.jpg").exists()
    (folder / "journal.json").unlink()
    with pytest.raises(UsageError, match=r"journal\.json is missing"):
        embedded(bundle, tmp_path / "x.npz", library)


@every_format
def test_an_output_that_is_not_the_journals_is_embedded_again(
    bundle: Bundle, library: Path, tmp_path: Path, extension: str
) -> None:
    out = tmp_path / f"x{extension}"
    first, _ = embedded(bundle, out, library)
    shutil.rmtree(f"{out}.journal")
    (library / "b" / "same.wav").unlink()
    done, (note,) = run(request(bundle, out, library))
    assert len(done) == 4
    assert "was modified since the last run; the files in it are embedded again" in note
    assert_same(read(out), first)
    assert run(request(bundle, out, library)) == ([], [])


def test_a_copy_of_output_and_journal_is_as_good(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    embedded(bundle, tmp_path / "x.npz", library)
    (tmp_path / "else").mkdir()
    shutil.copyfile(tmp_path / "x.npz", tmp_path / "else" / "y.npz")  # with another mtime
    shutil.copytree(tmp_path / "x.npz.journal", tmp_path / "else" / "y.npz.journal")
    assert run(request(bundle, tmp_path / "else" / "y.npz", library)) == ([], [])


@pytest.mark.slow
def test_wherever_putting_together_stops_nothing_is_lost(
    bundle: Bundle, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that changes the folder is made to fail, one after the other."""
    out = tmp_path / "x.npz"
    embedded(bundle, out, library / "a", library / "b")
    whole, _ = embedded(bundle, tmp_path / "whole.npz", library / "a", library)
    for name in ("replace", "unlink"):
        for fails_at in range(1, 12):
            interrupted(request(bundle, out, library / "a", library), after=3)
            calls = 0
            real = getattr(Path, name)

            def failing(self: Path, *args: object, **kwargs: object) -> object:
                nonlocal calls
                calls += 1
                if calls == fails_at:  # noqa: B023
                    raise KeyboardInterrupt
                return real(self, *args, **kwargs)  # noqa: B023

            with monkeypatch.context() as patch:
                patch.setattr(Path, name, failing)
                try:
                    embed(request(bundle, out, library / "a", library, prune=True))
                    stopped = False
                except KeyboardInterrupt:
                    stopped = True
            read(out)  # it is there at any time, and whole
            done, _ = run(request(bundle, out, library / "a", library, prune=True))
            assert len(done) <= 2
            assert_same(read(out), whole)
            assert {f for f in left_in(tmp_path) if f.endswith(".tmp")} == set()
            shutil.rmtree(f"{out}.journal")
            out.unlink()
            embedded(bundle, out, library / "a", library / "b")
            if not stopped:
                break


def test_many_interruptions_leave_few_files(
    bundle: Bundle, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = embedded(bundle, tmp_path / "whole.npz", library)
    monkeypatch.setattr("loev_cli.embed.journal._MAX_PARTS", 2)
    for _ in range(4):
        interrupted(request(bundle, tmp_path / "x.npz", library), after=1)
    parts = sorted(p.name for p in (tmp_path / "x.npz.journal").glob("part-*"))
    assert parts == ["part-000004.rows", "part-000005.rows"]
    done, notes = run(request(bundle, tmp_path / "x.npz", library))
    assert (len(done), notes) == (1, [])
    assert_same(read(tmp_path / "x.npz"), whole)


def test_two_names_of_one_output_have_one_journal(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    embedded(bundle, tmp_path / "x.npz", library)
    (tmp_path / "link.npz").symlink_to("x.npz")
    assert run(request(bundle, tmp_path / "link.npz", library)) == ([], [])


def test_the_second_run_at_once_is_refused(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    meta = make_meta(
        bundle,
        subspaces=SUBSPACES,
        hop_n_samples=2000,
        per_window=False,
        backend="auto",
        device="auto",
        precision="fp32",
    )
    with Journal(out, meta):
        match = rf"x\.npz is in use by another loev process \(PID {os.getpid()}\)"
        with pytest.raises(OutputError, match=match):
            embedded(bundle, out, library)
    embedded(bundle, out, library)


def test_a_journal_keeps_rows_to_the_bit(bundle: Bundle, tmp_path: Path) -> None:
    dims = {"a": 3, "b": 2}
    meta = make_meta(
        bundle,
        subspaces=dims,
        hop_n_samples=2000,
        per_window=True,
        backend="auto",
        device="auto",
        precision="fp32",
    )
    rng = np.random.default_rng(0)
    rows = [
        Row(
            f"{i} caf\udce9 \u65e5.wav",
            i / 3,
            i == 1,
            {n: rng.standard_normal((i, d)).astype(np.float32) for n, d in dims.items()},
            np.arange(i, dtype=np.float32),
        )
        for i in range(1, 5)
    ]
    with Journal(tmp_path / "x.npz", meta) as journal:
        for row in reversed(rows):
            journal.add(row, Stamp(row.start_s.size, 2**62))  # type: ignore[union-attr]
    with Journal(tmp_path / "x.npz", meta) as journal:
        for row, expected in zip(journal.merged(), rows, strict=True):
            assert (row.path, row.duration_s, row.silent) == (
                expected.path,
                expected.duration_s,
                expected.silent,
            )
            np.testing.assert_array_equal(row.start_s, expected.start_s)  # type: ignore[arg-type]
            for name, vectors in expected.vectors.items():
                np.testing.assert_array_equal(row.vectors[name], vectors)
            assert journal.stamp(row.path) == Stamp(len(row.vectors["a"]), 2**62)
