"""Labeled excerpts out of Debian packages."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpus import recordings
from corpus.synth import write_audio
from loev_cli.evaluate.manifest import read_manifests
from tests.test_corpus_debian import build, package_in

RATE_HZ = 8000
LABELS = """package,path,start_s,length_s,key,tempo,use
tunes-data,music/a.flac,2.5,3,C major,120.5,fit
tunes-data,music/b.flac,0,60,,90,fit
tunes-data,music/lost.flac,0,3,C major,90,fit
tunes-data,music/a.flac,99,3,C major,90,fit
"""


def ramp(seconds: float) -> np.ndarray:
    """Samples that say when they were played."""
    return np.linspace(0, 0.9, round(seconds * RATE_HZ), dtype=np.float32)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with a package of two tunes, one of them in an archive."""
    root = package_in(tmp_path)
    (root / "usr/games/music").mkdir(parents=True)
    write_audio(root / "usr/games/music/a.flac", ramp(10.0), RATE_HZ)
    packed = io.BytesIO()
    soundfile.write(packed, ramp(4.0), RATE_HZ, format="FLAC")
    with zipfile.ZipFile(root / "usr/games/data.pk3", "w") as archive:
        archive.writestr("sound/music/b.flac", packed.getvalue())
    folder = tmp_path / "packages"
    folder.mkdir()
    build(root, folder)
    return folder


def test_excerpts_with_their_labels(
    packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, out = tmp_path / "labels.csv", tmp_path / "out"
    labels.write_text(LABELS)
    arguments = [str(labels), "--out", str(out), "--packages", str(packages)]
    assert recordings.main(arguments) == 3
    said = capsys.readouterr().err
    assert "music/lost.flac: not in the package" in said and "ends before 99 s" in said
    assert "2 excerpts" in said
    with (out / "manifest.csv").open(newline="") as stream:
        first, second = csv.DictReader(stream)
    assert (first["split"], first["key"], first["tempo"]) == ("train", "C major", "120.5")
    assert (second["split"], second["key"], second["tempo"]) == ("train", "", "90")
    assert first["group"] == second["group"] == "tunes-data"
    a, rate_hz = soundfile.read(out / first["path"])
    assert rate_hz == RATE_HZ and len(a) == 3 * RATE_HZ
    np.testing.assert_allclose(a, ramp(10.0)[round(2.5 * RATE_HZ) :][: len(a)], atol=1e-4)
    assert soundfile.info(out / second["path"]).duration == pytest.approx(4.0)  # as far as it goes
    assert (out / "copyright/tunes-data").read_text() == "License: CC0\n"
    manifest = read_manifests([out / "manifest.csv"])
    assert manifest.column("tempo").values.tolist() == [120.5, 90.0]
    assert {path.name for path in out.iterdir()} == {"audio", "copyright", "manifest.csv"}


def test_rows_of_one_use(packages: Path, tmp_path: Path) -> None:
    labels, out = tmp_path / "labels.csv", tmp_path / "out"
    head, *rows = LABELS.splitlines()
    other = "other-data,x.flac,0,3,,90,fit"
    labels.write_text("\n".join([head, rows[0].replace(",fit", ",test"), other]))
    arguments = [str(labels), "--out", str(out), "--packages", str(packages), "--use", "test"]
    assert recordings.main(arguments) == 0
    with (out / "manifest.csv").open(newline="") as stream:
        assert [row["split"] for row in csv.DictReader(stream)] == ["test"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("package,path", "parcel,path"),
        ("120.5,fit", "120.5,train"),
        ("120.5,fit", "120.5,test"),
        ("tunes-data,music/b", "../tunes,music/b"),
        (",2.5,3,", ",2.5,0,"),
    ],
)
def test_labels_that_make_no_sense(tmp_path: Path, old: str, new: str) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(LABELS.replace(old, new))
    with pytest.raises(SystemExit) as stop:
        recordings.main([str(labels), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2


def test_a_package_that_cannot_be_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    labels = tmp_path / "labels.csv"
    labels.write_text(LABELS)
    assert recordings.main([str(labels), "--out", str(tmp_path / "out")]) == 3
    assert "there is no apt-get here" in capsys.readouterr().err
