"""Files that cannot be embedded: they are listed, and hurt nobody."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from loev_cli.bundle import Bundle
from loev_cli.embed import Request, embed
from loev_cli.errors import InputError, LoevError
from tests.conftest import RATE_HZ, add_bad_files, music
from tests.embed.common import assert_same, embedded, left_in


def test_bad_files_hurt_nobody(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    good, _ = embedded(bundle, tmp_path / "good.npz", library)
    add_bad_files(library)
    samples = music(4.0)
    samples[-10] = np.nan  # found after windows of it have been encoded
    soundfile.write(library / "a" / "nan.wav", samples, RATE_HZ, "FLOAT")
    file, report = embedded(bundle, tmp_path / "x.npz", library)
    assert_same(file, good)
    assert [failure.path for failure in report.failures] == ["a/nan.wav", "bad.mp3", "empty.wav"]
    listed = (tmp_path / "x.npz.failures.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in listed]
    assert [set(record) for record in records] == [{"path", "stage", "error", "message"}] * 3
    assert [record["stage"] for record in records] == ["decode", "open", "open"]


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_bad_file_whose_name_is_no_utf8_is_listed(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    Path(os.fsdecode(os.fsencode(library) + b"/caf\xe9.mp3")).write_text("no music")
    _, report = embedded(bundle, tmp_path / "x.npz", library)
    (record,) = map(json.loads, (tmp_path / "x.npz.failures.jsonl").read_text().splitlines())
    assert record["path"] == report.failures[0].path == "caf\\xe9.mp3"
    assert record["message"].startswith(f"{library}/caf\\xe9.mp3: ")


def test_the_list_of_failures_goes_when_there_are_none(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    add_bad_files(library)
    out = tmp_path / "x.npz"
    embedded(bundle, out, library)
    for bad in ("bad.mp3", "empty.wav"):
        (library / bad).unlink()
    embedded(bundle, out, library)
    assert left_in(tmp_path) == {"library", "x.npz", "x.npz.journal"}


def test_with_nothing_usable_nothing_is_written(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    add_bad_files(tmp_path / "in")
    out = tmp_path / "x.npz"
    report = embed(Request([str(tmp_path / "in")], str(out), model=str(bundle.path)))
    assert (report.n_done, len(report.failures)) == (0, 2)
    assert left_in(tmp_path) == {"in", "x.npz.failures.jsonl"}
    with pytest.raises(LoevError, match="no audio files in"):
        embed(Request([str(bundle.path)], str(out), model=str(bundle.path)))


def test_strict_stops_at_the_first(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    add_bad_files(library)
    with pytest.raises(InputError, match=r"bad\.mp3|empty\.wav"):
        embedded(bundle, tmp_path / "x.npz", library, strict=True)
    assert left_in(tmp_path) <= {"library", "x.npz.journal"}  # what was done before it is kept


def test_a_track_with_non_finite_vectors_fails_alone(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    samples = np.full(RATE_HZ, 3e38, np.float32)  # finite, but not after a filter
    soundfile.write(library / "huge.wav", samples, RATE_HZ, "FLOAT")
    file, report = embedded(bundle, tmp_path / "x.npz", library)
    assert len(file.paths) == 5
    assert [(f.path, f.stage) for f in report.failures] == [("huge.wav", "encode")]
