"""Labels on which estimators agree."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from corpus import agreed
from corpus.agreed import Estimates
from loev_cli.errors import InputError


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        (("C major", "C major", "C major"), "C major"),
        (("C# minor", "Db minor", "C# minor"), "Db minor"),
        (("C major", "C major", "A minor"), ""),
    ],
)
def test_a_key_needs_all(keys: tuple[str, ...], key: str) -> None:
    assert agreed.agreed_key(Estimates(keys, ())) == key


@pytest.mark.parametrize(
    ("bpm", "other", "tempo"),
    [((100.0, 50.0), 102.0, "101.00"), ((50.0, 200.0), 100.0, ""), ((100.0,), None, "")],
)
def test_a_tempo_needs_two_within_three_percent(
    bpm: tuple[float, ...], other: float | None, tempo: str
) -> None:
    assert agreed.agreed_tempo(Estimates((), bpm), other) == tempo


def test_a_manifest_of_what_is_agreed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {
        "a.flac": Estimates(("D major",) * 3, (90.0, 45.0)),
        "b.flac": Estimates(("D major", "G major", "D major"), (90.0, 45.0)),
    }

    def estimate(file: Path) -> Estimates:
        if file.name not in said:
            raise InputError("it is gone", stage="open")
        return said[file.name]

    monkeypatch.setattr(agreed, "by_essentia", estimate)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        "path,split,group,package\na.flac,train,1,p\nb.flac,train,2,p\nc.flac,train,3,p\n"
    )
    (tmp_path / "cnn.csv").write_text("path,bpm\na.flac,90.5\nb.flac,180\n")
    out = tmp_path / "agreed.csv"
    arguments = [str(manifest), "--tempo-cnn", str(tmp_path / "cnn.csv"), "--out", str(out)]
    assert agreed.main(arguments) == 3
    assert "left out: c.flac" in capsys.readouterr().err
    with out.open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row == {
        "path": "a.flac",
        "key": "D major",
        "tempo": "90.25",
        "split": "train",
        "group": "p",
    }
