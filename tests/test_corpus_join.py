"""Several manifests as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpus import join


def test_paths_are_relative_and_groups_stay_apart(tmp_path: Path) -> None:
    for name, columns in {"a": "path,key,split,group", "b": "path,split,group,key"}.items():
        (tmp_path / name).mkdir()
        row = {"path": "audio/x.flac", "key": "C major", "split": "train", "group": "1"}
        line = ",".join(row[column] for column in columns.split(","))
        (tmp_path / name / "manifest.csv").write_text(f"{columns}\n{line}\n")
    out = tmp_path / "lists" / "all.csv"
    out.parent.mkdir()
    assert join.main([str(out), *(str(tmp_path / n / "manifest.csv") for n in "ab")]) == 0
    assert out.read_text() == (
        "path,split,group,track,timbre\n"
        "../a/audio/x.flac,train,a/1,,\n../b/audio/x.flac,train,b/1,,\n"
    )


def test_tracks_stay_apart_and_instruments_do_not(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        rows = "path,split,track,timbre\nx.flac,train,001_a0,7\n"
        (tmp_path / name / "manifest.csv").write_text(rows)
    out = tmp_path / "all.csv"
    assert join.main([str(out), *(str(tmp_path / n / "manifest.csv") for n in "ab")]) == 0
    assert [line.split(",")[3:] for line in out.read_text().splitlines()[1:]] == [
        ["a/001_a0", "7"],
        ["b/001_a0", "7"],
    ]


def test_a_manifest_without_splits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,key\nx.flac,C major\n")
    with pytest.raises(SystemExit, match="2"):
        join.main([str(tmp_path / "all.csv"), str(tmp_path / "m.csv")])
    assert not (tmp_path / "all.csv").exists()
