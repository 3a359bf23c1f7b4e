"""The length of a row is what is in the file, whatever its header says: one test for each kind."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from loev_cli.audio import decode, load, probe
from loev_cli.errors import InputError
from tests.audio.common import pcm, wav, write_with_ffmpeg
from tests.audio.streams import apev2, flac, id3v1, id3v2, mp3, ogg
from tests.audio.streams import pcm as pcm_stream
from tests.conftest import music, write_audio

RATE_HZ = 44100
SECONDS = 1.3
FRAME_S = 1152 / RATE_HZ


def decoded(folder: Path, content: bytes, name: str = "x") -> tuple[float, list[str]]:
    """Length in seconds, and the warnings."""
    file = folder / name
    file.write_bytes(content)
    decoding = decode(file, 8000)
    n_samples = sum(len(block) for block in decoding)
    assert n_samples / 8000 == pytest.approx(decoding.duration_s, abs=0.01)
    return decoding.duration_s, decoding.warnings


def failure_of(folder: Path, content: bytes) -> str:
    with pytest.raises(InputError) as caught:
        decoded(folder, content)
    assert str(folder / "x") in str(caught.value)
    return str(caught.value)


def tone(seconds: float = SECONDS) -> np.ndarray:
    return music(seconds, rate_hz=RATE_HZ)


# ---------------------------------------------------------------- MPEG audio


def plain_mp3(mode: str = "VARIABLE", rate_hz: int = RATE_HZ, n_channels: int = 2) -> bytes:
    """Without a length header."""
    return mp3(SECONDS, rate_hz, n_channels, False, mode).content


def headed_mp3(mode: str = "CONSTANT", rate_hz: int = RATE_HZ) -> bytes:
    return mp3(SECONDS, rate_hz, 2, True, mode).content


def with_counts(content: bytes, frames: float = 1.0, n_bytes: float = 1.0) -> bytes:
    """An MP3 whose length header counts another share of its frames and bytes."""
    at = max(content.find(b"Info", 0, 64), content.find(b"Xing", 0, 64))
    changed = bytearray(content)
    for field, share in ((at + 8, frames), (at + 12, n_bytes)):
        count = int(int.from_bytes(content[field : field + 4], "big") * share)
        changed[field : field + 4] = count.to_bytes(4, "big")
    return bytes(changed)


def without_count_of_bytes(content: bytes) -> bytes:
    at = max(content.find(b"Info", 0, 64), content.find(b"Xing", 0, 64))
    return content[: at + 7] + b"\x01" + content[at + 8 : at + 12] + content[at + 16 :] + bytes(4)


def random_bytes(n_bytes: int) -> bytes:
    return np.random.default_rng(1).bytes(n_bytes)


MPEG: dict[str, tuple[Callable[[], bytes], float]] = {
    "variable, no header": (plain_mp3, SECONDS),
    "constant, no header": (lambda: plain_mp3("CONSTANT"), SECONDS),
    "average, no header": (lambda: plain_mp3("AVERAGE"), SECONDS),
    "another bit rate half-way": (
        lambda: plain_mp3("CONSTANT") + mp3(SECONDS, RATE_HZ, 2, False, "VARIABLE").content,
        2 * SECONDS,
    ),
    "another rate half-way": (
        lambda: plain_mp3("CONSTANT") + plain_mp3("CONSTANT", 22050),
        2 * SECONDS,
    ),
    "another number of channels half-way": (
        lambda: plain_mp3("CONSTANT") + plain_mp3("CONSTANT", n_channels=1),
        2 * SECONDS,
    ),
    "joined": (lambda: headed_mp3() * 2, 2 * SECONDS),
    "joined, another rate": (lambda: headed_mp3() + headed_mp3(rate_hz=48000), 2 * SECONDS),
    "joined, ID3v1 between": (lambda: headed_mp3() + id3v1() + headed_mp3(), 2 * SECONDS),
    "joined, ID3v2 between": (lambda: headed_mp3() + id3v2(3000) + headed_mp3(), 2 * SECONDS),
    "joined, APEv2 between": (lambda: headed_mp3() + apev2(300) + headed_mp3(), 2 * SECONDS),
    "joined, zeros between": (lambda: headed_mp3() + bytes(9000) + headed_mp3(), 2 * SECONDS),
    "joined, headers of either kind": (
        lambda: headed_mp3() + id3v1() + plain_mp3() + headed_mp3("VARIABLE"),
        3 * SECONDS,
    ),
    "half of the frames counted": (lambda: with_counts(headed_mp3(), 0.5), SECONDS),
    "half of the bytes counted": (lambda: with_counts(headed_mp3(), 1, 0.5), SECONDS),
    "half of both counted": (lambda: with_counts(headed_mp3(), 0.5, 0.5), SECONDS),
    "twice the frames counted": (lambda: with_counts(headed_mp3(), 2), SECONDS),
    "bytes not counted": (lambda: without_count_of_bytes(headed_mp3()), SECONDS),
    "junk before": (lambda: random_bytes(3000) + headed_mp3(), SECONDS),
    "junk behind": (lambda: headed_mp3() + random_bytes(300_000), SECONDS),
}


@pytest.mark.parametrize("kind", MPEG)
def test_mpeg_audio_is_read_to_the_end(tmp_path: Path, kind: str) -> None:
    make, expected_s = MPEG[kind]
    duration_s, _ = decoded(tmp_path, make())
    n_parts = round(expected_s / SECONDS)
    # Without a header the encoder's delay and padding stay: up to two frames and the last one.
    assert expected_s - FRAME_S <= duration_s <= expected_s + n_parts * 3.5 * FRAME_S


@pytest.mark.parametrize("is_headed", [True, False])
@pytest.mark.parametrize("n_junk", [500, 3000])
@pytest.mark.parametrize("is_inserted", [True, False])
def test_garbage_in_an_mp3_costs_what_it_covers(
    tmp_path: Path, is_headed: bool, n_junk: int, is_inserted: bool
) -> None:
    content = headed_mp3() if is_headed else plain_mp3("CONSTANT")
    whole_s, none = decoded(tmp_path, content)
    assert none == []
    half = len(content) // 2
    rest = content[half:] if is_inserted else content[half + n_junk :]
    duration_s, warnings = decoded(tmp_path, content[:half] + random_bytes(n_junk) + rest)
    covered_s = 0 if is_inserted else n_junk / len(content) * SECONDS
    assert whole_s - covered_s - 2.5 * FRAME_S <= duration_s <= whole_s + 2 * FRAME_S
    assert len(warnings) == 1


def test_an_mp3_goes_on_after_garbage_where_it_stopped(tmp_path: Path) -> None:
    """libsndfile stops there, and FFmpeg goes on at the very next sample."""
    samples = np.sin(2 * np.pi * 441 * np.arange(RATE_HZ * 2) / RATE_HZ) * 0.5
    target = io.BytesIO()
    options = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
    soundfile.write(target, samples, RATE_HZ, format="MP3", **options)
    content = target.getvalue()
    (tmp_path / "x").write_bytes(content)
    whole = load(tmp_path / "x", RATE_HZ)
    half = len(content) // 2
    (tmp_path / "x").write_bytes(content[:half] + random_bytes(3000) + content[half:])
    damaged = load(tmp_path / "x", RATE_HZ)
    assert abs(len(damaged) - len(whole)) <= 2 * 1152
    np.testing.assert_allclose(damaged[:30_000], whole[:30_000], atol=2e-3)
    np.testing.assert_allclose(damaged[-20_000:-3000], whole[-20_000:-3000], atol=2e-3)


def test_a_whole_mp3_by_frames_is_that_by_libsndfile(tmp_path: Path) -> None:
    """A joined file is each of its parts, delay and padding left out, to the sample."""
    content = headed_mp3()
    (tmp_path / "x").write_bytes(content)
    once = load(tmp_path / "x", RATE_HZ)
    (tmp_path / "x").write_bytes(content + id3v1() + content)
    twice = load(tmp_path / "x", RATE_HZ)
    assert len(once) == round(SECONDS * RATE_HZ)
    np.testing.assert_allclose(twice, np.tile(once, 2), atol=1e-4)


def test_a_cut_mp3_whose_header_counts_more_fails(tmp_path: Path) -> None:
    content = headed_mp3()
    assert "missing" in failure_of(tmp_path, content[: len(content) // 2 + 100])
    assert "missing" in failure_of(tmp_path, content + content[: len(content) // 2 + 100])


@pytest.mark.parametrize(("codec", "container"), [("mp2", "mp2"), ("libmp3lame", "mp3")])
def test_joined_mpeg_of_ffmpeg(tmp_path: Path, codec: str, container: str) -> None:
    parts = [
        write_with_ffmpeg(tmp_path / f"{rate}", codec, rate, 1.5, container=container).read_bytes()
        for rate in (44100, 24000)
    ]
    duration_s, _ = decoded(tmp_path, parts[0] + parts[1] + parts[0])
    assert duration_s == pytest.approx(4.5, abs=0.2)


# ---------------------------------------------------------------- Ogg, FLAC


def without_ogg_mark(content: bytes) -> bytes:
    """Up to the last page, which has the mark of the end."""
    return content[: content.rindex(b"OggS")]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("n_junk", [0, 100, 200_000])
def test_chained_ogg_of_one_serial_number(tmp_path: Path, subtype: str, n_junk: int) -> None:
    content = ogg(SECONDS, 48000, 2, subtype).content
    duration_s, warnings = decoded(tmp_path, content * 2 + random_bytes(n_junk))
    assert duration_s == pytest.approx(2 * SECONDS, abs=0.02)
    assert len(warnings) == bool(n_junk)


def test_ogg_that_is_cut(tmp_path: Path) -> None:
    content = ogg(SECONDS, 48000, 2, "VORBIS").content
    failure_of(tmp_path, content[:-100])
    _, warnings = decoded(tmp_path, without_ogg_mark(content))
    assert len(warnings) == 1


def with_flac_total(content: bytes, n_samples: int) -> bytes:
    fields = int.from_bytes(content[18:26], "big") >> 36 << 36 | n_samples
    return content[:18] + fields.to_bytes(8, "big") + content[26:]


def test_flac_of_any_total_and_several(tmp_path: Path) -> None:
    content = flac(SECONDS, RATE_HZ, 2).content
    n_samples = round(SECONDS * RATE_HZ)
    for changed, n_parts, n_warnings in (
        (with_flac_total(content, 0), 1, 0),
        (with_flac_total(content, n_samples // 2), 1, 1),
        (content * 2, 2, 0),
        (content * 3 + id3v1(), 3, 0),
        (content + flac(0.4, 16000, 1).content + content, 2 + 0.4 / SECONDS, 0),
        (id3v2(500) + content * 2, 2, 0),
        (content + random_bytes(5000) + content, 2, 0),
        (random_bytes(5000) + content, 1, 1),
        (content + random_bytes(200_000), 1, 1),
    ):
        duration_s, warnings = decoded(tmp_path, changed)
        assert duration_s == pytest.approx(n_parts * SECONDS, abs=0.001)
        assert len(warnings) == n_warnings
    failure_of(tmp_path, with_flac_total(content, 2 * n_samples))
    failure_of(tmp_path, content[: len(content) // 2])
    failure_of(tmp_path, content + content[: len(content) // 2])


def test_a_long_flac_twice(tmp_path: Path) -> None:
    """The second begins far from the end, where nothing is looked at before decoding."""
    content = flac(20.0, RATE_HZ, 2).content
    assert len(content) > 500_000
    duration_s, _ = decoded(tmp_path, content * 2)
    assert duration_s == pytest.approx(40.0, abs=0.001)


# ---------------------------------------------------------------- WAV, AIFF

LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf59.27.100\0"
BEXT = b"bext" + struct.pack("<I", 602) + b"a description".ljust(602, b"\0")


def claims(n_bytes: int, behind: bytes = b"") -> bytes:
    """A WAV of :func:`tone` in 16 bits whose data chunk says so many bytes."""
    return wav(pcm(tone(), 16), data_n_bytes=n_bytes) + behind


N_BYTES = 2 * round(SECONDS * RATE_HZ)


@pytest.mark.parametrize("behind", [b"", LIST, BEXT + LIST, id3v1(), b"id3 \x0a\0\0\0" + bytes(10)])
@pytest.mark.parametrize(
    "n_bytes",
    [N_BYTES // 4, N_BYTES // 3, 0, 2**31 - 1, 2**32 - 1, N_BYTES + 16, N_BYTES + 36, N_BYTES + 44],
)
def test_wav_of_another_size(tmp_path: Path, n_bytes: int, behind: bytes) -> None:
    content = claims(n_bytes, behind)
    duration_s, warnings = decoded(tmp_path, content)
    assert round(duration_s * RATE_HZ) == N_BYTES // 2, "metadata is not sound, sound is not lost"
    assert len(warnings) == (n_bytes < 2**31 - 1)
    np.testing.assert_allclose(load(tmp_path / "x", RATE_HZ), tone(), atol=1e-4)


@pytest.mark.parametrize("behind", [LIST, BEXT, BEXT + LIST])
def test_an_empty_wav_with_metadata_has_no_samples(tmp_path: Path, behind: bytes) -> None:
    assert "no samples" in failure_of(tmp_path, wav(b"", data_n_bytes=0) + behind)


def test_wav_beyond_4_gib_with_a_wrapped_size(tmp_path: Path) -> None:
    """A sparse file: 2^32 bytes of zeros and then a second of sound; the size is modulo 2^32."""
    data = pcm(music(1.0, rate_hz=48000), 16)
    file = tmp_path / "x.wav"
    with file.open("wb") as stream:
        stream.write(wav(b"", rate_hz=48000, n_channels=64, data_n_bytes=len(data)))
        stream.seek(2**32, io.SEEK_CUR)
        stream.write(data)
        stream.write(LIST)
    info = probe(file)
    assert info.duration_s == pytest.approx((2**32 + len(data)) / 128 / 48000)


def test_joined_wav_and_aiff(tmp_path: Path) -> None:
    for container, subtype in (("WAV", "PCM_24"), ("WAV", "FLOAT"), ("AIFF", "PCM_16")):
        first = pcm_stream(0.75, 44100, 2, container, subtype).content
        second = pcm_stream(0.4, 16000, 1, container, subtype).content
        for content in (first + second, first + random_bytes(20_000) + second):
            duration_s, _ = decoded(tmp_path, content)
            assert duration_s == pytest.approx(1.15, abs=0.001)


@pytest.mark.parametrize("size", [0, 0x7F000000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_aiff_from_a_pipe(tmp_path: Path, size: int) -> None:
    content = bytearray(pcm_stream(SECONDS, RATE_HZ, 2, "AIFF", "PCM_16").content)
    at = content.rindex(b"SSND")
    content[at + 4 : at + 8] = size.to_bytes(4, "big")
    content[4:8] = size.to_bytes(4, "big")
    duration_s, warnings = decoded(tmp_path, bytes(content))
    assert duration_s == pytest.approx(SECONDS, abs=1e-4)
    assert len(warnings) == (size == 0)


def test_samples_that_an_au_header_does_not_count_are_told_of(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.au", tone(), RATE_HZ, "PCM_16")
    content = bytearray((tmp_path / "x.au").read_bytes())
    assert decoded(tmp_path, bytes(content)) == (SECONDS, [])
    content[8:12] = (N_BYTES // 2).to_bytes(4, "big")
    duration_s, warnings = decoded(tmp_path, bytes(content))
    assert duration_s == pytest.approx(SECONDS) or len(warnings) == 1


# ---------------------------------------------------------------- VOC


def voc(*blocks: tuple[int, bytes]) -> bytes:
    head = b"Creative Voice File\x1a" + struct.pack("<HHH", 26, 0x0114, 0x1234 + ~0x0114 & 0xFFFF)
    body = b"".join(bytes([kind]) + len(data).to_bytes(3, "little") + data for kind, data in blocks)
    return head + body + b"\0"


def test_voc_of_several_blocks_is_its_samples(tmp_path: Path) -> None:
    rate_hz = 1_000_000 // (256 - 165)
    samples = music(1.0, rate_hz=rate_hz)
    data = pcm(samples, 8)
    half = len(data) // 2
    sound = bytes([165, 0])
    (tmp_path / "1.voc").write_bytes(voc((1, sound + data)))
    (tmp_path / "3.voc").write_bytes(
        voc(
            (1, sound + data[:half]),
            (5, b"a text\0"),
            (2, data[half:-100]),
            (1, sound + data[-100:]),
        )
    )
    once = load(tmp_path / "1.voc", rate_hz)
    np.testing.assert_array_equal(load(tmp_path / "3.voc", rate_hz), once)
    np.testing.assert_allclose(once, samples, atol=0.01)
    quiet = voc((1, sound + data), (3, struct.pack("<HB", rate_hz - 1, 165)), (1, sound + data))
    duration_s, _ = decoded(tmp_path, quiet)
    assert duration_s == pytest.approx(3.0, abs=0.01)
    new = (
        struct.pack("<IBBHI", 44100, 16, 2, 4, 0)
        + np.repeat((tone() * 32767).astype("<i2"), 2).tobytes()
    )
    duration_s, _ = decoded(tmp_path, voc((9, new), (2, new[12:])))
    assert duration_s == pytest.approx(2 * SECONDS, abs=0.001)
    failure_of(tmp_path, voc((1, sound + data))[:-500])


# ---------------------------------------------------------------- time stamps


def remuxed(
    source: Path, file: Path, *, container: str, delay_s: float = 0.0, gap_s: tuple[float, float]
) -> Path:
    """The packets of ``source`` but those in the gap, all times later by ``delay_s``."""
    with av.open(str(source)) as given, av.open(str(file), "w", format=container) as output:
        stream = given.streams.audio[0]
        copy = output.add_stream_from_template(stream)
        for packet in given.demux(stream):
            if packet.dts is None:
                continue
            time_s = float(packet.pts * packet.time_base)
            if gap_s[0] < time_s < gap_s[1]:
                continue
            later = round(delay_s / packet.time_base)
            packet.pts, packet.dts = packet.pts + later, packet.dts + later
            packet.stream = copy
            output.mux(packet)
    return file


@pytest.mark.parametrize(
    ("codec", "container"),
    [
        ("libopus", "webm"),
        ("aac", "matroska"),
        ("flac", "matroska"),
        ("aac", "mp4"),
        ("aac", "mov"),
        ("libopus", "mp4"),
        ("libopus", "ogg"),
        ("vorbis", "ogg"),
    ],
)
@pytest.mark.parametrize(("delay_s", "gap_s"), [(100.0, (0, 0)), (0.0, (2, 4)), (7.5, (2, 4))])
def test_times_that_begin_late_or_have_gaps(
    tmp_path: Path, codec: str, container: str, delay_s: float, gap_s: tuple[float, float]
) -> None:
    rate_hz = 48000
    if codec == "vorbis":
        source = write_audio(tmp_path / "s.ogg", 6.0, rate_hz=rate_hz)
    else:
        source = write_with_ffmpeg(
            tmp_path / "s.mka", codec, rate_hz, 6.0, container="matroska", options={}
        )
    file = remuxed(source, tmp_path / "x", container=container, delay_s=delay_s, gap_s=gap_s)
    duration_s, _ = decoded(tmp_path, file.read_bytes())
    assert duration_s == pytest.approx(6.0 - (gap_s[1] - gap_s[0]), abs=0.15)


# ---------------------------------------------------------------- channels


@pytest.mark.parametrize(
    ("codec", "container", "n_channels"),
    [
        ("aac", "mp4", 8),
        ("alac", "mp4", 8),
        ("libopus", "webm", 8),
        ("libopus", "ogg", 8),
        ("wavpack", "wv", 8),
        ("flac", "matroska", 8),
        ("tta", "tta", 8),
        ("pcm_s16le", "mov", 8),
        ("pcm_s16le", "mov", 16),
        ("pcm_s24be", "mov", 32),
        ("pcm_f32le", "matroska", 64),
    ],
)
def test_many_channels_of_every_codec(
    tmp_path: Path, codec: str, container: str, n_channels: int
) -> None:
    samples = music(1.0, rate_hz=48000)
    file = tmp_path / "x"
    layout = "7.1" if n_channels == 8 else f"{n_channels} channels"
    if codec == "alac":
        layout = "7.1(wide)"
    with av.open(str(file), "w", format=container) as output:
        options = {"mapping_family": "1"} if codec == "libopus" else {}
        stream = output.add_stream(codec, rate=48000, layout=layout, options=options)
        stream.codec_context.open()
        packed = np.repeat(samples, n_channels).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate, frame.pts = 48000, 0
        resampler = av.AudioResampler(
            stream.format, layout, 48000, frame_size=stream.codec_context.frame_size or 1024
        )
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            output.mux(stream.encode(part))
    assert probe(file).n_channels == n_channels
    waveform = load(file, 48000)
    assert len(waveform) == pytest.approx(48000, abs=3000)
    levels = np.std(waveform[5000:40_000]), np.std(samples[5000:40_000])
    assert levels[0] == pytest.approx(levels[1], rel=0.25)


# ---------------------------------------------------------------- coded sound in a WAV


@pytest.mark.parametrize("lead", [0, 4000])
def test_ac3_bursts_in_a_wav_are_decoded(tmp_path: Path, lead: int) -> None:
    source = write_with_ffmpeg(tmp_path / "s.ac3", "ac3", 48000, 3.0)
    bursts = tmp_path / "bursts"
    with av.open(str(source)) as given, av.open(str(bursts), "w", format="spdif") as output:
        stream = given.streams.audio[0]
        copy = output.add_stream_from_template(stream)
        for packet in given.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                output.mux(packet)
    content = wav(bytes(lead) + bursts.read_bytes(), n_channels=2, rate_hz=48000)
    (tmp_path / "x").write_bytes(content)
    waveform = load(tmp_path / "x", 48000)
    expected = music(3.0, rate_hz=48000)
    assert len(waveform) == pytest.approx(len(expected), abs=5000)
    delays = np.correlate(waveform[20_000:60_000], expected[20_000:50_000], "valid")
    assert delays.max() > 0.9 * np.sum(expected[20_000:50_000] ** 2)


# ---------------------------------------------------------------- samples


def test_the_largest_samples_are_finite(tmp_path: Path) -> None:
    samples = np.full((8000, 2), 3.3e38, np.float32)
    soundfile.write(tmp_path / "x.wav", samples, 8000, "FLOAT")
    assert load(tmp_path / "x.wav", 8000).max() == np.float32(3.3e38)


def test_paths_are_text_or_path(tmp_path: Path) -> None:
    file = tmp_path / "x.wav"
    soundfile.write(file, tone(), RATE_HZ)
    np.testing.assert_array_equal(load(str(file), 16000), load(file, 16000))
    assert probe(str(file)) == probe(file)
