"""A user's request for an embedding file: checked in full before any work, then carried out."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from loev_cli.annotations import BpmRange
from loev_cli.audio import STDIN, Source
from loev_cli.embed.engine import (
    Setup,
    done,
    engine,
    find_sources,
    hand_over,
    ignore,
    read_by,
    set_up,
)
from loev_cli.embed.journal import Journal
from loev_cli.embed.parts import Stamp
from loev_cli.embed.presence import Lookout, drop_what_is_gone
from loev_cli.embed.report import (
    FAILURES_SUFFIX,
    Event,
    Failure,
    Notice,
    Report,
    RunStarted,
    Stats,
    check_failures,
    describe,
    write_failures,
)
from loev_cli.embed.request import Request
from loev_cli.embed.staging import staged
from loev_cli.errors import LoevError, UsageError
from loev_cli.formats import (
    ANNOTATIONS,
    STDOUT,
    Meta,
    Row,
    check_output,
    open_writer,
    read_meta,
)
from loev_cli.storage.remote import is_url
from loev_cli.storage.replacing import check_no_input


def embed(
    request: Request,
    *,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> Report:
    """Carry the request out. The output appears whole, or not at all.

    What an earlier run of the same request has done is kept, be it finished or not; files that
    are new, changed or failed then are embedded. Files that fail are in the report and in
    ``<out>.failures.jsonl``; with no row at all no output is written.

    Raises:
        UsageError, BundleError, OutputError: the request cannot be carried out.
        InputError: with ``strict``, the first file that fails.
        LoevError: the backend failed.
    """
    if not request.out:
        raise UsageError("missing --out", hint="name a file with --out")
    out = request.out
    check_output(out)
    setup = set_up(request)
    if is_url(out):
        with staged(out) as local:
            request = replace(request, out=str(local))
            return embed(request, stdin=stdin, stdout=stdout, on_event=on_event)
    request, planned = setup.request, setup.meta()
    passed_over: Counter[str] = Counter()
    sources = find_sources(request, stdin, passed_over)
    if out == STDOUT:
        report = _to_stdout(setup, planned, sources, stdout, on_event)
    else:
        inputs = read_by(request, sources)
        check_no_input(Path(out), inputs)  # not even with --overwrite
        check_failures(out, inputs, overwrite=request.overwrite)
        with Journal(
            Path(out),
            planned,
            overwrite=request.overwrite,
            adds_annotations=setup.adds_annotations,
        ) as journal:
            report = _Run(setup, planned, sources, journal, on_event).carry_out()
    return replace(report, passed_over=dict(passed_over))


class _Run:
    """One run on an output file: what is to be done, done, and put together with what was."""

    def __init__(
        self,
        setup: Setup,
        meta: Meta,
        sources: Sequence[Source],
        journal: Journal,
        on_event: Callable[[Event], None],
    ) -> None:
        self._setup = setup
        self._request = setup.request
        self._meta = meta
        self._sources = sources
        self._journal = journal
        self._on_event = on_event
        self._stamps = {source.path: _stamp(source) for source in sources}
        self._failures: list[Failure] = []
        self._audio_s = 0.0
        self._n_annotated = 0

    def carry_out(self) -> Report:
        began = time.monotonic()
        for problem in self._journal.problems:
            self._on_event(Notice(problem))
        todo = [s for s in self._sources if not self._is_done(s.path)]
        self._on_event(
            RunStarted(len(todo), len(self._sources) - len(todo), remembered=self._setup.remembered)
        )
        stats = Stats(0, 0)
        if todo:
            stats = self._embed(todo)
        failed = {failure.path for failure in self._failures}
        counts = drop_what_is_gone(
            self._journal, self._sources, self._stamps, failed, Lookout(self._request)
        )
        self._write_output(stats)
        self._failures.sort(key=lambda failure: failure.path)
        write_failures(self._request.out or "", self._failures)
        return Report(
            n_done=self._journal.n_added,
            n_rows=len(self._journal),
            n_annotated=self._n_annotated,
            **counts,
            failures=tuple(self._failures),
            audio_s=self._audio_s,
            wall_s=time.monotonic() - began,
            stats=stats,
        )

    def _is_done(self, path: str) -> bool:
        stamp = self._stamps[path]
        return stamp is not None and self._journal.stamp(path) == stamp

    def _embed(self, todo: Sequence[Source]) -> Stats:
        with engine(self._setup, todo, self._on_event) as (origin, stats, results):
            self._journal.note_origin(origin)
            for track, outcome in results:
                source = todo[track]
                if isinstance(outcome, Row):
                    began = time.monotonic()
                    self._journal.add(outcome, self._stamps[source.path])
                    stats.write_s += time.monotonic() - began
                    self._audio_s += outcome.duration_s
                    self._on_event(done(outcome))
                elif self._request.strict:
                    raise outcome
                else:
                    self._failures.append(describe(source.path, outcome))
                    self._on_event(self._failures[-1])
        return stats

    def _write_output(self, stats: Stats) -> None:
        out = self._request.out or ""
        exists = Path(out).exists()
        # A part without rows is written all the same: that it is there says that it is done. And
        # an output whose last row has gone must not stay as it was.
        if not len(self._journal) and self._request.shard is None and not exists:
            return
        annotator = self._setup.annotator
        if exists and not self._journal.has_news:
            adds_annotations = annotator is not None and not self._request.overwrite
            if not adds_annotations or ANNOTATIONS in read_meta(out):
                return
        began = time.monotonic()

        def commit(before_replace: Callable[[Path], None]) -> None:
            meta = self._meta | self._journal.origin
            with open_writer(out, meta, before_replace=before_replace) as writer:
                for row in self._journal.merged():
                    if annotator is not None and not row.annotations:
                        row = row.annotated(annotator)
                        self._n_annotated += 1
                    writer.add(row)
                writer.commit()

        self._journal.settle(commit)
        stats.write_s += time.monotonic() - began


def _to_stdout(
    setup: Setup,
    meta: Meta,
    sources: Sequence[Source],
    stdout: BinaryIO | None,
    on_event: Callable[[Event], None],
) -> Report:
    """JSON lines in the order of the inputs, as they come. Nothing is kept of them."""
    began = time.monotonic()
    on_event(RunStarted(len(sources), n_kept=0))
    with (
        engine(setup, sources, on_event) as (origin, stats, results),
        open_writer(STDOUT, meta | origin, stdout=stdout) as writer,
    ):
        report = hand_over(setup.request, sources, stats, results, writer.add, on_event)
        if report.n_done or not sources:
            writer.commit()
    return replace(report, wall_s=time.monotonic() - began)


def _stamp(source: Source) -> Stamp | None:
    """Size and mtime of a file; None if it is missing or cannot be accessed."""
    if source.remote is not None:
        size, version = source.remote.size, source.remote.version
        return None if size is None or version is None else Stamp(size, version)
    try:
        status = source.file.stat()
    except (OSError, ValueError):
        return None
    return Stamp(status.st_size, status.st_mtime_ns)


AnyPath = str | os.PathLike[str]


def embed_to_file(
    inputs: AnyPath | Sequence[AnyPath],
    out: AnyPath,
    *,
    model: AnyPath = Request.model,
    subspaces: Sequence[str] | None = None,
    per_window: bool = False,
    tags: bool = False,
    annotate: bool = False,
    bpm_range: BpmRange | None = None,
    hop_s: float | None = None,
    device: str = Request.device,
    backend: str = Request.backend,
    precision: str = Request.precision,
    batch_size: int | None = None,
    workers: int | None = None,
    file_timeout_s: float = Request.file_timeout_s,
    prune: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Report:
    """Embed audio files into an embedding file; the same call again embeds only what is new.

    Args:
        inputs: files, folders (searched recursively), or URLs of them; ``~`` is the home folder.
        out: a ``.npz``, ``.parquet``, ``.lance`` or ``.jsonl`` file; its extension is its format.
        on_event: called for every track when it is done or has failed.

    The others are the options of ``loev embed``; its ``--help`` and ``docs/embed.md`` explain them.
    What is left out is as in the ``out`` that is there, if the same model made it.

    Returns:
        How many tracks were embedded and how long that took, and the files that failed.

    Raises:
        UsageError, BundleError, OutputError: the request cannot be carried out.
        InputError: with ``strict``, the first file that fails.
        LoevError: the backend failed, or every file did.
    """
    given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if STDIN in given or os.fspath(out) == STDOUT:
        raise UsageError("'-' has no meaning in Python", hint="pass a list of paths and a file")
    report = embed(
        Request(
            inputs=[_expanded(path) for path in given],
            out=_expanded(out),
            model=_expanded(model),
            subspaces=subspaces,
            per_window=per_window,
            tags=tags,
            annotate=annotate,
            bpm_range=bpm_range,
            hop_s=hop_s,
            device=device,
            backend=backend,
            precision=precision,
            batch_size=batch_size,
            workers=workers,
            file_timeout_s=file_timeout_s,
            prune=prune,
            strict=strict,
            overwrite=overwrite,
        ),
        on_event=on_event,
    )
    if not report.n_rows and report.failures:
        raise LoevError(
            f"all {len(report.failures)} files failed; the first: {report.failures[0].message}",
            hint=f"{os.fspath(out)}{FAILURES_SUFFIX} lists them",
        )
    return report


def _expanded(path: AnyPath) -> str:
    return os.path.expanduser(os.fspath(path))  # noqa: PTH111 (it may be a URL or a name)
