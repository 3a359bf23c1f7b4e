"""Manifests: what is understood, and the one line that says what is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loev_cli.errors import UsageError
from loev_cli.evaluate.manifest import Manifest, check_files, read_manifests, recognise, split
from loev_cli.train.data import listing
from tests.evaluate.conftest import write_csv

Make = Callable[..., Manifest]


@pytest.mark.parametrize(
    ("name", "cells", "kind"),
    [
        ("key", ["C major"], "key"),
        ("tempo", ["120"], "tempo"),
        ("year", ["1", "2", "1"], "class"),
        ("year", [str(i) for i in range(40)], "number"),
        ("energy", ["0.5", "", "1"], "number"),
        ("mood", ["a;b", "c"], "multilabel"),
        ("mood", ["a", "b|c"], "multilabel"),
        ("genre", ["a", "b, c"], "class"),
    ],
)
def test_kinds_are_recognised(name: str, cells: list[str], kind: str) -> None:
    assert recognise(name, cells) == kind


def test_labels_of_every_kind(manifest_of: Make) -> None:
    made = manifest_of(
        key=["A minor", "", "C"],
        tempo=["90", "120.5", ""],
        mood=["a;b", "", "b"],
        n=["1.5", "2", "3"],
    )
    key, tempo, mood = made.column("key"), made.column("tempo"), made.column("mood")
    assert key.values.tolist() == [21, -1, 0] and key.known.tolist() == [True, False, True]
    assert tempo.values[:2].tolist() == [90, 120.5] and np.isnan(tempo.values[2])
    assert mood.classes == ("a", "b") and mood.values.tolist() == [[1, 1], [0, 0], [0, 1]]
    assert made.column("n", "class").classes == ("1.5", "2", "3")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"tempo": ["90", "nan"]}, r"manifest.csv line 3: 'tempo' is NaN"),
        ({"tempo": ["90", "fast"]}, r"line 3: 'fast' in column 'tempo' is not a number"),
        ({"tempo": ["90", "-1"]}, r"line 3: '-1' in column 'tempo' is not a tempo in BPM, above 0"),
        (
            {"key": ["C major", "H minor"]},
            r"line 3: 'H minor' in column 'key' is not a valid key name",
        ),
        ({"key": ["nan", "C"]}, r"line 2: 'key' is NaN"),
        ({"key": ["C", "C major"]}, r"column 'key' has one value only, 'C major', so it cannot"),
        ({"tempo": ["90", "90"]}, r"column 'tempo' has one value only, '90'"),
        ({"genre": ["a", "a"]}, r"no label column"),
    ],
)
def test_bad_labels_are_one_line(
    manifest_of: Make, columns: dict[str, Sequence[str]], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        manifest_of(**columns).columns([])
    assert "\n" not in str(error.value)


def test_columns_that_say_nothing_are_noted_and_those_asked_for_are_errors(
    manifest_of: Make,
) -> None:
    made = manifest_of(
        group=[1, 1, 2, 2, 3, 3],
        genre=["a", "b"] * 3,
        one=["x"] * 6,
        song=[701, 701, 702, 702, 90000, 90000],
        title=list("abcdef"),
    )
    columns, notes = made.columns([])
    assert [column.name for column in columns] == ["genre"]
    assert len(notes) == 3 and "'one' left out: it has one value only" in notes[0]
    assert "needs two classes" in " ".join(notes)
    with pytest.raises(UsageError, match="column 'one' has one value only"):
        made.columns(["genre", "one"])
    with pytest.raises(UsageError, match=r"no column 'gendre' \(did you mean 'genre'\?"):
        made.columns(["gendre"])
    with pytest.raises(UsageError, match="unknown kind 'klass'"):
        made.columns(["genre:klass"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file": ["a"]}, r"no column 'path' \(it has file\)"),
        ({"path": []}, "no tracks in "),
        ({"path": ["a.wav", ""]}, "line 3: 'path' is empty"),
        ({"path": ["a.wav", "./a.wav"], "key": ["C", "D"]}, "line 3: .*a.wav is also in .*line 2"),
        ({"path": ["a", "b"], "split": ["train", "dev"]}, "line 3: unknown split 'dev'"),
        (
            {"path": ["a", "b"], "split": ["train", "test"], "group": ["g", "g"]},
            "line 3: group 'g' is in split 'test', and in 'train' in .*line 2",
        ),
    ],
)
def test_bad_manifests_are_one_line(
    tmp_path: Path, columns: dict[str, Sequence[str]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read_manifests([write_csv(tmp_path / "m.csv", columns)])


def test_no_manifest_and_no_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no manifest"):
        read_manifests([tmp_path / "none.csv"])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UsageError, match="is not a manifest"):
        read_manifests([tmp_path / "x.json"])
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(UsageError, match="cannot read"):
        read_manifests([tmp_path / "bad.parquet"])
    (tmp_path / "long.csv").write_text("path,key\na.wav,C,extra\n")
    with pytest.raises(UsageError, match="line 2: more cells than"):
        read_manifests([tmp_path / "long.csv"])


def test_labels_for_files_that_are_not_there(manifest_of: Make) -> None:
    with pytest.raises(UsageError, match=r"line 2: no file .*0\.wav, and 2 more like it"):
        check_files(manifest_of(key=["C", "D", "E"]))


def test_parquet_says_the_same(tmp_path: Path) -> None:
    table = pa.table(
        {
            "path": ["a.wav", "b.wav"],
            "tempo": [90.0, 120.5],
            "mood": [["x", "y"], ["x"]],
            "year": pa.array([1990, None], pa.int64()),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    made = read_manifests([tmp_path / "m.parquet"])
    assert made.cells == {"tempo": ["90", "120.5"], "mood": ["x;y", "x"], "year": ["1990", ""]}
    assert made.places[1].endswith("m.parquet row 2")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_training_and_evaluation_read_a_manifest_by_one_rule(tmp_path: Path, suffix: str) -> None:
    columns = {
        "path": ["a.wav", "b.wav", "c.wav", "./a.wav", "d.wav"],
        "split": ["Train", "TEST", "", "train", ""],
        "group": ["1", "2", "2", "1", ""],
        "key": ["C", "D", "E", "C", ""],
    }
    file = write_csv(tmp_path / "m.csv", columns)
    if suffix == ".parquet":
        columns["key"][-1] = None  # type: ignore[call-overload]
        file = tmp_path / "m.parquet"
        pq.write_table(pa.table(columns), file)
    judged, trained = read_manifests([file]), listing(str(file))
    assert judged.files == [row.path for row in trained]
    assert judged.paths == ["a.wav", "b.wav", "c.wav", "d.wav"]
    assert judged.splits.tolist() == ["train", "test", "test", ""]
    assert [row.split for row in trained] == ["train", "test", "test", None]
    assert [row.group for row in trained] == ["1", "2", "2", None]
    assert judged.cells == {"key": ["C", "D", "E", ""]}


def test_several_manifests_are_one(tmp_path: Path) -> None:
    for name, key in (("a", "C"), ("b", "D")):
        (tmp_path / name).mkdir()
        write_csv(tmp_path / name / "m.csv", {"path": ["x.wav"], "key": [key], name: ["1"]})
    made = read_manifests([tmp_path / "a" / "m.csv", tmp_path / "b" / "m.csv"])
    assert [file.parent.name for file in made.files] == ["a", "b"]
    assert made.cells == {"key": ["C", "D"], "a": ["1", ""], "b": ["", "1"]}


def test_folds_keep_groups_together_and_judge_every_track_once(manifest_of: Make) -> None:
    made = manifest_of(key=["C"] * 60, group=[i // 3 for i in range(60)])
    splits = split(made, n_folds=4, seed=3)
    assert splits.judged.tolist() == list(range(60))
    for fold in splits.folds:
        parts = [set(made.groups[rows]) for rows in (fold.train, fold.val, fold.test)]
        assert all(parts) and sum(map(len, parts)) == len(set.union(*parts)) == 20


def test_the_split_of_the_manifest(manifest_of: Make) -> None:
    names = ["train"] * 10 + ["val"] * 3 + ["test"] * 4 + [""]
    made = manifest_of(key=["C"] * 18, split=names)
    (fold,) = split(made).folds
    assert [len(rows) for rows in (fold.train, fold.val, fold.test)] == [10, 3, 4]
    assert len(split(made, n_folds=3).folds) == 3
    made = manifest_of(key=["C"] * 14, split=["train"] * 10 + ["test"] * 4)
    (fold,) = split(made).folds
    assert [len(rows) for rows in (fold.train, fold.val, fold.test)] == [8, 2, 4]
    made = manifest_of(key=["C"] * 14, split=["val"] * 10 + ["test"] * 4)
    assert split(made).notes == ("the manifest's split has no train rows, so it is not used",)


def test_fewer_tracks_than_folds(manifest_of: Make) -> None:
    made = manifest_of(key=["C"] * 4)
    with pytest.raises(UsageError, match=r"5 folds need 5 tracks, the manifest has 4 \(--folds 4"):
        split(made)
    made = manifest_of(key=["C"] * 8, group=[1, 2] * 4)
    with pytest.raises(UsageError, match="5 folds need 5 groups of tracks, the manifest has 2"):
        split(made)
    with pytest.raises(UsageError, match="2 folds are too few"):
        split(made, n_folds=2)
