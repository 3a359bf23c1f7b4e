"""``.lance`` outputs, which are folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from loev_cli.bundle import Bundle
from loev_cli.errors import OutputError, UsageError
from loev_cli.formats import check_output, open_writer, read, read_meta
from loev_cli.formats import rows as rows_of
from tests.test_formats import PATHS, meta_of, no_space, rows, write

lance = pytest.importorskip("lance", reason="the extra 'db' is not installed")


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_lance_opens_it_as_a_dataset(bundle: Bundle, tmp_path: Path) -> None:
    meta = meta_of(bundle, tags=["artist"])
    write(tmp_path / "x.lance", meta)
    dataset = lance.dataset(str(tmp_path / "x.lance"))
    assert dataset.schema.field("pitch").type.list_size == 3
    assert json.loads(dataset.schema.metadata[b"loev"]) == meta
    near = dataset.to_table(
        nearest={"column": "pitch", "q": rows(False)[1].vectors["pitch"], "k": 1}
    )
    assert near["path"].to_pylist() == [PATHS[1]]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_lance_dataset_is_replaced_whole_or_not_at_all(
    bundle: Bundle, tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:  # as on systems that cannot exchange two names at once
        monkeypatch.setattr("sys.platform", "darwin")
    out = tmp_path / "x.lance"
    write(out, meta_of(bundle))
    before = files_below(out)
    with pytest.raises(KeyboardInterrupt), open_writer(str(out), meta_of(bundle)) as writer:
        writer.add(rows(False)[0])
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", no_space)
        with pytest.raises(OutputError, match="No space left"):
            write(out, meta_of(bundle))
    assert files_below(out) == before
    with open_writer(str(out), meta_of(bundle)) as writer:
        writer.add(rows(False)[0])
        writer.commit()
    assert read(out).paths == PATHS[:1]
    assert list(tmp_path.iterdir()) == [out]


def test_only_what_lance_made_is_replaced(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "x.lance"
    out.touch()
    with pytest.raises(UsageError, match="is a file, not a folder"):
        check_output(str(out))
    out.unlink()
    (out / "songs").mkdir(parents=True)
    with pytest.raises(UsageError, match="not a Lance dataset"):
        check_output(str(out))
    (out / "songs").rmdir()
    check_output(str(out))
    for reader in (read, read_meta):
        with pytest.raises(UsageError, match="not a loev embedding file"):
            reader(out)
    with pytest.raises(UsageError, match="no such embedding file"):
        read(tmp_path / "gone.lance")


def test_a_damaged_lance_dataset_is_one_clear_error(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "x.lance"
    write(out, meta_of(bundle))
    rng = np.random.default_rng(0)
    for file in [file for file in out.rglob("*") if file.is_file()]:
        content = file.read_bytes()
        for _ in range(40):
            damaged = bytearray(content)
            damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
            whole = rng.random() < 0.7
            file.write_bytes(damaged if whole else damaged[: rng.integers(len(content))])
            for reader in (read, lambda path: list(rows_of(path))):
                try:
                    reader(out)  # type: ignore[operator]
                except UsageError:
                    continue
        file.write_bytes(content)
