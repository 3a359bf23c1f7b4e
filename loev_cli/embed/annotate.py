"""What a model's readouts say of tracks, written nowhere: of audio, or of embedding files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from loev_cli import bundle as bundles
from loev_cli.annotations import BpmRange, open_annotator
from loev_cli.bundle import Bundle
from loev_cli.embed.engine import engine, find_sources, hand_over, ignore, read_by, set_up
from loev_cli.embed.report import Event, Report, RunStarted
from loev_cli.embed.request import Request
from loev_cli.errors import UsageError
from loev_cli.formats import (
    STDOUT,
    Row,
    annotator_for,
    is_embedding_file,
    keeps_windows,
    read_meta,
    rows,
)
from loev_cli.storage.replacing import check_no_input


def annotate(
    request: Request,
    on_row: Callable[[Row], None],
    *,
    stdin: BinaryIO | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> Report:
    """Give the answers of a model's readouts for every track, in the order of the inputs.

    Embedding files may be given instead of audio: the answers are read from their vectors, in the
    order of their rows. Nothing is written or kept: the request's ``out`` is only checked to be
    none of the inputs. Rows have the subspaces that are read, or those of their file. With
    ``per_window`` windows are half a window apart unless the request says otherwise.

    Raises: as :func:`embed`, and
        UsageError: an embedding file is damaged, of another model, or lacks a subspace, or
            windows that are asked for.
    """
    began = time.monotonic()
    bundle = bundles.find(request.model)
    out = request.out or STDOUT
    stored = [given for given in request.inputs if is_embedding_file(given)]
    if stored:
        audio = next((given for given in request.inputs if given not in stored), None)
        if audio is not None:
            raise UsageError(
                f"{stored[0]} is an embedding file and {audio} is not",
                hint="annotate them one after the other",
            )
        whole = [file for file in stored if not keeps_windows(read_meta(file))]
        if request.per_window and whole:
            hint = "give the audio, or embed it with --per-window"
            raise UsageError(f"{whole[0]} has no windows", hint=hint)
        if out != STDOUT:
            check_no_input(Path(out), stored)
        return _annotate_stored(stored, bundle, request.bpm_range, on_row)
    read = open_annotator(bundle).subspaces
    request = replace(request, out=STDOUT, annotate=True, subspaces=read)
    if request.per_window and request.hop_s is None:
        request = replace(request, hop_s=bundle.window_s / 2)  # a finer look than the track's mean
    setup = set_up(request)
    sources = find_sources(request, stdin)
    if out != STDOUT:
        check_no_input(Path(out), read_by(request, sources))
    on_event(RunStarted(len(sources), n_kept=0))
    with engine(setup, sources, on_event) as (_, stats, results):
        report = hand_over(request, sources, stats, results, on_row, on_event)
    return replace(report, wall_s=time.monotonic() - began)


def _annotate_stored(
    files: Sequence[str], bundle: Bundle, bpm_range: BpmRange | None, on_row: Callable[[Row], None]
) -> Report:
    began = time.monotonic()
    for file in files:
        annotator = annotator_for(read_meta(file), file, bundle, bpm_range)
    n_done, audio_s = 0, 0.0
    for row in chain.from_iterable(map(rows, files)):
        on_row(row.annotated(annotator))
        n_done += 1
        audio_s += row.duration_s
    return Report(n_done, n_done, (), audio_s, time.monotonic() - began)
