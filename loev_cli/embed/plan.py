"""What a run would meet and take: headers read, a few files and windows tried, nothing written."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from loev_cli.audio import DecoderProcess, Source, brought_here
from loev_cli.backends import Encoder
from loev_cli.backends.machine import usable_cpus
from loev_cli.bundle import Bundle
from loev_cli.embed.engine import find_sources, prepare, set_up
from loev_cli.embed.pipeline import Settings
from loev_cli.embed.report import Failure, describe
from loev_cli.embed.request import Request
from loev_cli.errors import InputError
from loev_cli.formats import STDOUT, check_output
from loev_cli.storage.remote import Limits
from loev_cli.windows import count

_TRIAL_N_FILES = 5
_TRIAL_FILE_S = 60.0
_TRIAL_S = 1.0
_JSON_BYTES_PER_VALUE = 12
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class DryRun:
    """What a run would meet, by the headers of its files, and take, by a short trial.

    Attributes:
        n_files: files found.
        audio_s: their length as far as headers tell.
        n_unknown_length: files whose header does not tell.
        unreadable: files whose header cannot be read.
        n_vectors: tracks, or windows where they are kept.
        out_n_bytes: about the size of the output.
        run_s: about the time of the run on this machine as busy as it is now; None where no file
            could be tried.
    """

    n_files: int
    audio_s: float
    n_unknown_length: int
    unreadable: tuple[Failure, ...]
    n_vectors: int
    out_n_bytes: int
    run_s: float | None


def dry_run(request: Request, *, stdin: BinaryIO | None = None) -> DryRun:
    """Check the request, read the headers of its files and try a few, but embed nothing.

    Raises:
        UsageError, BundleError, OutputError: the request could not be carried out.
    """
    if request.out is not None:
        check_output(request.out)
    setup = set_up(request)
    request, bundle = setup.request, setup.bundle
    hop_n = bundle.hop_n_samples(request.hop_s)
    sources = find_sources(request, stdin)

    audio_s, n_unknown, n_tracks, n_windows = 0.0, 0, 0, 0
    readable: list[Source] = []
    unreadable: list[Failure] = []
    with DecoderProcess(timeout_s=request.file_timeout_s) as decoder:
        for source in sources:
            try:
                with brought_here(source, request.download_limits) as file:
                    info = decoder.probe(file)
            except InputError as error:
                unreadable.append(describe(source.path, error))
                continue
            readable.append(source)
            audio_s += info.duration_s or 0.0
            n_unknown += info.duration_s is None
            n_samples = max(1, round((info.duration_s or 0.0) * bundle.sample_rate_hz))
            n_windows += count(n_samples, bundle.window_n_samples, hop_n)
            n_tracks += 1
        decode_s_per_s = _try_decoding(readable, decoder, bundle, request.download_limits)
    run_s = None
    if decode_s_per_s is not None:
        encoder, settings = prepare(setup)
        run_s = _projected_s(audio_s * decode_s_per_s, n_windows, encoder, settings)
    n_vectors = n_windows if request.per_window else n_tracks
    return DryRun(
        n_files=len(sources),
        audio_s=audio_s,
        n_unknown_length=n_unknown,
        unreadable=tuple(unreadable),
        n_vectors=n_vectors,
        out_n_bytes=n_vectors * sum(setup.kept.values()) * _bytes_per_value(request.out),
        run_s=run_s,
    )


def _try_decoding(
    sources: Sequence[Source], decoder: DecoderProcess, bundle: Bundle, limits: Limits
) -> float | None:
    """CPU seconds that a second of audio takes to decode, by a few files from all over the list."""
    busy_s, audio_s = 0.0, 0.0
    for i in range(min(_TRIAL_N_FILES, len(sources))):
        source = sources[i * len(sources) // min(_TRIAL_N_FILES, len(sources))]
        began, n_samples = time.monotonic(), 0
        try:
            with (
                brought_here(source, limits) as file,
                contextlib.closing(
                    (decoding := decoder.decode(file, bundle.sample_rate_hz)).blocks
                ) as blocks,
            ):
                for block in blocks:
                    n_samples += len(block)
                    if n_samples > _TRIAL_FILE_S * bundle.sample_rate_hz:
                        break
        except InputError:
            continue  # the run will say so
        busy_s += decoding.busy_s or time.monotonic() - began
        audio_s += n_samples / bundle.sample_rate_hz
    return busy_s / audio_s if audio_s else None


def _projected_s(decode_s: float, n_windows: int, encoder: Encoder, settings: Settings) -> float:
    """Seconds by the clock: on a CPU decoding and encoding share the cores, on a GPU the slower
    of the two counts."""
    shape = (settings.batch_size, encoder.bundle.window_n_samples)
    noise = np.random.default_rng(0).standard_normal(shape, np.float32) * np.float32(0.1)
    encoder.encode(noise)  # the first takes longer
    began, n_batches = time.monotonic(), 0
    while time.monotonic() - began < _TRIAL_S:
        encoder.encode(noise)
        n_batches += 1
    encode_s = n_windows * (time.monotonic() - began) / (n_batches * settings.batch_size)
    if encoder.device == "cpu":
        # A torch batch is already encoded by all cores at once.
        n_cpus = usable_cpus()
        return decode_s / n_cpus + encode_s / min(n_cpus, settings.n_encoders)
    return max(decode_s / settings.n_workers, encode_s)


def _bytes_per_value(out: str | None) -> int:
    is_text = out is not None and (out == STDOUT or Path(out).suffix.lower() == ".jsonl")
    return _JSON_BYTES_PER_VALUE if is_text else _FLOAT_BYTES
