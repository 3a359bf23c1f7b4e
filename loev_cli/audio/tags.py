"""What a file says about itself: artist, title, MusicBrainz ids, by one name in every format.

Formats and taggers spell them differently: the recording is ``MUSICBRAINZ_TRACKID`` in FLAC, Ogg
and Matroska, ``MusicBrainz Track Id`` in M4A, ``MusicBrainz/Track Id`` in WMA, and in MP3 a binary
frame. Names are compared without case, spaces and punctuation.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path

from loev_cli.audio.decoding import check_is_readable_file
from loev_cli.audio.readers import UnreadableError

# Name -> how files spell it, the best first.
_SPELLINGS = {
    "title": ("title",),
    "artist": ("artist", "author"),
    "album": ("album",),
    "albumartist": ("albumartist",),
    "track": ("track", "tracknumber"),
    "date": ("date", "year"),
    "genre": ("genre",),
    "isrc": ("isrc", "tsrc"),
    "musicbrainz_recordingid": ("musicbrainztrackid", "musicbrainzrecordingid"),
    "musicbrainz_releaseid": ("musicbrainzalbumid", "musicbrainzreleaseid"),
    "musicbrainz_releasegroupid": ("musicbrainzreleasegroupid",),
    "musicbrainz_artistid": ("musicbrainzartistid",),
}
TAGS = tuple(_SPELLINGS)

# A tag may hold megabytes; a column of strings is as wide as its longest.
_MAX_N_CHARS = 500
_ID3_N_BYTES = 4 << 20
_ID3V1 = struct.Struct("<3s30s30s30s4s28sBBB")
_ID3_RECORDING = re.compile(rb"http://musicbrainz\.org\0([0-9A-Fa-f-]{36})")


def read_tags(file: Path) -> dict[str, str]:
    """The tags of a file by the names in :data:`TAGS`; empty where the file does not say.

    Of several values of one tag, such as two artists, there is the first, or all joined by ``;``,
    as FFmpeg gives them. White space is one blank, and 500 characters are kept.

    Raises:
        InputError: stage ``open``: no such file, no permission. Files that are not audio have none.
    """
    # PyAV takes as long to import as everything else here; only this and odd formats need it.
    from loev_cli.audio.ffmpeg import read_metadata

    check_is_readable_file(file)
    try:
        found = _squeezed(read_metadata(file))
    except UnreadableError:
        found = {}
    tags = {
        name: next((found[key] for key in spellings if found.get(key)), "")
        for name, spellings in _SPELLINGS.items()
    }
    if not any(tags.values()):
        tags |= _id3v1(file)
    if not tags["musicbrainz_recordingid"]:
        tags["musicbrainz_recordingid"] = _recording_in_id3(file)
    return tags


def _squeezed(metadata: Mapping[str, str]) -> dict[str, str]:
    return {
        re.sub(r"[^a-z0-9]", "", key.lower().removeprefix("wm/")): _cleaned(value)
        for key, value in metadata.items()
    }


def _cleaned(value: str) -> str:
    raw = value.encode("utf-8", "surrogateescape")
    try:
        value = raw.decode("utf-8")
    except UnicodeDecodeError:  # what was usual before
        value = raw.decode("cp1252", "replace")
    return " ".join(value.replace("\0", " ").split())[:_MAX_N_CHARS]


def _recording_in_id3(file: Path) -> str:
    """MP3 taggers put it into a UFID frame, which FFmpeg leaves out."""
    with file.open("rb") as stream:
        if stream.read(3) != b"ID3":
            return ""
        match = _ID3_RECORDING.search(stream.read(_ID3_N_BYTES))
    return match[1].decode().lower() if match else ""


def _id3v1(file: Path) -> dict[str, str]:
    """The tag at the end of old MP3 files, which FFmpeg overlooks in some; without the genre, which
    is a number there."""
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _ID3V1.size))
        content = stream.read()
    if len(content) < _ID3V1.size or not content.startswith(b"TAG"):
        return {}
    _, title, artist, album, year, _, zero, track, _ = _ID3V1.unpack(content)
    texts = {"title": title, "artist": artist, "album": album, "date": year}
    found = {name: _cleaned(_latin(text)) for name, text in texts.items()}
    return found | ({"track": str(track)} if track and not zero else {})


def _latin(text: bytes) -> str:
    return text.partition(b"\0")[0].decode("latin-1")
