"""Key and tempo in the tags of audio files, read and set by mutagen.

field   ID3 (MP3, AIFF, WAV)   Vorbis comments (FLAC, Ogg, Opus)   MP4
key     TKEY                   INITIALKEY                          ----:com.apple.iTunes:initialkey
bpm     TBPM                   BPM                                 tmpo, an integer

All other tags, pictures and the version of the tag (ID3v2.3, 2.4) stay as they are.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

from loev_cli.errors import needs_extra
from loev_cli.storage.bounded import DATA_ERRORS, in_one_line

Values = tuple[str, ...]

_VORBIS = {"key": "INITIALKEY", "bpm": "BPM"}
_ID3 = {"key": "TKEY", "bpm": "TBPM"}
_MP4 = {"key": "----:com.apple.iTunes:initialkey", "bpm": "tmpo"}
FIELDS = tuple(_ID3)

# Container, and codec where it matters, as FFmpeg names them -> mutagen's module and class, names.
_KINDS = {
    "mp3": ("mutagen.mp3", "MP3", _ID3),
    "aiff": ("mutagen.aiff", "AIFF", _ID3),
    "wav": ("mutagen.wave", "WAVE", _ID3),
    "flac": ("mutagen.flac", "FLAC", _VORBIS),
    "ogg vorbis": ("mutagen.oggvorbis", "OggVorbis", _VORBIS),
    "ogg opus": ("mutagen.oggopus", "OggOpus", _VORBIS),
    "ogg flac": ("mutagen.oggflac", "OggFLAC", _VORBIS),
    "mov": ("mutagen.mp4", "MP4", _MP4),
}
_ID3V1_N_BYTES = 128


class UntaggableError(Exception):
    """There is no place for key and tempo in the file, or its tags are damaged."""


def check_mutagen() -> None:
    """Raises MissingExtraError where mutagen is not installed."""
    with needs_extra("writing tags", "tags"):
        import mutagen  # noqa: F401


def read_fields(stream: BinaryIO, container: str, codec: str) -> dict[str, Values]:
    """What a file says of its key and tempo: of every field its values, none where it is absent.

    Args:
        stream: the file.
        container, codec: what it is, as :func:`loev_cli.audio.ffmpeg.identify` names it.

    Raises:
        UntaggableError: see there.
    """
    with _reading():
        tags = _Tags(stream, container, codec)
        return {field: tags.get(field) for field in FIELDS}


def write_fields(
    stream: BinaryIO, container: str, codec: str, values: Mapping[str, Sequence[str]]
) -> None:
    """Set fields of an open file; one that is given no value is removed.

    Args:
        stream: the file, to be read and written; it is left in pieces by an error.
        container, codec: as of :func:`read_fields`.
        values: field -> its new values.

    Raises:
        UntaggableError: see there, or a value that the format cannot hold.
        OSError: it cannot be written.
    """
    with _reading():
        tags = _Tags(stream, container, codec)
        for field, given in values.items():
            tags.put(field, given)
        tags.save(stream)


@contextmanager
def _reading() -> Iterator[None]:
    from mutagen import MutagenError

    try:
        yield
    except MutagenError as error:
        if isinstance(error.__cause__, OSError):  # a full disk
            raise error.__cause__ from error
        raise UntaggableError(f"mutagen: {in_one_line(error)}") from error
    except (EOFError, *DATA_ERRORS) as error:
        raise UntaggableError(f"mutagen: {in_one_line(error)}") from error


class _Tags:
    def __init__(self, stream: BinaryIO, container: str, codec: str) -> None:
        kind = _KINDS.get(container) or _KINDS.get(f"{container} {codec}")
        if kind is None:
            raise UntaggableError(f"{container} is not a format that loev tags")
        module, name, self._names = kind
        cls = getattr(importlib.import_module(module), name)
        self._options: dict[str, Any] = {}
        stream.seek(0)
        if self._names is not _ID3:
            self._file = cls(stream)
        else:
            # Untranslated, frames of ID3v2.3 stay what they are; those of ID3v1 stay out of it.
            self._file = cls(stream, translate=False, load_v1=False)
            version = self._file.tags.version if self._file.tags is not None else (0,)
            if version < (2, 3, 0):  # becomes 2.4, which has to say all that players find in it
                stream.seek(0)
                self._file = cls(stream)
            self._options = {"v2_version": 3 if version[:2] == (2, 3) else 4, "v23_sep": None}
        if self._file.tags is None:
            self._file.add_tags()

    def _name(self, field: str) -> str:
        """The field's name as the file spells it: names in MP4 differ in case among taggers."""
        wanted = self._names[field]
        if self._names is not _MP4:
            return wanted
        return next((name for name in self._file.tags if name.lower() == wanted.lower()), wanted)

    def get(self, field: str) -> Values:
        value = self._file.tags.get(self._name(field)) or ()
        if self._names is _ID3:
            value = getattr(value, "text", ())
        return tuple(
            bytes(one).decode("utf-8", "surrogateescape") if isinstance(one, bytes) else str(one)
            for one in value
        )

    def put(self, field: str, values: Sequence[str]) -> None:
        name, tags = self._name(field), self._file.tags
        if not values:
            if name in tags:
                del tags[name]
        elif self._names is _ID3:
            frames = importlib.import_module("mutagen.id3")
            encoding = 0 if all(map(str.isascii, values)) else 3
            tags.setall(name, [getattr(frames, name)(encoding=encoding, text=list(values))])
        elif name == "tmpo":
            tags[name] = [int(value) for value in values]
        elif self._names is _MP4:
            tags[name] = [value.encode("utf-8", "surrogateescape") for value in values]
        else:
            tags[name] = list(values)

    def save(self, stream: BinaryIO) -> None:
        stream.seek(0)
        if self._names is not _ID3:
            self._file.save(stream)
            return
        old = _id3v1(stream)
        stream.seek(0)
        if self._file.tags or self._file.tags.unknown_frames:
            self._file.tags.save(stream, **self._options)
        elif self._file.tags.size:
            self._file.tags.delete(stream)
        if old and _id3v1(stream):  # mutagen puts into it what ID3v2 says, and drops the rest
            stream.seek(-_ID3V1_N_BYTES, 2)
            stream.write(old)


def _id3v1(stream: BinaryIO) -> bytes:
    """The tag at the end of old MP3 files; empty if there is none."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - _ID3V1_N_BYTES))
    end = stream.read()
    return end if end.startswith(b"TAG") else b""
