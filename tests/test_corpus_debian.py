"""Music out of Debian packages: what is taken, what is left, what is said when it fails."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from corpus import debian
from corpus.synth import write_audio


def package_in(folder: Path) -> Path:
    """The tree of a package to be: its control file and a copyright; skips where none is built."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb: not a Debian")
    root = folder / "tunes-data"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: tunes-data\nVersion: 1\nArchitecture: all\n"
        "Maintainer: x <x@y.z>\nDescription: x\n"
    )
    document = root / "usr/share/doc/tunes-data/copyright"
    document.parent.mkdir(parents=True)
    document.write_text("License: CC0\n")
    return root


def build(root: Path, folder: Path) -> None:
    """Build the package of that tree into a folder."""
    subprocess.run(["dpkg-deb", "--build", root, folder], check=True, capture_output=True)


@pytest.fixture
def deb(tmp_path: Path) -> Path:
    """A package with two tracks of one name, an effect, music too short, and a copyright file."""
    root = package_in(tmp_path)
    noise = 0.1 * np.random.default_rng(0).standard_normal(40 * 16_000).astype(np.float32)
    for name, seconds in {"menu/a.flac": 40, "level/a.flac": 35, "sfx/hit.flac": 1}.items():
        file = root / "usr/share/games/tunes" / name
        file.parent.mkdir(parents=True)
        write_audio(file, noise[: seconds * 16_000], 16_000)
    write_audio(root / "usr/share/games/tunes/menu/hello.wav", noise, 16_000)
    write_audio(root / "usr/share/games/tunes/menu/short.flac", noise[: 20 * 16_000], 16_000)
    build(root, tmp_path)
    return next(tmp_path.glob("*.deb"))


def test_music_is_taken_out_of_a_package(deb: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with debian.unpacked("tunes-data", tmp_path, packages=deb.parent) as tree:
        assert debian.take_music(tree, "tunes-data", out) == 3
        debian.keep_copyright(tree, "tunes-data", out)
    assert (out / "copyright/tunes-data").read_text() == "License: CC0\n"
    assert debian.write_manifest(out, ["tunes-data"]) == 2
    with (out / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [
        "audio/tunes-data/level-a.flac",
        "audio/tunes-data/menu-a.flac",
    ]
    assert [row["duration_s"] for row in rows] == ["35.0", "40.0"]
    assert {row["split"] for row in rows} == {"train"}


def test_a_package_that_cannot_be_had_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert debian.main(["--out", str(tmp_path / "out"), "--package", "nothing"]) == 3
    assert "error: nothing: there is no apt-get here" in capsys.readouterr().err


def test_test_packages_are_not_trained_on() -> None:
    assert not set(debian.TRAIN_PACKAGES) & set(debian.TEST_PACKAGES)
