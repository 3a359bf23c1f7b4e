"""What a request sets to work: its model and readouts, what an earlier output keeps, the engine."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from loev_cli import bundle as bundles
from loev_cli.annotations import Annotator, open_annotator
from loev_cli.audio import STDIN, TAGS, Source, find
from loev_cli.backends import Encoder, select_subspaces
from loev_cli.backends.machine import usable_cpus
from loev_cli.bundle import Bundle
from loev_cli.embed.cluster import Workers, on_cluster
from loev_cli.embed.journal import kept_settings
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
from loev_cli.embed.presence import Results, root_of, while_there
from loev_cli.embed.report import (
    Event,
    Failure,
    Notice,
    Report,
    Stats,
    TrackDone,
    describe,
    not_read,
)
from loev_cli.embed.request import Request
from loev_cli.errors import InputError, LoevError, UsageError
from loev_cli.formats import (
    ANNOTATIONS,
    STDOUT,
    Meta,
    Row,
    check_replaceable,
    keeps_windows,
    make_meta,
)
from loev_cli.row_names import row_name
from loev_cli.storage.remote import is_url
from loev_cli.storage.replacing import read_inputs

_MAX_WORKERS = 16
_FP32 = "fp32"
_PRECISIONS = (_FP32, "fp16", "bf16")


@dataclass(frozen=True)
class Setup:
    """A request with what it is carried out by.

    Attributes:
        request: with the settings of an earlier output where it leaves them open.
        bundle: its model.
        annotator: the model's readouts, if annotations are asked for.
        remembered: the options that are an earlier output's, for messages.
    """

    request: Request
    bundle: Bundle
    annotator: Annotator | None
    remembered: tuple[str, ...] = ()

    @property
    def kept(self) -> dict[str, int]:
        """The subspaces that rows keep, with their dimensions.

        Raises:
            UsageError: the model has none of that name.
        """
        return select_subspaces(self.bundle, self.request.subspaces)

    @property
    def computed(self) -> tuple[str, ...]:
        """The subspaces that are kept, and those that annotations are read from."""
        needed = {*self.kept, *(self.annotator.subspaces if self.annotator else ())}
        return tuple(name for name in self.bundle.subspaces if name in needed)

    @property
    def adds_annotations(self) -> bool:
        """Whether annotations are added to an earlier output: it has what they are read from."""
        return self.annotator is not None and set(self.annotator.subspaces) <= set(self.kept)

    def meta(self) -> Meta:
        """The ``meta`` of the output as far as it is known before the model is open.

        Raises:
            UsageError: the request does not fit the model.
        """
        request = self.request
        root = root_of(request.inputs)
        return make_meta(
            self.bundle,
            subspaces=self.kept,
            hop_n_samples=self.bundle.hop_n_samples(request.hop_s),
            per_window=request.per_window,
            backend=request.backend,
            device=request.device,
            precision=_FP32 if request.precision == "auto" else request.precision,
            shard=None if request.shard is None else str(request.shard),
            tags=TAGS if request.tags else (),
            annotator=self.annotator,
            audio_root=None if is_url(root) else row_name(os.path.abspath(root)),  # noqa: PTH100
        )


def set_up(request: Request) -> Setup:
    """Check a request against its model and against what is at ``out``.

    Raises:
        UsageError: it does not fit the model, or what is there, which is not to be overwritten.
        BundleError: the model is damaged.
    """
    bundle = bundles.find(request.model)
    out = request.out
    adds_to = None if request.overwrite or not out or out == STDOUT or is_url(out) else out
    remembered: tuple[str, ...] = ()
    if adds_to is not None:
        request, remembered = _as_before(request, bundle, Path(adds_to))
    if request.bpm_range is not None and not request.annotate:
        raise UsageError("--bpm-range needs --annotate", hint="add --annotate")
    annotator = open_annotator(bundle, request.bpm_range) if request.annotate else None
    setup = Setup(request, bundle, annotator, remembered)
    meta = setup.meta()
    if adds_to is not None:
        check_replaceable(adds_to, meta, adds_annotations=setup.adds_annotations)
    return setup


def _as_before(request: Request, bundle: Bundle, out: Path) -> tuple[Request, tuple[str, ...]]:
    """The request with the settings of what the same model has put at ``out``, finished or not,
    where it leaves them open; and the options that this stands for."""
    kept = kept_settings(out, bundle)
    if kept is None:
        return request, ()
    changes: dict[str, object] = {}
    options = []
    if request.hop_s is None:  # the default may have been another
        changes["hop_s"] = kept["hop_s"]
        if bundle.hop_n_samples(kept["hop_s"]) != bundle.hop_n_samples(None):
            options.append(f"--hop-s {kept['hop_s']:g}")
    if request.subspaces is None and set(kept["subspaces"]) < set(bundle.subspaces):
        changes["subspaces"] = list(kept["subspaces"])
        options.append(f"--subspaces {','.join(kept['subspaces'])}")
    if not request.per_window and keeps_windows(kept):
        changes["per_window"] = True
        options.append("--per-window")
    if not request.tags and kept.get("tags"):
        changes["tags"] = True
        options.append("--tags")
    annotations = kept.get(ANNOTATIONS)
    if annotations:
        if not request.annotate:
            changes["annotate"] = True
            options.append("--annotate")
        bpm_range = annotations.get("bpm_range")
        if request.bpm_range is None and bpm_range:
            changes["bpm_range"] = tuple(bpm_range)
            options.append(f"--bpm-range {'-'.join(f'{bpm:g}' for bpm in bpm_range)}")
    if request.precision == "auto" and kept.get("precision") in _PRECISIONS[1:]:
        changes["precision"] = kept["precision"]
        options.append(f"--precision {kept['precision']}")
        if request.backend == "auto":  # the only one that has it
            changes["backend"] = "torch"
    return replace(request, **changes), tuple(options)  # type: ignore[arg-type]


def ignore(event: Event) -> None:
    """Takes events that nobody is interested in."""


@contextlib.contextmanager
def engine(
    setup: Setup, sources: Sequence[Source], on_event: Callable[[Event], None]
) -> Iterator[tuple[Meta, Stats, Results]]:
    """The engine chosen by the request, working on ``sources``: what it adds to ``meta``,
    where its time goes, and for each source its index with its row or why there is none."""
    request, bundle = setup.request, setup.bundle
    if request.engine == "ray":
        workers = Workers(
            bundle=bundle.path,
            subspaces=setup.computed,
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
            yield origin, stats, _finished(while_there(sources, results), setup)
        return
    with contextlib.ExitStack() as stack:
        decoders = decoders_for(sources, _n_workers(request), request.file_timeout_s)
        for decoder in decoders:  # they get ready while the model is opened
            stack.enter_context(decoder).launch()
        encoder, settings = prepare(setup, on_event)
        stats = Stats(len(decoders), settings.n_encoders)
        results = outcomes(sources, encoder, settings, stats, decoders=decoders)
        stack.enter_context(contextlib.closing(results))
        yield actual(encoder), stats, _finished(while_there(sources, results), setup)


def _finished(results: Results, setup: Setup) -> Results:
    """Rows with their annotations, if asked for, and without subspaces that only these needed."""
    annotator, kept = setup.annotator, setup.kept
    for track, outcome in results:
        if annotator is not None and isinstance(outcome, Row):
            outcome = outcome.annotated(annotator)
            outcome = replace(outcome, vectors={name: outcome.vectors[name] for name in kept})
        yield track, outcome


def _n_workers(request: Request) -> int:
    return request.workers or min(usable_cpus(), _MAX_WORKERS)


def prepare(setup: Setup, on_event: Callable[[Event], None] = ignore) -> tuple[Encoder, Settings]:
    """The model, open, and how to run it here. Tells of a GPU that stays unused.

    Raises:
        UsageError, BundleError: as :func:`loev_cli.backends.open_encoder`.
    """
    request, bundle = setup.request, setup.bundle
    encoder, batching = open_fast(
        bundle,
        backend=request.backend,
        device=request.device,
        precision=request.precision,
        subspaces=setup.computed,
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


def read_by(request: Request, sources: Sequence[Source]) -> list[str | int]:
    """Every file that the request reads; 0 is a list on stdin."""
    lists = [each for each in read_inputs(request.inputs) if isinstance(each, int)]
    return [*lists, *(source.location for source in sources if source.remote is None)]


def hand_over(
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
            on_event(done(outcome))
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


def done(row: Row) -> TrackDone:
    """The event of a row."""
    return TrackDone(row.path, row.duration_s, tuple(row.warnings))
