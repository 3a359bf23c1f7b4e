"""``loev manifest``: the labels of other formats -> a manifest for train, evaluate and compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loev_cli.cli import _options as options
from loev_cli.cli._console import plural, say
from loev_cli.errors import UsageError

if TYPE_CHECKING:
    from loev_cli.datasets import Row

manifest = typer.Typer()
_labels = options.panel("Labels")

_Out = Annotated[
    Path,
    options.output(help="The manifest, a .csv; paths in it are relative to it.", metavar="CSV"),
]
_Overwrite = Annotated[bool, options.output("--overwrite", help="Replace an existing file.")]


@manifest.callback()
def _top() -> None:
    """Make a manifest from a data set of mirdata, or from JAMS files.

    Example: loev manifest mirdata gtzan_genre ~/mir_datasets/gtzan_genre --out gtzan.csv
    """


@manifest.command()
def mirdata(
    dataset: Annotated[
        str,
        typer.Argument(
            help="A loader of mirdata, such as gtzan_genre, giantsteps_key, fma_keys.",
            metavar="DATASET",
        ),
    ],
    data_home: Annotated[
        Path, typer.Argument(help="Folder with the data set.", metavar="DATA_HOME")
    ],
    out: _Out,
    group: Annotated[
        str | None,
        _labels(
            help="Attribute whose tracks must not be divided; default the artist or album, if the "
            "data set has one.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        _labels(
            help="Further attribute of the tracks to write. May be given several times.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    dataset_version: Annotated[
        str, _labels(help="Version of the data set, as mirdata calls it.", metavar="NAME")
    ] = "default",
    overwrite: _Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Make a manifest of a data set that mirdata has a loader for.

    Example: loev manifest mirdata giantsteps_key ~/mir_datasets/giantsteps_key --out keys.csv
    """
    from loev_cli.datasets import open_mirdata, rows_of_mirdata

    _check(out, overwrite)
    found = open_mirdata(dataset, data_home, dataset_version)
    problems: Counter[str] = Counter()
    rows = rows_of_mirdata(found, labels=label or (), group=group, problems=problems)
    _write(rows, out, quiet)
    for name, n_tracks in () if quiet else problems.items():
        say(f"'{name}' could not be read of {plural(n_tracks, 'track')}")


@manifest.command()
def jams(
    folder: Annotated[
        Path, typer.Argument(help="Folder of .jams files, searched recursively.", metavar="FOLDER")
    ],
    out: _Out,
    audio: Annotated[
        Path | None,
        _labels(
            help="Folder of the audio files, which have the stems of the .jams; default FOLDER.",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
    overwrite: _Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Make a manifest of a folder of JAMS files.

    Example: loev manifest jams annotations --audio music --out jams.csv
    """
    from loev_cli.datasets import rows_of_jams

    _check(out, overwrite)
    _write(rows_of_jams(folder, audio or folder), out, quiet)


def _check(out: Path, overwrite: bool) -> None:
    from loev_cli.storage.replacing import check_place

    if out.suffix.lower() != ".csv":
        raise UsageError(f"{out} is not a manifest", hint="--out ends with .csv")
    check_place(out, overwrite=overwrite)


def _write(rows: Iterable[Row], out: Path, quiet: bool) -> None:
    from loev_cli.datasets import write_manifest

    n_written, n_missing, columns = write_manifest(rows, out)
    if quiet:
        return
    say(f"{plural(n_written, 'track')} -> {out}: {', '.join(columns)}")
    if n_missing:
        say(f"{plural(n_missing, 'track')} left out, whose audio is not there")
    say(f"next: loev evaluate --data {out} --out report")
