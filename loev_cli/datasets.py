"""Manifests of the data sets of the field: from mirdata loaders (extra mir), and from JAMS files.

    rows_of_mirdata(dataset)       a row per track of a mirdata.core.Dataset
    rows_of_jams(folder, audio)    a row per .jams file, with the audio file of the same stem
    write_manifest(rows, out)      the CSV that train, evaluate and compare read (manifest.py)

Labels become one cell per track. A key or tempo that changes within a track is no label of the
track: of several keys, or keys that are not major or minor, the cell is empty; of several tempi it
is the one with the highest confidence. Lists of tags are joined by ``;``.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loev_cli.audio import find
from loev_cli.errors import UsageError, did_you_mean, known_names, needs_extra
from loev_cli.manifest import OWN_COLUMNS, SPLITS
from loev_cli.music_keys import KEYS, parse_key
from loev_cli.storage.atomic import write_own
from loev_cli.storage.bounded import DATA_ERRORS, in_one_line, parse_json, read_bytes

Row = dict[str, str]  # column -> cell; ``path`` is absolute

# What loaders of mirdata call what they know of a track, as far as it is one value per track.
LABELS = (
    *("key", "mode", "tempo", "tempo_v2", "bpm", "genre", "genres", "style", "tags", "instrument"),
    *("artist", "artists", "artist_id", "album", "album_id"),
)
# By which a track and others of its kind must not be divided: the first that a data set has.
GROUPS = ("artist_id", "artist", "artists", "album_id", "album")
_SPLITS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_TEMPI = ("tempo", "bpm")
_NAMESPACES = {"key_mode": "key", "tempo": "tempo"}  # of JAMS
_JAMS = ".jams"
_MAX_JAMS_N_BYTES = 64 << 20


def open_mirdata(name: str, data_home: Path, version: str = "default") -> Any:
    """A data set that lies in ``data_home``, as mirdata's own ``download()`` leaves it.

    Raises:
        UsageError: mirdata has no such data set or version, or its index is not there.
        MissingExtraError: without mirdata.
    """
    with needs_extra("reading a data set by mirdata", "mir"):
        import mirdata
    known = mirdata.list_datasets()
    if name not in known:
        raise UsageError(
            f"mirdata has no data set '{name}'",
            hint=did_you_mean(name, known, cutoff=0.4) + "see mirdata.list_datasets()",
        )
    if not data_home.is_dir():
        raise UsageError(f"no folder {data_home}")
    try:
        dataset = mirdata.initialize(name, data_home=str(data_home), version=version)
    except ValueError as error:
        raise UsageError(in_one_line(error)) from error
    if not Path(dataset.index_path).is_file():
        raise UsageError(
            f"mirdata has not fetched its index of {name}",
            hint=f"python -c \"import mirdata; mirdata.initialize('{name}').download(['index'])\"",
        )
    return dataset


def rows_of_mirdata(
    dataset: Any,
    *,
    labels: Sequence[str] = (),
    group: str | None = None,
    problems: Counter[str] | None = None,
) -> Iterator[Row]:
    """The tracks of a data set, whether or not their audio is there.

    Args:
        dataset: a ``mirdata.core.Dataset``.
        labels: further attributes of its tracks to write, beside those of ``LABELS`` that it has.
        group: the attribute by which tracks belong together; default the first of ``GROUPS``.
        problems: counts, per attribute, the tracks it could not be read of.

    Raises:
        UsageError: its tracks have no such attribute, or no audio of their own.
    """
    problems = Counter() if problems is None else problems
    split_of = _published_splits(dataset)
    checked = False
    for track_id in dataset.track_ids:
        track = dataset.track(track_id)
        if not checked:
            names = [name for name in dir(track) if not name.startswith("_")]
            for name in (*labels, *([group] if group else ()), "audio_path"):
                if name not in names:
                    raise UsageError(
                        f"tracks of {dataset.name} have no '{name}'",
                        hint=known_names(name, names, "they have"),
                    )
            checked = True
        cells: dict[str, str] = {}
        for name in dict.fromkeys((*LABELS, *labels, *([group] if group else ()))):
            cells |= _cells(name, _value(track, name, problems))
        cells |= {"split": split_of[track_id]} if track_id in split_of else {}
        path = _value(track, "audio_path", problems)
        if path:
            yield _row(str(path), cells, group)


def _published_splits(dataset: Any) -> dict[str, str]:
    """Track -> the name of its split, of data sets that were published with a split."""
    if not hasattr(type(dataset), "get_track_splits"):
        return {}
    try:
        splits = dataset.get_track_splits()
    except (NotImplementedError, OSError, *DATA_ERRORS, AttributeError):
        return {}
    return {track_id: str(name) for name, ids in splits.items() for track_id in ids}


def _value(track: Any, name: str, problems: Counter[str]) -> Any:
    """An attribute of a track; None where the loader has none, or cannot read it."""
    if not hasattr(type(track), name) and name not in vars(track):
        return None
    try:
        return getattr(track, name)
    except (OSError, *DATA_ERRORS, AttributeError):
        pass
    try:  # mirdata 1.0 reads GTZAN's tempi by float() of an array, an error since NumPy 2.4
        return float(Path(getattr(track, f"{name}_path")).read_text(encoding="utf-8"))
    except (OSError, *DATA_ERRORS, AttributeError):
        problems[name] += 1
        return None


def _cells(name: str, value: Any) -> Row:
    """An attribute as cells of a manifest; none if it is no label of a whole track."""
    if isinstance(value, Mapping):  # such as genres and sub-genres
        return {k: v for key, each in value.items() for k, v in _cells(str(key), each).items()}
    if hasattr(value, "keys") and hasattr(value, "key_unit"):  # mirdata's KeyData
        value = value.keys
    elif hasattr(value, "tempos"):  # and TempoData
        tempi, sure = list(value.tempos), value.confidence
        value = tempi[0 if sure is None else int(sure.argmax())] if tempi else None
    if name == "key":
        return {name: _key(value)}
    if name in _TEMPI or name.startswith("tempo_"):
        return {name: _tempo(value)}
    if isinstance(value, str):
        return {name: " ".join(value.split())}
    if isinstance(value, bool | int | float):
        return {name: f"{value:g}" if isinstance(value, float) else str(value)}
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return {name: ";".join(value)}
    return {}


def _key(value: Any) -> str:
    """The one key that is meant; "" for none, several, or other modes than major and minor."""
    keys = {parse_key(str(each)) for each in ([value] if isinstance(value, str) else value or ())}
    key = keys.pop() if len(keys) == 1 else None
    return "" if key is None else KEYS[key]


def _tempo(value: Any) -> str:
    try:
        bpm = float(value)
    except (TypeError, ValueError):
        return ""
    return f"{bpm:g}" if math.isfinite(bpm) and bpm > 0 else ""


def _row(path: str, cells: Row, group: str | None) -> Row:
    cells = dict(cells)
    mode = cells.get("mode", "").lower()
    if cells.get("key") and mode in ("major", "minor"):  # in an attribute of its own
        cells["key"] = _key(f"{cells['key'].split()[0]} {mode}")
    split = cells.pop("split", "").lower()
    split = _SPLITS.get(split, split)
    names = [group] if group else GROUPS
    return {
        "path": path,
        "split": split if split in SPLITS else "",
        "group": next((cells[name] for name in names if cells.get(name)), ""),
        **cells,
    }


def rows_of_jams(folder: Path, audio: Path) -> Iterator[Row]:
    """The tracks of a folder of JAMS files, searched recursively.

    ``key_mode`` and ``tempo`` become the labels ``key`` and ``tempo``, every namespace of tags a
    column of that name; artist and release of the metadata become ``artist`` and ``album``.

    Args:
        audio: folder of the audio; a file belongs to the .jams of the same stem, in the same
            folder below it if there are several.

    Raises:
        UsageError: no such folder, no .jams in it, or one that is not JAMS.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}")
    files = sorted(file for file in folder.rglob(f"*{_JAMS}") if file.is_file())
    if not files:
        raise UsageError(f"no {_JAMS} files in {folder}")
    by_stem: dict[str, list[Path]] = {}
    for source in find([str(audio)]):
        by_stem.setdefault(Path(source.location).stem, []).append(Path(source.location))
    for file in files:
        here = by_stem.get(file.stem, [])
        below = file.relative_to(folder).parent
        same = [path for path in here if path.parent == audio / below]
        path = (same or here)[0] if len(same or here) == 1 else audio / below / file.stem
        yield _row(os.path.abspath(path), _jams_cells(file), None)  # noqa: PTH100


def _jams_cells(file: Path) -> Row:
    try:
        content = parse_json(read_bytes(file, _MAX_JAMS_N_BYTES))
        metadata = content["file_metadata"]
        cells = {
            "artist": str(metadata.get("artist") or ""),
            "album": str(metadata.get("release") or ""),
        }
        values: dict[str, list[tuple[float, Any]]] = {}
        for annotation in content["annotations"]:
            name = str(annotation["namespace"])
            if name in _NAMESPACES or name.startswith("tag_"):
                found = values.setdefault(_NAMESPACES.get(name, name), [])
                found += [
                    (float(o.get("confidence") or 0), o["value"]) for o in _observations(annotation)
                ]
    except (OSError, *DATA_ERRORS, AttributeError) as error:
        raise UsageError(f"{file} is not JAMS: {in_one_line(error)}") from error
    for name, found in values.items():
        if name == "tempo":
            cells |= _cells(name, max(found, key=lambda pair: pair[0])[1] if found else None)
        else:
            cells |= _cells(name, list(dict.fromkeys(str(value) for _, value in found)))
    return cells


def _observations(annotation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The observations of an annotation, which older files have as lists by field."""
    data = annotation["data"]
    if isinstance(data, Mapping):
        return [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
    return list(data)


def write_manifest(rows: Iterable[Row], out: Path) -> tuple[int, int, list[str]]:
    """Write the rows whose audio is there; columns without a value are left out.

    Args:
        out: a ``.csv``; paths in it are relative to its folder.

    Returns:
        How many tracks were written, how many lack their audio, and the columns.

    Raises:
        UsageError: there is no track to write.
        OutputError: it cannot be written.
    """
    all_rows = list(rows)
    there = [row for row in all_rows if os.path.isfile(row["path"])]  # noqa: PTH113
    n_missing = len(all_rows) - len(there)
    if not there:
        example = f", such as {all_rows[0]['path']}" if all_rows else ""
        raise UsageError(f"none of {len(all_rows)} audio files is there{example}")
    used = dict.fromkeys(name for row in there for name, cell in row.items() if cell)
    columns = [*(n for n in OWN_COLUMNS if n in used), *(n for n in used if n not in OWN_COLUMNS)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    base = os.path.abspath(out.parent)  # noqa: PTH100
    for row in there:
        cells = row | {"path": Path(os.path.relpath(row["path"], base)).as_posix()}
        writer.writerow([cells.get(name, "") for name in columns])
    write_own(out, text.getvalue().encode())
    return len(there), n_missing, columns
