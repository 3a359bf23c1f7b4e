"""Excerpts of long recordings: where they lie, what they keep, what is passed over."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpus import excerpts
from corpus.synth import write_audio

RATE_HZ = 8000


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A ramp of 10 s, one of 3 s, a file that is no audio, and one of another split."""
    (tmp_path / "in").mkdir()
    ramp = np.linspace(0, 0.9, 10 * RATE_HZ, dtype=np.float32)
    write_audio(tmp_path / "in/long.flac", ramp, RATE_HZ)
    write_audio(tmp_path / "in/short.flac", ramp[: 3 * RATE_HZ], RATE_HZ)
    (tmp_path / "in/broken.flac").write_bytes(b"no audio")
    write_audio(tmp_path / "in/kept-aside.flac", ramp, RATE_HZ)
    file = tmp_path / "in/manifest.csv"
    file.write_text(
        "path,split,group,package,duration_s\n"
        "long.flac,train,piece,games,10\n"
        "short.flac,train,,games,3\n"
        "broken.flac,train,,games,10\n"
        "kept-aside.flac,test,,games,10\n"
    )
    return file


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_excerpts_lie_evenly_and_keep_their_row(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--clip-s", "4", "--per-track", "2", "--split", "train"]
    assert excerpts.main([str(manifest), "--out", str(out), *arguments]) == 0
    rows = rows_of(out)
    assert [row["path"] for row in rows] == ["audio/00000_e0.flac", "audio/00000_e1.flac"]
    assert {(r["group"], r["split"], r["package"]) for r in rows} == {("piece", "train", "games")}
    assert "duration_s" not in rows[0]  # it was the whole recording's
    firsts = []
    for row in rows:
        samples, rate_hz = soundfile.read(out / row["path"])
        assert (len(samples), rate_hz) == (4 * RATE_HZ, RATE_HZ)
        firsts.append(samples[0] / 0.9 * 10)  # the ramp tells the time
    # 2 s are left over: a gap of 2/3 s before, between and behind.
    assert firsts == pytest.approx([2 / 3, 2 * 2 / 3 + 4], abs=0.01)
    said = capsys.readouterr().err
    assert "short.flac: shorter than 4 s" in said
    assert "broken.flac" in said
    assert "2 excerpts, 2 recordings gave none" in said


def test_one_excerpt_is_the_middle_and_a_piece_without_a_group_is_one(
    manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert excerpts.main([str(manifest), "--out", str(out), "--clip-s", "2"]) == 0
    rows = rows_of(out)
    assert [row["group"] for row in rows] == ["piece", "short.flac", "kept-aside.flac"]
    samples, _ = soundfile.read(out / rows[0]["path"])
    assert samples[0] / 0.9 * 10 == pytest.approx(4, abs=0.01)


@pytest.mark.parametrize(
    ("header", "arguments"),
    [
        ("file,split\n", []),
        ("path\n", ["--split", "train"]),
        ("path\n", ["--clip-s", "0"]),
        ("path\n", ["--per-track", "0"]),
    ],
)
def test_what_cannot_be_done_is_refused(header: str, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(header)
    with pytest.raises(SystemExit, match="2"):
        excerpts.main([str(tmp_path / "m.csv"), "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_is_no_text_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.csv").write_bytes(b"path\n\xff\xfe.flac\n")
    with pytest.raises(SystemExit, match="2"):
        excerpts.main([str(tmp_path / "m.csv"), "--out", str(tmp_path / "out")])
    assert "cannot read" in capsys.readouterr().err
