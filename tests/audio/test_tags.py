"""Artist, title and the rest, by one name whatever the format calls them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from loev_cli.audio import TAGS, DecoderProcess, load, read_tags
from loev_cli.errors import InputError
from tests.audio.common import write_with_ffmpeg
from tests.conftest import write_audio

RECORDING = "b1a9c0e9-d987-4042-ae91-78d6a3267d69"
RELEASE = "a4864e94-6d75-4ade-bc93-0dabf3521453"
WRITTEN = {
    "title": "Tïtle 日本",
    "artist": "Ärtist",
    "album": "The Album",
    "album_artist": "Various",
    "track": "3/12",
    "date": "1999-05-01",
    "genre": "Rock",
}
READ = {
    "title": "Tïtle 日本",
    "artist": "Ärtist",
    "album": "The Album",
    "albumartist": "Various",
    "track": "3/12",
    "date": "1999-05-01",
    "genre": "Rock",
}
VORBIS = {"ISRC": "USRC17607839", "MUSICBRAINZ_TRACKID": RECORDING, "MUSICBRAINZ_ALBUMID": RELEASE}
IDS = {
    "isrc": "USRC17607839",
    "musicbrainz_recordingid": RECORDING,
    "musicbrainz_releaseid": RELEASE,
}


def said(file: Path) -> dict[str, str]:
    tags = read_tags(file)
    assert tuple(tags) == TAGS
    return {name: text for name, text in tags.items() if text}


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("x.mp3", "libmp3lame", None),
        ("x.flac", "flac", None),
        ("x.ogg", "flac", "ogg"),
        ("x.opus", "libopus", "opus"),
        ("x.wv", "wavpack", None),
        ("x.tta", "tta", None),
        ("x.mka", "aac", None),
        ("x.webm", "libopus", None),
    ],
)
def test_formats_with_free_names(
    tmp_path: Path, name: str, codec: str, container: str | None
) -> None:
    file = write_with_ffmpeg(
        tmp_path / name, codec, 48000, 0.5, container=container, tags=WRITTEN | VORBIS
    )
    assert said(file) == READ | IDS


def test_wma(tmp_path: Path) -> None:
    ids = {
        "WM/ISRC": "USRC17607839",
        "MusicBrainz/Track Id": RECORDING,
        "MusicBrainz/Album Id": RELEASE,
    }
    file = write_with_ffmpeg(
        tmp_path / "x.wma", "wmav2", 44100, 0.5, container="asf", tags=WRITTEN | ids
    )
    assert said(file) == READ | IDS


def test_m4a_with_the_free_form_atoms_of_taggers(tmp_path: Path) -> None:
    file = write_with_ffmpeg(tmp_path / "x.m4a", "aac", 44100, 0.5, tags=WRITTEN)
    assert said(file) == READ
    atoms = b"".join(
        free_form(name, text)
        for name, text in (
            ("ISRC", "USRC17607839"),
            ("MusicBrainz Track Id", RECORDING),
            ("MusicBrainz Album Id", RELEASE),
        )
    )
    file.write_bytes(with_atoms(file.read_bytes(), atoms))
    assert said(file) == READ | IDS


def free_form(name: str, text: str) -> bytes:
    parts = [
        (b"mean", bytes(4) + b"com.apple.iTunes"),
        (b"name", bytes(4) + name.encode()),
        (b"data", struct.pack(">II", 1, 0) + text.encode()),
    ]
    content = b"".join(struct.pack(">I4s", 8 + len(body), kind) + body for kind, body in parts)
    return struct.pack(">I4s", 8 + len(content), b"----") + content


def with_atoms(content: bytes, atoms: bytes) -> bytes:
    """An MP4 file, its index last, with more atoms at the end of its list of tags."""
    grown = bytearray(content)
    for kind in (b"moov", b"udta", b"meta", b"ilst"):
        at = content.rindex(kind) - 4
        (size,) = struct.unpack_from(">I", content, at)
        struct.pack_into(">I", grown, at, size + len(atoms))
    end = content.rindex(b"ilst") - 4 + struct.unpack_from(">I", content, at)[0]
    return bytes(grown[:end] + atoms + grown[end:])


def id3_frame(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">IH", len(body), 0) + body


def test_mp3_with_the_binary_frame_of_taggers(tmp_path: Path) -> None:
    file = write_audio(tmp_path / "x.mp3", rate_hz=44100)
    frames = [
        id3_frame(b"TPE1", b"\x01" + "Ärtist".encode("utf-16")),
        id3_frame(b"TYER", b"\0" + b"1999"),
        id3_frame(b"TSRC", b"\0" + b"USRC17607839"),
        id3_frame(b"TXXX", b"\0MusicBrainz Album Id\0" + RELEASE.encode()),
        id3_frame(b"TXXX", b"\0MusicBrainz Release Track Id\0" + b"another"),
        id3_frame(b"UFID", b"http://musicbrainz.org\0" + RECORDING.encode()),
    ]
    content = b"".join(frames)
    size = bytes(len(content) >> shift & 0x7F for shift in (21, 14, 7, 0))
    file.write_bytes(b"ID3\x03\0\0" + size + content + file.read_bytes())
    assert said(file) == {"artist": "Ärtist", "date": "1999"} | IDS


def test_mp3_with_nothing_but_the_old_tag_at_the_end(tmp_path: Path) -> None:
    file = write_audio(tmp_path / "x.mp3", rate_hz=44100)
    texts = [text.encode("latin-1") for text in ("Tïtle", "Ärtist", "The Album", "1999")]
    tag = struct.pack("<3s30s30s30s4s28sBBB", b"TAG", *texts, b"a comment", 0, 7, 17)
    file.write_bytes(file.read_bytes() + tag)
    found = said(file)
    found.pop("genre", None)  # a number there, for which FFmpeg has the names
    assert found == {
        "title": "Tïtle",
        "artist": "Ärtist",
        "album": "The Album",
        "date": "1999",
        "track": "7",
    }


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("x.wav", "pcm_s16le", {}), ("x.aiff", "pcm_s16be", {"write_id3v2": "1"})],
)
def test_uncompressed_files(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    tags = {key: text for key, text in WRITTEN.items() if key != "album_artist"}
    file = write_with_ffmpeg(tmp_path / name, codec, 44100, 0.5, options=options, tags=tags)
    assert said(file) == {key: text for key, text in READ.items() if key != "albumartist"}


def test_files_that_say_nothing(tmp_path: Path) -> None:
    assert said(write_audio(tmp_path / "x.wav")) == {}
    (tmp_path / "text.mp3").write_text("no music")
    assert said(tmp_path / "text.mp3") == {}
    with pytest.raises(InputError, match="No such file"):
        read_tags(tmp_path / "gone.mp3")


def test_a_tag_of_megabytes_is_cut_and_white_space_is_one_blank(tmp_path: Path) -> None:
    tags = {"title": "x" * 2_000_000, "artist": "  two\r\n\tlines\0 "}
    file = write_with_ffmpeg(tmp_path / "x.flac", "flac", 44100, 0.5, tags=tags)
    assert said(file) == {"title": "x" * 500, "artist": "two lines"}


def test_tags_in_another_encoding_do_not_keep_a_file_from_being_read(tmp_path: Path) -> None:
    file = write_with_ffmpeg(tmp_path / "x.avi", "libmp3lame", 44100, tags={"title": "Tïtle"})
    content = file.read_bytes()
    assert "Tïtle".encode() in content
    file.write_bytes(content.replace("Tïtle".encode(), "Títlé".encode("latin-1") + b" "))
    assert said(file)["title"] == "Títlé"
    assert len(load(file, 8000)) == pytest.approx(24000, abs=500)


def test_a_decoder_process_reads_them_when_asked(tmp_path: Path) -> None:
    file = write_with_ffmpeg(tmp_path / "x.flac", "flac", 44100, 0.5, tags=WRITTEN)
    with DecoderProcess() as decoder:
        for asked, expected in ((True, "Ärtist"), (False, None)):
            decoding = decoder.decode(file, 8000, tags=asked)
            assert sum(len(block) for block in decoding) == 4000
            assert decoding.tags.get("artist") == expected
