"""A user's request for an embedding file: checked in full before any work, then carried out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from loev_cli import bundle as bundles
from loev_cli.audio import STDIN, Source, find, probe
from loev_cli.backends import Encoder, open_encoder, select_subspaces
from loev_cli.backends.machine import usable_cpus
from loev_cli.bundle import Bundle
from loev_cli.embed.failures import Failure, describe, write_failures
from loev_cli.embed.runner import Event, Report, Settings, run
from loev_cli.errors import InputError, LoevError, UsageError
from loev_cli.windows import count
from loev_cli.writers import STDOUT, check_output, check_replaceable, make_meta, open_writer

_CPU_BATCH_SIZE = 8
_CUDA_BATCH_SIZE = 64
_MAX_WORKERS = 16


@dataclass(frozen=True)
class Request:
    """What to embed, with which model, into what; the options of ``loev embed``.

    None means: the default that fits the model or the machine.
    """

    inputs: Sequence[str]
    out: str | None
    model: str = bundles.DEFAULT_MODEL
    subspaces: Sequence[str] | None = None
    per_window: bool = False
    hop_s: float | None = None
    device: str = "auto"
    backend: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    strict: bool = False
    overwrite: bool = False
    null: bool = False


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

    Files that fail are in the report and in ``<out>.failures.jsonl``; with no row at all no
    output is written.

    Raises:
        UsageError, BundleError, OutputError: the request cannot be carried out.
        InputError: with ``strict``, the first file that fails.
    """
    if not request.out:
        raise UsageError("nowhere to write to", hint="name a file with --out")
    out = request.out
    check_output(out)
    bundle = bundles.find(request.model)
    subspaces = select_subspaces(bundle, request.subspaces)
    hop_n_samples = _hop_n_samples(bundle, request.hop_s)
    planned = make_meta(
        bundle,
        subspaces=subspaces,
        hop_n_samples=hop_n_samples,
        per_window=request.per_window,
        backend=request.backend,
        device=request.device,
        precision=request.precision,
    )
    if not request.overwrite:
        check_replaceable(out, planned)
    sources = _find_sorted(request, stdin)
    _check_is_no_input(out, sources)

    encoder = open_encoder(
        bundle,
        backend=request.backend,
        device=request.device,
        precision=request.precision,
        subspaces=list(subspaces),
    )
    settings = Settings(
        hop_n_samples=hop_n_samples,
        per_window=request.per_window,
        batch_size=request.batch_size or _default_batch_size(encoder),
        n_workers=request.workers or min(usable_cpus(), _MAX_WORKERS),
        strict=request.strict,
    )
    meta = planned | {
        "backend": encoder.backend,
        "device": encoder.device,
        "precision": encoder.precision,
    }
    with open_writer(out, meta, stdout=stdout) as writer:
        report = run(sources, encoder, writer, settings, on_event=on_event)
        if report.n_done:
            writer.commit()
    if out != STDOUT:
        write_failures(out, report.failures)
    return report


@dataclass(frozen=True)
class DryRun:
    """What a run would meet, by the headers of its files.

    Attributes:
        n_files: files found.
        audio_s: their length as far as headers tell.
        n_unknown_length: files whose header does not tell.
        unreadable: files whose header cannot be read.
        n_vectors: tracks, or windows where they are kept.
        out_n_bytes: size of the vectors as float32; JSON lines take about four times that.
    """

    n_files: int
    audio_s: float
    n_unknown_length: int
    unreadable: tuple[Failure, ...]
    n_vectors: int
    out_n_bytes: int


def dry_run(request: Request, *, stdin: BinaryIO | None = None) -> DryRun:
    """Check the request and read the headers of its files, but embed nothing.

    Raises:
        UsageError, BundleError, OutputError: the request could not be carried out.
    """
    if request.out is not None:
        check_output(request.out)
    bundle = bundles.find(request.model)
    subspaces = select_subspaces(bundle, request.subspaces)
    hop_n_samples = _hop_n_samples(bundle, request.hop_s)
    sources = _find_sorted(request, stdin)

    audio_s, n_unknown, n_vectors = 0.0, 0, 0
    unreadable: list[Failure] = []
    for source in sources:
        try:
            info = probe(source.file)
        except InputError as error:
            unreadable.append(describe(source.path, error))
            continue
        audio_s += info.duration_s or 0.0
        n_unknown += info.duration_s is None
        n_samples = max(1, round((info.duration_s or 0.0) * bundle.sample_rate_hz))
        n_windows = count(n_samples, bundle.window_n_samples, hop_n_samples)
        n_vectors += n_windows if request.per_window else 1
    return DryRun(
        n_files=len(sources),
        audio_s=audio_s,
        n_unknown_length=n_unknown,
        unreadable=tuple(unreadable),
        n_vectors=n_vectors,
        out_n_bytes=n_vectors * 4 * sum(subspaces.values()),
    )


def _find_sorted(request: Request, stdin: BinaryIO | None) -> list[Source]:
    sources = find(request.inputs, stdin=stdin, null=request.null)
    if not sources:
        searched = ["standard input" if given == STDIN else given for given in request.inputs]
        raise LoevError(
            f"no audio files in {', '.join(searched)}",
            hint="folders are searched recursively",
        )
    return sorted(sources, key=lambda source: source.path)


def _check_is_no_input(out: str, sources: Sequence[Source]) -> None:
    """Embedding a file must never be the end of it, whatever is to be overwritten."""
    if out == STDOUT or not Path(out).exists():
        return
    taken = Path(out).stat()
    for source in sources:
        with contextlib.suppress(OSError):  # not there: its own failure, later
            if os.path.samestat(source.file.stat(), taken):
                raise UsageError(f"{out} is one of the inputs", hint="choose another --out")


def _hop_n_samples(bundle: Bundle, hop_s: float | None) -> int:
    if hop_s is None:
        return max(1, bundle.window_n_samples // 2)
    in_range = 0 < hop_s <= bundle.window_s  # false for NaN too
    hop_n_samples = round(hop_s * bundle.sample_rate_hz) if in_range else 0
    if hop_n_samples < 1:
        raise UsageError(
            f"hop of {hop_s:g} s is out of range",
            hint=f"more than 0, up to the model's window of {bundle.window_s:g} s",
        )
    return hop_n_samples


def _default_batch_size(encoder: Encoder) -> int:
    return _CPU_BATCH_SIZE if encoder.device == "cpu" else _CUDA_BATCH_SIZE
