"""Which reader reads which part of a file, by a look at its headers, its end and its size.

An ordinary file is one part that libsndfile or FFmpeg reads as it is. Where its header is wrong, or
where several files were joined, the parts are found by what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from loev_cli.audio import flac, mpeg, ogg, riff, voc
from loev_cli.audio.libsndfile import SoundFileReader
from loev_cli.audio.readers import (
    BrokenStreamError,
    Layout,
    Piece,
    Reader,
    UnreadableError,
    end_of_padding,
    mapped,
)

# Bytes that may be missing at the end of MPEG audio before it counts as truncated: a frame or so.
_MPEG_SLACK_N_BYTES = 2048
_MPEG_SLACK_S = 0.005  # less than a frame
# Fewer frames than this among other bytes are there by chance.
_MPEG_MIN_N_FRAMES = 5
_HEAD_N_BYTES = 32
_REST_N_BYTES = 4096

_LAYOUTS: dict[str, Callable[..., Layout | None]] = {
    "riff": riff.layout,
    "ogg": ogg.layout,
    "flac": flac.layout,
    "voc": voc.layout,
}
_MAGIC = {b"RIFF": "riff", b"RIFX": "riff", b"RF64": "riff", b"BW64": "riff", b"FORM": "riff"}
_MAGIC |= {b"OggS": "ogg", b"fLaC": "flac"}
# FFmpeg finds these behind other bytes too, but not all of their parts.
_SALVAGED_FORMATS = ("wav", "aiff", "flac", "ogg", "mp3")


def readers(file: Path, warnings: list[str]) -> Iterator[Reader]:
    """The parts of a file in order, each open. Read each to its end before asking for the next:
    whether there is another may depend on how far it was read. Who asks closes them.

    Args:
        file: a regular file that is not empty.
        warnings: is appended to: what was skipped, what the header got wrong.

    Raises:
        UnreadableError: no library can read it.
        BrokenStreamError: it is truncated or damaged beyond what can be read around.
    """
    kind, start = _beginning(file)
    if kind is not None:
        yield from _known(file, kind, start, warnings)
        return
    try:
        reader = SoundFileReader(file, resumable=True)
    except UnreadableError:
        yield from _without_libsndfile(file, warnings)
        return
    if reader.format == "MP3":
        yield from _mpeg(file, reader, warnings)
    else:
        reader.resumable = False
        yield reader
        _warn_of_rest(file, reader, warnings)


def _beginning(file: Path) -> tuple[str | None, int]:
    """Whose layout to look at, and where the header is, behind tags and zeros."""
    with mapped(file) as content:
        at, end = 0, end_of_padding(content, 0)
        while at < end < len(content):
            at, end = end, end_of_padding(content, end)
        head = content[at : at + _HEAD_N_BYTES]
    return "voc" if head.startswith(voc.MAGIC) else _MAGIC.get(head[:4]), at


def _known(file: Path, kind: str, start: int, warnings: list[str]) -> Iterator[Reader]:
    """The parts of a file of a format whose layout is looked at."""
    if kind == "riff" and riff.holds_coded_sound(file, start):
        yield _coded_sound(file, warnings)
        return
    layout = _LAYOUTS[kind](file, start)
    if layout is not None:
        yield from _parts(file, layout, warnings)
        return
    pieces = None if start == 0 else [range(start, file.stat().st_size)]
    reader = _part(file, pieces, warnings)
    yield reader
    if kind == "flac" and isinstance(reader, SoundFileReader):
        yield from _rest_of_flac(file, start, reader, warnings)


def _parts(file: Path, layout: Layout, warnings: list[str]) -> Iterator[Reader]:
    warnings += layout.warnings
    for pieces in layout.parts:
        yield _part(file, pieces, warnings)


def _part(file: Path, pieces: Sequence[Piece] | None, warnings: list[str]) -> Reader:
    try:
        return SoundFileReader(file, pieces)
    except UnreadableError:
        from loev_cli.audio.ffmpeg import FfmpegReader

        return FfmpegReader(file, warnings, pieces)


def _coded_sound(file: Path, warnings: list[str]) -> Reader:
    from loev_cli.audio.ffmpeg import FfmpegReader

    reader = FfmpegReader(file, warnings)
    if not reader.is_coded:
        reader.close()
        raise BrokenStreamError("it is AC-3 or DTS in a WAV file, which FFmpeg does not decode")
    return reader


def _without_libsndfile(file: Path, warnings: list[str]) -> Iterator[Reader]:
    # PyAV takes as long to import as everything else here; most libraries never need it.
    from loev_cli.audio.ffmpeg import FfmpegReader

    try:
        reader = FfmpegReader(file, warnings)
    except UnreadableError:
        yield from _salvaged(file, warnings)
        return
    if reader.format in _SALVAGED_FORMATS:
        reader.close()
        yield from _salvaged(file, warnings)
    else:
        yield reader


def _salvaged(file: Path, warnings: list[str]) -> Iterator[Reader]:
    """What can be read of a file that does not begin with a header."""
    with mapped(file) as content:
        starts = {
            "riff": riff.first_form_at(content),
            "flac": flac.first_stream_at(content),
            "ogg": ogg.first_stream_at(content),
        }
    found = {at: kind for kind, at in starts.items() if at is not None}
    at = min(found, default=None)
    stream = mpeg.scan(file)
    n_frames = sum(part.n_frames for part in stream.parts)
    if n_frames >= _MPEG_MIN_N_FRAMES and (at is None or stream.parts[0].begins_at < at):
        yield from _mpeg_parts(file, stream, 0, warnings)
        return
    if at is None:
        raise UnreadableError("no sound found")
    warnings.append(f"{at} bytes before its header are not audio; skipped")
    yield from _known(file, found[at], at, warnings)


def _warn_of_rest(file: Path, reader: SoundFileReader, warnings: list[str]) -> None:
    """Of a format whose layout is not looked at: tell of bytes that were not read."""
    if reader.read_to is None:
        return
    with mapped(file) as content:
        at = reader.read_to
        while at < (end := end_of_padding(content, at)):
            at = end
        n_bytes = len(content) - at
        is_chunk = content[at : at + 4].isalpha()  # as in CAF and W64
    if n_bytes > _REST_N_BYTES and not is_chunk:
        warnings.append(f"{n_bytes} bytes behind the samples that its header counts; not read")


def _mpeg(file: Path, reader: SoundFileReader, warnings: list[str]) -> Iterator[Reader]:
    """MPEG audio: by libsndfile if a length header counts all of it, else frame by frame."""
    start = mpeg.start(file)
    if start.is_free_format:
        yield reader
        return
    n_given = 0
    if start.is_plain and start.missing_n_bytes == 0:
        yield reader
        if reader.read_to is None:  # not read
            return
        with mapped(file) as content:
            goes_on = mpeg.goes_on_after(content, reader.read_to)
        if reader.problem is None and not goes_on:
            missing_s = ((reader.n_frames or 0) - reader.n_given) / reader.sample_rate_hz
            if missing_s > _MPEG_SLACK_S:
                warnings.append(f"{missing_s:.2f} s that its header counts are not there")
            return
        n_given = reader.n_given
    reader.close()
    yield from _mpeg_parts(file, mpeg.scan(file), n_given, warnings)


def _mpeg_parts(
    file: Path, stream: mpeg.Stream, n_skipped: int, warnings: list[str]
) -> Iterator[Reader]:
    """All parts, without the ``n_skipped`` samples at their start that were given already."""
    from loev_cli.audio.ffmpeg import MpegReader

    if not stream.parts:
        raise BrokenStreamError("it has no MPEG frames that follow each other")
    if stream.missing_n_bytes > _MPEG_SLACK_N_BYTES:
        raise BrokenStreamError(f"its last {stream.missing_n_bytes} bytes are missing")
    if stream.problems:
        warnings.append("; ".join(stream.problems))
    for part in stream.parts:
        if n_skipped >= part.n_samples:
            n_skipped -= part.n_samples
            continue
        yield MpegReader(file, part, n_skipped, warnings)
        n_skipped = 0


def _rest_of_flac(
    file: Path, start: int, reader: SoundFileReader, warnings: list[str]
) -> Iterator[Reader]:
    if reader.read_to is None or not flac.goes_on_after(file, reader.read_to):
        return
    layout = flac.following(file, start)
    if layout is None:
        warnings.append("bytes behind its last frame are not audio; skipped")
        return
    yield from _parts(file, layout, warnings)
