"""Key and tempo in the tags of files: written, kept, logged, taken back; the sound stays."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mutagen
import numpy as np
import pytest
from mutagen.id3 import APIC, COMM, ID3, TBPM, TDRC, TIT2, TKEY
from mutagen.mp4 import MP4, MP4FreeForm, MP4Tags

from loev_cli import tagging
from loev_cli.audio import find, load, read_tags
from loev_cli.audio.ffmpeg import content_sha256
from loev_cli.audio.readers import UnreadableError
from loev_cli.embed import Report, Request
from loev_cli.errors import InputError, UsageError
from loev_cli.formats import Row
from loev_cli.row_names import path_of_row
from loev_cli.tagging import Change, LogEntry
from tests.audio.common import write_with_ffmpeg
from tests.conftest import Loev, Outcome, command, environment, write_audio
from tests.embed.common import left_in

SAID = {"title": "Tïtle", "artist": "Ärtist"}
VALUES = {"key": "F#m", "bpm": "124"}


def tagged_by_ffmpeg(name: str, codec: str, **options: object) -> Callable[[Path], Path]:
    return lambda folder: write_with_ffmpeg(
        folder / name,
        codec,
        48000,
        0.5,
        tags=SAID,
        **options,  # type: ignore[arg-type]
    )


def by_soundfile(name: str, **options: object) -> Callable[[Path], Path]:
    return lambda folder: write_audio(folder / name, 0.5, rate_hz=48000, **options)


MAKERS = {
    "mp3, ID3v2.4": tagged_by_ffmpeg("x.mp3", "libmp3lame"),
    "mp3, ID3v2.3": tagged_by_ffmpeg("x.mp3", "libmp3lame", options={"id3v2_version": "3"}),
    "flac": tagged_by_ffmpeg("x.flac", "flac"),
    "ogg flac": tagged_by_ffmpeg("x.oga", "flac", container="ogg"),
    "opus": tagged_by_ffmpeg("x.opus", "libopus", container="opus"),
    "m4a": tagged_by_ffmpeg("x.m4a", "aac"),
    "m4a, index first": tagged_by_ffmpeg("x.m4a", "aac", options={"movflags": "faststart"}),
    "alac": tagged_by_ffmpeg("x.m4a", "alac"),
    "aiff": tagged_by_ffmpeg("x.aiff", "pcm_s16be", options={"write_id3v2": "1"}),
    "wav": tagged_by_ffmpeg("x.wav", "pcm_s16le"),
    "wav, float": by_soundfile("x.wav"),
    "aiff, untagged": by_soundfile("x.aif", format="AIFF"),
    "mp3, untagged": by_soundfile("x.mp3"),
    "flac, untagged": by_soundfile("x.flac"),
    "vorbis": by_soundfile("x.ogg"),
    "opus, untagged": by_soundfile("x.opus", format="OGG", subtype="OPUS"),
    "mp3 by another name": by_soundfile("x.bin", format="MP3"),
}
every_format = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@pytest.fixture
def flac(tmp_path: Path) -> Path:
    return write_audio(tmp_path / "x.flac", 0.5, rate_hz=44100)


def planned(file: Path, *, replace: bool = False, **values: str) -> Change:
    state = tagging.state_of(file)
    return tagging.plan(file.name, file, state, values or VALUES, replace=replace)


def log_entry(change: Change) -> LogEntry:
    return LogEntry(str(change.file), change.old, change.new)


def by_mutagen(file: Path) -> dict[str, str]:
    """Key and tempo as other programs find them."""
    tags = mutagen.File(file).tags  # type: ignore[attr-defined]
    names = {"key": "initialkey", "bpm": "bpm"}
    if isinstance(tags, ID3):
        names = {"key": "TKEY", "bpm": "TBPM"}
    elif isinstance(tags, MP4Tags):
        names = {"key": "----:com.apple.iTunes:initialkey", "bpm": "tmpo"}
    found = {field: tags.get(name) for field, name in names.items()} if tags is not None else {}
    texts = {f: v.text if isinstance(tags, ID3) else v for f, v in found.items() if v is not None}
    return {f: v[0].decode() if isinstance(v[0], bytes) else str(v[0]) for f, v in texts.items()}


# ---------------------------------------------------------------- formats


@every_format
def test_a_round_trip(make: Callable[[Path], Path], tmp_path: Path) -> None:
    file = make(tmp_path)
    sound, content, said = load(file, 48000), content_sha256(file), read_tags(file)
    change = planned(file)
    assert change.old == {"key": (), "bpm": ()}
    tagging.apply(change)
    assert by_mutagen(file) == VALUES if file.suffix != ".bin" else True
    assert planned(file).new == {}
    np.testing.assert_array_equal(load(file, 48000), sound)
    assert (content_sha256(file), read_tags(file)) == (content, said)
    again = planned(file, replace=True, key="8A")
    assert (again.old, again.new) == ({"key": ("F#m",)}, {"key": ("8A",)})
    tagging.apply(again)
    tagging.apply(tagging.plan_undo(log_entry(again)))
    tagging.apply(tagging.plan_undo(log_entry(change)))
    assert tagging._read(file) == {"key": (), "bpm": ()}
    np.testing.assert_array_equal(load(file, 48000), sound)
    assert (content_sha256(file), read_tags(file)) == (content, said)
    assert left_in(tmp_path) == {file.name}


@pytest.mark.parametrize("version", [3, 4])
def test_the_rest_of_an_id3_tag_stays(tmp_path: Path, version: int) -> None:
    file = write_audio(tmp_path / "x.mp3", 0.5, rate_hz=44100)
    tags = ID3()
    tags.add(TIT2(encoding=1, text=["Tïtle", "two"]))
    tags.add(TDRC(encoding=0, text=["1999-05-01"]))
    tags.add(COMM(encoding=0, lang="eng", desc="", text=["a comment"]))
    tags.add(APIC(encoding=0, mime="image/png", type=3, desc="", data=b"picture" * 100))
    if version == 3:
        tags.update_to_v23()
    tags.save(file, v1=2, v2_version=version, v23_sep=None)
    old_tag = b"TAG" + b"By hand".ljust(125, b"\0")
    file.write_bytes(file.read_bytes()[:-128] + old_tag)
    before = ID3(file, translate=False)
    tagging.apply(planned(file))
    after = ID3(file, translate=False)
    assert after.version == before.version == (2, version, 0)
    assert after.pop("TKEY").text == ["F#m"] and after.pop("TBPM").text == ["124"]
    assert {k: repr(v) for k, v in after.items()} == {k: repr(v) for k, v in before.items()}
    assert file.read_bytes().endswith(old_tag)


def test_mp4_names_are_found_in_any_case_and_a_tempo_of_0_is_none(tmp_path: Path) -> None:
    file = write_with_ffmpeg(tmp_path / "x.m4a", "aac", seconds=0.5)
    tags = MP4(file)
    tags["----:com.apple.iTunes:INITIALKEY"] = [MP4FreeForm(b"Am")]
    tags["tmpo"] = [0]
    tags.save()
    change = planned(file)
    assert (change.old, change.new) == ({"bpm": ("0",)}, {"bpm": ("124",)})
    assert change.kept == ("key",)
    replacing = planned(file, replace=True)
    tagging.apply(replacing)
    assert [name for name in MP4(file) if "key" in name.lower()] == [
        "----:com.apple.iTunes:INITIALKEY"
    ]
    tagging.apply(tagging.plan_undo(log_entry(replacing)))
    assert tagging._read(file) == {"key": ("Am",), "bpm": ("0",)}


def test_values_that_are_there_are_kept_unless_replaced(tmp_path: Path) -> None:
    file = write_audio(tmp_path / "x.mp3", 0.5, rate_hz=44100)
    tags = ID3()
    tags.add(TKEY(encoding=3, text=["Gm", "Ünknown"]))
    tags.add(TBPM(encoding=0, text=["174.98"]))
    tags.save(file)
    kept = planned(file)
    assert (kept.new, kept.kept) == ({}, ("key", "bpm"))
    change = planned(file, replace=True)
    tagging.apply(change)
    assert by_mutagen(file) == VALUES
    tagging.apply(tagging.plan_undo(log_entry(change)))
    assert ID3(file)["TKEY"].text == ["Gm", "Ünknown"] and ID3(file)["TBPM"].text == ["174.98"]


# ---------------------------------------------------------------- files


def test_times_permissions_and_links_stay(flac: Path, tmp_path: Path) -> None:
    flac.chmod(0o640)
    os.utime(flac, ns=(1_000_000_000_000_000_007, 1_100_000_000_000_000_009))
    if hasattr(os, "setxattr"):
        os.setxattr(flac, "user.loev", b"kept")
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if is_root:
        os.chown(flac, 1234, 5678)
    link = tmp_path / "link.flac"
    link.symlink_to("x.flac")
    tagging.apply(planned(link))
    status = flac.stat()
    assert status.st_mode & 0o777 == 0o640
    assert status.st_mtime_ns == 1_100_000_000_000_000_009
    assert not hasattr(os, "getxattr") or os.getxattr(flac, "user.loev") == b"kept"
    assert not is_root or (status.st_uid, status.st_gid) == (1234, 5678)
    assert link.is_symlink() and by_mutagen(flac) == VALUES


def test_files_that_are_refused(flac: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.flac"
    other.hardlink_to(flac)
    with pytest.raises(InputError, match=r"x\.flac.*hard links"):
        planned(flac)
    other.unlink()
    flac.chmod(0o444)
    with pytest.raises(InputError, match=r"x\.flac.*write-protected"):
        planned(flac)
    flac.chmod(0o644)
    with pytest.raises(InputError, match=r"x\.mka.*matroska"):
        planned(write_with_ffmpeg(tmp_path / "x.mka", "aac", seconds=0.5))
    (tmp_path / "text.mp3").write_text("no music")
    with pytest.raises(InputError, match=r"text\.mp3"):
        planned(tmp_path / "text.mp3")
    with pytest.raises(InputError, match=r"gone\.mp3"):
        planned(tmp_path / "gone.mp3")


def test_a_file_that_changes_meanwhile_is_left_alone(flac: Path, tmp_path: Path) -> None:
    change = planned(flac)
    mutagen.File(flac, easy=True).save(padding=lambda _: 10_000)  # type: ignore[attr-defined]
    before = flac.read_bytes()
    with pytest.raises(InputError, match=r"x\.flac.*changed"):
        tagging.apply(change)
    assert flac.read_bytes() == before
    gone = planned(flac)
    flac.unlink()
    with pytest.raises(InputError, match=r"x\.flac"):
        tagging.apply(gone)
    assert left_in(tmp_path) == set()


def test_a_file_that_changes_while_it_is_copied(
    flac: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copystat(file: Path, copy: Path) -> None:
        file.write_bytes(b"new")

    change = planned(flac)
    monkeypatch.setattr("shutil.copystat", copystat)
    with pytest.raises(InputError, match="changed"):
        tagging.apply(change)
    assert flac.read_bytes() == b"new" and left_in(tmp_path) == {"x.flac"}


def test_a_copy_whose_sound_differs_is_not_used(
    flac: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(stream: object, *args: object) -> None:
        stream.seek(-2000, 2)  # type: ignore[attr-defined]
        stream.write(bytes(500))  # type: ignore[attr-defined]

    before = flac.read_bytes()
    monkeypatch.setattr(tagging, "write_fields", damaged)
    with pytest.raises(InputError, match="sound"):
        tagging.apply(planned(flac))
    assert flac.read_bytes() == before and left_in(tmp_path) == {"x.flac"}


def test_a_copy_whose_other_tags_differ_is_not_used(flac: Path, tmp_path: Path) -> None:
    """Of ID3 before FLAC players take what Vorbis comments leave out, until there are some."""
    tags = ID3()
    tags.add(TIT2(encoding=3, text=["title"]))
    tags.save(tmp_path / "tag")
    before = (tmp_path / "tag").read_bytes() + flac.read_bytes()
    flac.write_bytes(before)
    with pytest.raises(InputError, match="other tags"):
        tagging.apply(planned(flac))
    assert flac.read_bytes() == before


@every_format
def test_the_digest_is_of_the_sound(make: Callable[[Path], Path], tmp_path: Path) -> None:
    file = make(tmp_path)
    content = content_sha256(file)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 0x55
    file.write_bytes(raw)
    try:
        assert content_sha256(file) != content
    except UnreadableError:  # the only page of an Ogg file
        assert file.suffix in (".oga", ".opus")


def test_a_crash_before_the_rename_leaves_the_file_as_it_was(flac: Path, tmp_path: Path) -> None:
    before, log = flac.read_bytes(), tmp_path / "log.jsonl"
    code = f"""
import os, signal
from pathlib import Path
from loev_cli import tagging
file, log = Path({str(flac)!r}), Path({str(log)!r})
change = tagging.plan("x", file, tagging.state_of(file), {VALUES!r})
tagging.write_log(log, [change])
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
tagging.apply(change)
"""
    done = subprocess.run([command()[0], "-c", code], env=environment())
    assert done.returncode == -signal.SIGKILL
    assert flac.read_bytes() == before
    (left,) = left_in(tmp_path) - {"x.flac", "log.jsonl"}
    assert left.startswith(".x.flac.") and left.endswith(".tmp")
    (entry,) = tagging.read_log(log)
    assert tagging.plan_undo(entry).new == {}
    tagging.apply(planned(flac))
    tagging.apply(tagging.plan_undo(entry))
    assert by_mutagen(flac) == {}


# ---------------------------------------------------------------- values and the log


def test_values_of_annotations() -> None:
    said = {
        "key": "F# minor", "mode": "minor", "key_confidence": 0.9,
        "bpm": 123.6, "bpm_confidence": 0.4,
    }  # fmt: skip
    assert tagging.values_of(said) == VALUES
    assert tagging.values_of(said, in_camelot=True)["key"] == "11A"
    assert tagging.values_of(said, min_confidence=0.5) == {"key": "F#m"}
    nan = math.nan
    silent = {"key": "", "mode": "", "key_confidence": nan, "bpm": nan, "bpm_confidence": nan}
    assert tagging.values_of(silent) == tagging.values_of({}) == {}


def test_undo_keeps_what_was_changed_since(flac: Path) -> None:
    change = planned(flac)
    tagging.apply(change)
    tagging.apply(planned(flac, replace=True, key="Gm"))
    undo = tagging.plan_undo(log_entry(change))
    assert (undo.new, undo.kept) == ({"bpm": ()}, ("key",))
    tagging.apply(undo)
    assert by_mutagen(flac) == {"key": "Gm"}


def test_the_log_keeps_any_name_and_any_value(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xff\n.flac")
    old, new = {"key": ("\udcff", "Ä\u2028")}, {"key": ("8A",)}
    tagging.write_log(tmp_path / "log", [Change("x", file, (0, 0, 0, 0), old, new)])
    (entry,) = tagging.read_log(tmp_path / "log")
    assert (path_of_row(entry.path), entry.old, entry.new) == (str(file), old, new)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"loev_tags": "x"}',
        '{"loev_tags": 2}',
        '{"loev_tags": 1}\n{"path": 1, "old": {}, "new": {}}',
        '{"loev_tags": 1}\n{"path": "x", "old": {"key": "Am"}, "new": {"key": ["Am"]}}',
        '{"loev_tags": 1}\n{"path": "x", "old": {"key": []}, "new": {}}',
        '{"loev_tags": 1}\n{"path": "x"}',
    ],
)
def test_what_is_no_log(tmp_path: Path, text: str) -> None:
    (tmp_path / "log").write_text(text)
    with pytest.raises(UsageError, match="log"):
        tagging.read_log(tmp_path / "log")
    with pytest.raises(UsageError, match="none"):
        tagging.read_log(tmp_path / "none")


# ---------------------------------------------------------------- the command


def answers(request: Request, on_row: Callable[[Row], None], **_: object) -> Report:
    """What a model says of any file, without listening to it."""
    sources = find(request.inputs)
    said = {"key": "F# minor", "key_confidence": 0.9, "bpm": 123.6, "bpm_confidence": 0.6}
    for source in sources:
        on_row(Row(source.path, 2.0, False, {}, annotations=said))
    return Report(len(sources), len(sources), (), 0.0, 0.0)


@pytest.fixture
def tag(loev: Loev, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """``loev annotate`` in the folder of the files, with the answers above."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("loev_cli.embed.annotate", answers)
    return lambda *arguments: loev("annotate", *arguments)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two files that can be tagged, and one that cannot."""
    folder = tmp_path / "music"
    write_audio(folder / "a.flac", 0.5, rate_hz=44100)
    write_audio(folder / "b.mp3", 0.5, rate_hz=44100, seed=1)
    write_with_ffmpeg(folder / "c.mka", "aac", seconds=0.5)
    return folder


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A person at a terminal types ``text``."""
    terminal = io.TextIOWrapper(io.BytesIO(text.encode()))
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", terminal)


def test_what_a_model_hears_is_written(loev: Loev, files: Path, tmp_path: Path) -> None:
    arguments = ("--write-tags", "--yes", "--min-confidence", "0", "--workers", "1")
    done = loev("annotate", files, *arguments, "--undo-log", tmp_path / "log", "--format", "csv")
    assert done.code == 3 and "c.mka" in done.err
    table = list(csv.DictReader(io.StringIO(done.out)))
    assert {record["path"] for record in table} == {"a.flac", "b.mp3"}
    for record in table:
        assert by_mutagen(files / record["path"])[record["field"]] == record["new"]


def test_it_shows_asks_and_writes(
    tag: Callable[..., Outcome], files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (files, "--write-tags", "--undo-log", "log.jsonl")
    shown = tag(*arguments)
    assert shown.code == 2 and "--yes" in shown.lines[-1]
    assert [line.split() for line in shown.out.splitlines()] == [
        ["field", "old", "new", "path"],
        *([field, VALUES[field], name] for name in ("a.flac", "b.mp3") for field in VALUES),
    ]
    answer(monkeypatch, "n\n")
    declined = tag(*arguments)
    assert declined.code == 3 and "4 values in 2 files? [y/N]" in declined.err
    assert by_mutagen(files / "a.flac") == {} and left_in(tmp_path) == {"music"}
    answer(monkeypatch, "y\n")
    written = tag(*arguments)
    assert written.code == 3 and "c.mka" in written.err and "matroska" in written.err
    assert "4 values in 2 files written" in written.lines[-1]
    assert written.out == shown.out
    assert by_mutagen(files / "a.flac") == by_mutagen(files / "b.mp3") == VALUES
    logged = [Path(entry.path).name for entry in tagging.read_log(Path("log.jsonl"))]
    assert logged == ["a.flac", "b.mp3"]
    again = tag(files, "--write-tags", "--yes")
    assert again.code == 3 and "nothing to write" in again.err and again.out == ""
    assert left_in(tmp_path) == {"music", "log.jsonl"}


def test_a_list_for_programs_and_undo(
    tag: Callable[..., Outcome], files: Path, tmp_path: Path
) -> None:
    (files / "c.mka").unlink()
    sure = ("--camelot", "--min-confidence", "0.7")
    done = tag(files, "--write-tags", "--yes", *sure, "--format", "jsonl", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert [json.loads(line) for line in done.out.splitlines()] == [
        {"path": name, "field": "key", "old": None, "new": "11A"} for name in ("a.flac", "b.mp3")
    ]
    (log,) = tmp_path.glob("loev-tags-*.jsonl")
    kept = tag(files, "--write-tags", "--yes", "--min-confidence", "0.7", "--undo-log", "other")
    assert kept.code == 0 and "2 values kept" in kept.err and "2 values of less" in kept.err
    (files / "b.mp3").rename(tmp_path / "b.mp3")
    undone = tag("--undo", log, "--yes")
    assert undone.code == 3 and "b.mp3" in undone.err and undone.out.count("a.flac") == 1
    (tmp_path / "b.mp3").rename(files / "b.mp3")
    assert tag("--undo", log, "--yes").code == 0
    assert by_mutagen(files / "a.flac") == by_mutagen(files / "b.mp3") == {}
    assert "nothing to write" in tag("--undo", log).err


def test_an_interrupted_run_says_how_to_take_it_back(
    tag: Callable[..., Outcome], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(copy: Path, *_: object) -> None:
        if copy.name.startswith(".b."):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(tagging, "_be_like", interrupted)
    done = tag(files, "--write-tags", "--yes", "--undo-log", "log")
    assert done.code == 143 and "2 values in 1 file written; loev annotate --undo log" in done.err
    assert left_in(files) == {"a.flac", "b.mp3", "c.mka"}
    assert tag("--undo", "log", "--yes").code == 0
    assert by_mutagen(files / "a.flac") == {}


def test_a_link_to_a_file_is_the_file(tag: Callable[..., Outcome], files: Path) -> None:
    (files / "c.mka").unlink()
    (files / "d.mp3").symlink_to("b.mp3")
    done = tag(files, "--write-tags", "--yes")
    assert done.code == 0 and "4 values in 2 files written" in done.err


def test_one_file_that_fails_does_not_stop_the_others(
    tag: Callable[..., Outcome], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        tagging, "_be_like", lambda copy, *_: full() if copy.name.startswith(".a.") else None
    )
    arguments = ("--write-tags", "--yes")
    done = tag(files / "a.flac", files / "b.mp3", *arguments)
    assert done.code == 3 and "a.flac: tags cannot be written: No space" in done.err
    assert by_mutagen(files / "a.flac") == {} and by_mutagen(files / "b.mp3")
    assert left_in(files) == {"a.flac", "b.mp3", "c.mka"}
    assert tag(files / "a.flac", *arguments, "--strict").code == 1


def test_what_is_refused(tag: Callable[..., Outcome], files: Path, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("x")
    for arguments, said in (
        (["https://x.example/a.mp3", "--write-tags"], "https://x.example/a.mp3"),
        (["-", "--write-tags"], "standard input"),
        ([files, "--write-tags", "--undo-log", "log.jsonl"], "log.jsonl exists"),
        ([files, "--write-tags", "--undo-log", "none/log.jsonl"], "none"),
        ([files, "--write-tags", "--format", "m3u"], "playlist"),
        ([files, "--camelot"], "--write-tags"),
        ([files, "--yes"], "--write-tags"),
        ([files, "--undo", "log.jsonl"], "--undo"),
        (["--undo", "log.jsonl"], "log.jsonl is not a log"),
        ([], "INPUT"),
    ):
        done = tag(*arguments)
        assert done.code == 2 and said in done.err and len(done.lines) == 1, arguments


def test_without_mutagen(
    tag: Callable[..., Outcome], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mutagen", None)
    done = tag(files, "--write-tags", "--yes")
    assert done.code == 2 and "loev-cli[tags]" in done.err
