"""A user's request for an embedding file: checked in full before any work, then carried out."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from loev_cli import bundle as bundles
from loev_cli.annotations import Annotator, BpmRange, open_annotator
from loev_cli.audio import STDIN, TAGS, Source, find
from loev_cli.backends import Encoder, select_subspaces
from loev_cli.backends.machine import usable_cpus
from loev_cli.bundle import Bundle
from loev_cli.embed.cluster import Workers, on_cluster
from loev_cli.embed.journal import Journal, kept_hop_s
from loev_cli.embed.parts import Stamp
from loev_cli.embed.pipeline import (
    CPU_BATCH_SIZE,
    CUDA_BATCH_SIZE,
    CUDA_ENCODERS,
    Settings,
    actual,
    decoders_for,
    open_fast,
    outcomes,
)
from loev_cli.embed.presence import Lookout, Results, drop_what_is_gone, root_of, while_there
from loev_cli.embed.report import (
    FAILURES_SUFFIX,
    Event,
    Failure,
    Notice,
    Report,
    RunStarted,
    Stats,
    TrackDone,
    check_failures,
    describe,
    not_read,
    write_failures,
)
from loev_cli.embed.request import Request
from loev_cli.embed.staging import staged
from loev_cli.errors import InputError, LoevError, UsageError
from loev_cli.formats import (
    ANNOTATIONS,
    STDOUT,
    Meta,
    Row,
    annotator_for,
    check_output,
    check_replaceable,
    is_embedding_file,
    keeps_windows,
    make_meta,
    open_writer,
    read_meta,
    rows,
)
from loev_cli.row_names import row_name
from loev_cli.storage.remote import is_url
from loev_cli.storage.replacing import check_no_input, read_inputs

_MAX_WORKERS = 16
_SETTLED_PRECISION = {"auto": "fp32"}


def _ignore(event: Event) -> None:
    pass


def embed(
    request: Request,
    *,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
    on_event: Callable[[Event], None] = _ignore,
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
    bundle = bundles.find(request.model)
    planned = planned_meta(request, bundle)
    if is_url(out):
        with staged(out) as local:
            request = replace(request, out=str(local))
            return embed(request, stdin=stdin, stdout=stdout, on_event=on_event)
    annotator = _annotator(request, bundle)
    # Annotations are added to an earlier output that has what they are read from.
    adds = annotator is not None and set(annotator.subspaces) <= set(planned["subspaces"])
    if out != STDOUT and not request.overwrite:
        if request.hop_s is None:  # the default may have been another when its rows were made
            request = replace(request, hop_s=kept_hop_s(Path(out), planned))
            planned = planned_meta(request, bundle)
        check_replaceable(out, planned, adds_annotations=adds)
    passed_over: Counter[str] = Counter()
    sources = find_sources(request, stdin, passed_over)
    if out == STDOUT:
        report = _to_stdout(request, bundle, planned, sources, stdout, on_event)
    else:
        inputs = _read_by(request, sources)
        check_no_input(Path(out), inputs)  # not even with --overwrite
        check_failures(out, inputs, overwrite=request.overwrite)
        with Journal(
            Path(out), planned, overwrite=request.overwrite, adds_annotations=adds
        ) as journal:
            report = _Run(request, bundle, planned, sources, journal, on_event).carry_out()
    return replace(report, passed_over=dict(passed_over))


def planned_meta(request: Request, bundle: Bundle) -> Meta:
    """The ``meta`` of the request's output as far as it is known before the model is open.

    Raises:
        UsageError: the request does not fit the model.
    """
    root = root_of(request.inputs)
    return make_meta(
        bundle,
        subspaces=select_subspaces(bundle, request.subspaces),
        hop_n_samples=bundle.hop_n_samples(request.hop_s),
        per_window=request.per_window,
        backend=request.backend,
        device=request.device,
        precision=_SETTLED_PRECISION.get(request.precision, request.precision),
        shard=None if request.shard is None else str(request.shard),
        tags=TAGS if request.tags else (),
        annotator=_annotator(request, bundle),
        audio_root=None if is_url(root) else row_name(os.path.abspath(root)),  # noqa: PTH100
    )


def _annotator(request: Request, bundle: Bundle) -> Annotator | None:
    if request.bpm_range is not None and not request.annotate:
        raise UsageError("--bpm-range needs --annotate", hint="add --annotate")
    return open_annotator(bundle, request.bpm_range) if request.annotate else None


def _computed(request: Request, bundle: Bundle) -> tuple[str, ...]:
    """The subspaces that are kept, and those that annotations are read from."""
    annotator = _annotator(request, bundle)
    needed = {
        *select_subspaces(bundle, request.subspaces),
        *(annotator.subspaces if annotator else ()),
    }
    return tuple(name for name in bundle.subspaces if name in needed)


class _Run:
    """One run on an output file: what is to be done, done, and put together with what was."""

    def __init__(
        self,
        request: Request,
        bundle: Bundle,
        meta: Meta,
        sources: Sequence[Source],
        journal: Journal,
        on_event: Callable[[Event], None],
    ) -> None:
        self._request = request
        self._bundle = bundle
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
        self._on_event(RunStarted(len(todo), n_kept=len(self._sources) - len(todo)))
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
        with _engine(self._request, self._bundle, todo, self._on_event) as (origin, stats, results):
            self._journal.note_origin(origin)
            for track, outcome in results:
                source = todo[track]
                if isinstance(outcome, Row):
                    began = time.monotonic()
                    self._journal.add(outcome, self._stamps[source.path])
                    stats.write_s += time.monotonic() - began
                    self._audio_s += outcome.duration_s
                    self._on_event(_done(outcome))
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
        annotator = _annotator(self._request, self._bundle)
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
    request: Request,
    bundle: Bundle,
    meta: Meta,
    sources: Sequence[Source],
    stdout: BinaryIO | None,
    on_event: Callable[[Event], None],
) -> Report:
    """JSON lines in the order of the inputs, as they come. Nothing is kept of them."""
    began = time.monotonic()
    on_event(RunStarted(len(sources), n_kept=0))
    with (
        _engine(request, bundle, sources, on_event) as (origin, stats, results),
        open_writer(STDOUT, meta | origin, stdout=stdout) as writer,
    ):
        report = _hand_over(request, sources, stats, results, writer.add, on_event)
        if report.n_done or not sources:
            writer.commit()
    return replace(report, wall_s=time.monotonic() - began)


def annotate(
    request: Request,
    on_row: Callable[[Row], None],
    *,
    stdin: BinaryIO | None = None,
    on_event: Callable[[Event], None] = _ignore,
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
    planned_meta(request, bundle)
    sources = find_sources(request, stdin)
    if out != STDOUT:
        check_no_input(Path(out), _read_by(request, sources))
    on_event(RunStarted(len(sources), n_kept=0))
    with _engine(request, bundle, sources, on_event) as (_, stats, results):
        report = _hand_over(request, sources, stats, results, on_row, on_event)
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


def _hand_over(
    request: Request,
    sources: Sequence[Source],
    stats: Stats,
    results: Iterator[tuple[int, Row | InputError]],
    on_row: Callable[[Row], None],
    on_event: Callable[[Event], None],
) -> Report:
    """Rows as they come, to somebody who keeps them."""
    failures: list[Failure] = []
    n_done, audio_s = 0, 0.0
    for track, outcome in results:
        if isinstance(outcome, Row):
            began_writing = time.monotonic()
            on_row(outcome)
            stats.write_s += time.monotonic() - began_writing
            n_done += 1
            audio_s += outcome.duration_s
            on_event(_done(outcome))
        elif request.strict:
            raise outcome
        else:
            failures.append(describe(sources[track].path, outcome))
            on_event(failures[-1])
    return Report(
        n_done=n_done,
        n_rows=n_done,
        failures=tuple(failures),
        audio_s=audio_s,
        wall_s=stats.wall_s,
        stats=stats,
    )


def _done(row: Row) -> TrackDone:
    return TrackDone(row.path, row.duration_s, tuple(row.warnings))


@contextlib.contextmanager
def _engine(
    request: Request, bundle: Bundle, sources: Sequence[Source], on_event: Callable[[Event], None]
) -> Iterator[tuple[Meta, Stats, Results]]:
    """The engine chosen by the request, working on ``sources``: what it adds to ``meta``,
    where its time goes, and for each source its index with its row or why there is none."""
    if request.engine == "ray":
        workers = Workers(
            bundle=bundle.path,
            subspaces=_computed(request, bundle),
            backend=request.backend,
            device=request.device,
            precision=request.precision,
            count=request.workers,
            cpu_settings=_settings(request, bundle, CPU_BATCH_SIZE, n_workers=1, n_encoders=1),
            gpu_settings=_settings(
                request, bundle, CUDA_BATCH_SIZE, n_workers=_MAX_WORKERS, n_encoders=CUDA_ENCODERS
            ),
        )
        with on_cluster(sources, workers) as (origin, stats, results):
            yield origin, stats, _finished(while_there(sources, results), request, bundle)
        return
    with contextlib.ExitStack() as stack:
        decoders = decoders_for(sources, _n_workers(request), request.file_timeout_s)
        for decoder in decoders:  # they get ready while the model is opened
            stack.enter_context(decoder).launch()
        encoder, settings = prepare(request, bundle, on_event)
        stats = Stats(len(decoders), settings.n_encoders)
        results = outcomes(sources, encoder, settings, stats, decoders=decoders)
        stack.enter_context(contextlib.closing(results))
        yield actual(encoder), stats, _finished(while_there(sources, results), request, bundle)


def _finished(results: Results, request: Request, bundle: Bundle) -> Results:
    """Rows with their annotations, if asked for, and without subspaces that only these needed."""
    annotator = _annotator(request, bundle)
    kept = select_subspaces(bundle, request.subspaces)
    for track, outcome in results:
        if annotator is not None and isinstance(outcome, Row):
            outcome = outcome.annotated(annotator)
            outcome = replace(outcome, vectors={name: outcome.vectors[name] for name in kept})
        yield track, outcome


def _n_workers(request: Request) -> int:
    return request.workers or min(usable_cpus(), _MAX_WORKERS)


def prepare(
    request: Request, bundle: Bundle, on_event: Callable[[Event], None] = _ignore
) -> tuple[Encoder, Settings]:
    """The model, open, and how to run it here. Tells of a GPU that stays unused.

    Raises:
        UsageError, BundleError: as :func:`loev_cli.backends.open_encoder`.
    """
    encoder, batching = open_fast(
        bundle,
        backend=request.backend,
        device=request.device,
        precision=request.precision,
        subspaces=_computed(request, bundle),
    )
    if encoder.unused_gpu is not None and request.device == "auto":
        on_event(Notice(f"a GPU is present but not used: {encoder.unused_gpu}"))
    return encoder, _settings(
        request,
        bundle,
        batching.size,
        n_workers=_n_workers(request),
        n_encoders=batching.n_encoders,
    )


def _settings(
    request: Request, bundle: Bundle, batch_size: int, *, n_workers: int, n_encoders: int
) -> Settings:
    """How to run; ``batch_size`` unless the request has one."""
    return Settings(
        hop_n_samples=bundle.hop_n_samples(request.hop_s),
        per_window=request.per_window,
        tags=request.tags,
        in_order=request.out == STDOUT,
        batch_size=request.batch_size or batch_size,
        n_workers=n_workers,
        n_encoders=n_encoders,
        file_timeout_s=request.file_timeout_s,
        download_limits=request.download_limits,
    )


def find_sources(
    request: Request, stdin: BinaryIO | None, passed_over: Counter[str] | None = None
) -> list[Source]:
    """What is to be embedded: sorted by row name; a list on stdin, for stdout, in its order.

    Args:
        passed_over: as for :func:`loev_cli.audio.find`.

    Raises:
        UsageError: as :func:`loev_cli.audio.find`.
        LoevError: there is nothing, save in a shard that happens to get nothing.
    """
    passed_over = Counter() if passed_over is None else passed_over
    sources = find(request.inputs, stdin=stdin, null=request.null, passed_over=passed_over)
    if not sources:
        searched = ["standard input" if given == STDIN else given for given in request.inputs]
        raise LoevError(
            f"no audio files in {', '.join(searched)}",
            hint="; ".join(["folders are searched recursively", *not_read(passed_over)]),
        )
    if request.shard is not None:
        sources = request.shard.of(sources)
    if request.out == STDOUT and STDIN in request.inputs:
        return sources
    return sorted(sources, key=lambda source: source.path)


def _read_by(request: Request, sources: Sequence[Source]) -> list[str | int]:
    """Every file that the request reads; 0 is a list on stdin."""
    lists = [each for each in read_inputs(request.inputs) if isinstance(each, int)]
    return [*lists, *(source.location for source in sources if source.remote is None)]


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
