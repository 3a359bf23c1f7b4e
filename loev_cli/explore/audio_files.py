"""A row -> its file, if it may be served, or a WAV of it, if browsers cannot play it.

A row is a path relative to the audio folder, as ``loev embed FOLDER`` named it, or the absolute
path of a file. A file is served only if it is a regular file whose real path, with all symbolic
links resolved, is in the real audio folder.

A preview is decoded during playback. WAV is a short header and then two bytes a sample, so a byte
range is a time range, and seeking works without a cache: a range in the middle is decoded from the
beginning, and the audio before it is discarded (a minute of audio in about 0.1 s). Mono; the
decoder is a separate process, which ends with the request.
"""

from __future__ import annotations

import asyncio
import math
import re
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from loev_cli.audio import AUDIO_EXTENSIONS, DecoderProcess
from loev_cli.row_names import path_of_row

# MIME types of formats that browsers play. Everything else is decoded.
TYPES = {
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".wave": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
    ".aac": "audio/aac",
    ".weba": "audio/webm",
}
_N_SAMPLED = 100
RATE_HZ = 44_100
HEADER_N_BYTES = 44
_LONGEST_N_SAMPLES = (2**32 - 1 - HEADER_N_BYTES) // 2
_TIMEOUT_S = 30.0
_N_AT_ONCE = 6
_PATIENCE_S = 5.0
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_ENDLESS_NUMBER = re.compile(r"\d{19}")


class NotServedError(Exception):
    """A row's file is missing or must not be served; the message says why."""


@dataclass(frozen=True)
class AudioFiles:
    """The files of a library's rows.

    Attributes:
        root: the audio folder.
        paths: N row names.
    """

    root: Path
    paths: Sequence[str]

    def find(self, row: int) -> Path:
        """The real path of the file that a row names.

        Raises:
            NotServedError: the file is missing or must not be served.
        """
        path = self.paths[row]
        if "://" in path:
            raise NotServedError("is at a URL; only local files can be played")
        if PurePosixPath(path).suffix.lower() not in AUDIO_EXTENSIONS:
            raise NotServedError("does not have an audio file extension")
        try:
            root = self.root.resolve(strict=True)
            file = (self.root / path_of_row(path)).resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:  # a NUL, a loop of links, no such file
            raise NotServedError(f"is not in {self.root}") from error
        if not file.is_relative_to(root):
            raise NotServedError(f"is outside {self.root}")
        if not file.is_file():
            raise NotServedError("is not a regular file")
        return file

    def n_found(self) -> tuple[int, int]:
        """(found, looked for) of a sample of rows, evenly spread."""
        step = max(1, len(self.paths) // _N_SAMPLED)
        rows = range(0, len(self.paths), step)
        found = 0
        for row in rows:
            try:
                self.find(row)
            except NotServedError:
                continue
            found += 1
        return found, len(rows)


def is_playable(file: Path) -> bool:
    """Whether browsers can play the file directly."""
    return file.suffix.lower() in TYPES


class Previews:
    """Limits the number of concurrent previews."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(_N_AT_ONCE)

    async def respond(self, request: Request, file: Path, duration_s: float) -> Response:
        """The file as WAV, or the requested range of it.

        Raises:
            InputError: it cannot be decoded.
            NotServedError: its duration is unknown.
        """
        if not duration_s >= 0 or math.isinf(duration_s):
            raise NotServedError("has no known duration")
        n_samples = min(max(1, round(duration_s * RATE_HZ)), _LONGEST_N_SAMPLES)
        n_bytes = HEADER_N_BYTES + 2 * n_samples
        span = _parse_range(request.headers.get("range"), n_bytes)
        if span is None:
            return Response(status_code=416, headers={"content-range": f"bytes */{n_bytes}"})
        start, stop = span
        headers = {"accept-ranges": "bytes", "content-length": str(stop - start)}
        status = 200
        if "range" in request.headers:
            status = 206
            headers["content-range"] = f"bytes {start}-{stop - 1}/{n_bytes}"
        if request.method == "HEAD":
            return Response(None, status, headers, media_type="audio/wav")
        try:
            await asyncio.wait_for(self._slots.acquire(), _PATIENCE_S)
        except TimeoutError:
            return Response(status_code=503, headers={"retry-after": "5"})
        decoder = DecoderProcess(timeout_s=_TIMEOUT_S)
        blocks = _wav(decoder, file, n_samples, start, stop)
        try:
            first = await to_thread.run_sync(next, blocks)
        except BaseException:
            self._end(decoder)
            raise
        return _Preview(self, decoder, _in_thread(first, blocks), status, headers)

    def _end(self, decoder: DecoderProcess) -> None:
        decoder.close()
        self._slots.release()


class _Preview(StreamingResponse):
    """Closes its decoder when the response ends, for whatever reason."""

    def __init__(
        self,
        owner: Previews,
        decoder: DecoderProcess,
        blocks: AsyncIterator[bytes],
        status: int,
        headers: dict[str, str],
    ) -> None:
        super().__init__(blocks, status, headers, media_type="audio/wav")
        self._owner = owner
        self._decoder = decoder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._owner._end(self._decoder)


async def _in_thread(first: bytes, blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    block: bytes | None = first
    while block is not None:
        yield block
        block = await to_thread.run_sync(next, blocks, None)


def _wav(
    decoder: DecoderProcess, file: Path, n_samples: int, start: int, stop: int
) -> Iterator[bytes]:
    """Bytes ``start`` to ``stop`` of the WAV. Padded with silence to ``n_samples``."""
    place = 0

    def part(content: bytes) -> bytes:
        nonlocal place
        first, place = place, place + len(content)
        return content[max(0, start - first) : max(0, stop - first)]

    head = part(_header(n_samples))
    for block in decoder.decode(file, RATE_HZ):
        samples = np.clip(np.rint(block * 32767), -32768, 32767).astype("<i2")
        if chunk := head + part(samples.tobytes()):
            yield chunk
            head = b""
        if place >= stop:
            return
    while place < stop:
        if chunk := head + part(bytes(min(1 << 16, stop - place))):
            yield chunk
            head = b""


def _header(n_samples: int) -> bytes:
    n_bytes = 2 * n_samples
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", HEADER_N_BYTES - 8 + n_bytes, b"WAVE"),
        *(b"fmt ", 16, 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16),
        *(b"data", n_bytes),
    )


def _parse_range(header: str | None, n_bytes: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None if there is nothing there."""
    header = (header or "").strip()
    if _ENDLESS_NUMBER.search(header):  # beyond every file, and too long for int()
        return None
    found = _RANGE.fullmatch(header)
    if found is None or not (found[1] or found[2]):  # several ranges, or invalid: the whole file
        return 0, n_bytes
    if found[1]:
        start, last = int(found[1]), int(found[2] or n_bytes - 1)
    else:
        start, last = max(0, n_bytes - int(found[2])), n_bytes - 1
    stop = min(last + 1, n_bytes)
    return (start, stop) if start < stop else None
