"""Whatever a music library holds: formats, headers that lie, and files that are several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from loev_cli.audio import AUDIO_EXTENSIONS, find, load, probe
from loev_cli.errors import InputError
from tests.audio.common import cut_in_half, dsf, pcm, silent_ape, wav, write_with_ffmpeg
from tests.conftest import music, write_audio

RATE_HZ = 44100


def correlation(waveform: np.ndarray, expected: np.ndarray, *, delay_n_max: int = 0) -> float:
    """The highest over the delays, up to ``delay_n_max`` either way, that an encoder may add."""
    n_fft = 2 * max(len(waveform), len(expected))
    spectra = [np.fft.rfft(x.astype(np.float64), n_fft) for x in (waveform, expected)]
    products = np.fft.irfft(spectra[0] * np.conj(spectra[1]), n_fft)
    near = np.concatenate([products[: delay_n_max + 1], products[n_fft - delay_n_max :]])
    return float(near.max() / (np.linalg.norm(waveform) * np.linalg.norm(expected)))


def failure_of(file: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(file, RATE_HZ)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- by format


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.aiff", {}),
        ("x.au", {}),
        ("x.caf", {}),
        ("x.w64", {}),
        ("x.flac", {"subtype": "PCM_24"}),
        ("x.ogg", {}),
        ("x.mp3", {}),
        ("pcm8.wav", {"subtype": "PCM_U8"}),
        ("pcm32.wav", {"subtype": "PCM_32"}),
        ("double.wav", {"subtype": "DOUBLE"}),
        ("law.wav", {"subtype": "ULAW"}),
        ("x.rf64", {}),
        ("x.opus", {"format": "OGG", "subtype": "OPUS"}),
    ],
)
def test_formats_of_libsndfile(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    file = write_audio(tmp_path / name, 3.0, rate_hz=16000, **options)
    waveform = load(file, 16000)
    assert abs(len(waveform) - 48000) <= 1600
    assert correlation(waveform, music(3.0, rate_hz=16000)) > 0.95


@pytest.mark.parametrize(
    ("name", "codec", "layout", "container"),
    [
        ("x.m4a", "aac", "stereo", None),
        ("surround.m4a", "aac", "5.1", None),
        ("alac.m4a", "alac", "stereo", None),
        ("alac.caf", "alac", "stereo", None),
        ("flac.m4a", "flac", "stereo", "mp4"),
        ("x.3gp", "aac", "stereo", None),
        ("x.aac", "aac", "stereo", "adts"),
        ("x.wma", "wmav2", "stereo", "asf"),
        ("x.wv", "wavpack", "stereo", None),
        ("x.tta", "tta", "stereo", None),
        ("x.mka", "pcm_s16le", "stereo", None),
        ("flac.mka", "flac", "stereo", None),
        ("flac.ogg", "flac", "stereo", "ogg"),
        ("x.webm", "libopus", "stereo", None),
        ("x.mov", "pcm_s16be", "stereo", None),
        ("x.avi", "libmp3lame", "stereo", None),
        ("x.flv", "aac", "stereo", None),
        ("x.mpg", "mp2", "stereo", None),
        ("x.mp2", "mp2", "mono", None),
        ("x.ac3", "ac3", "5.1", None),
        ("mp3.wav", "libmp3lame", "stereo", "wav"),
    ],
)
def test_formats_of_ffmpeg(
    tmp_path: Path, name: str, codec: str, layout: str, container: str | None
) -> None:
    rate_hz = 48000 if codec == "libopus" else RATE_HZ
    file = write_with_ffmpeg(tmp_path / name, codec, rate_hz, layout=layout, container=container)
    waveform = load(file, rate_hz)
    assert abs(len(waveform) - 3 * rate_hz) < 2500
    # Containers without gapless information keep the encoder's delay.
    assert correlation(waveform, music(3.0, rate_hz=rate_hz), delay_n_max=2500) > 0.95
    assert probe(file).duration_s == pytest.approx(3.0, abs=0.1)
    assert find([str(tmp_path)])[0].file == file


def test_monkeys_audio(tmp_path: Path) -> None:
    file = tmp_path / "x.ape"
    file.write_bytes(silent_ape(200_000))
    np.testing.assert_array_equal(load(file, RATE_HZ), np.zeros(200_000, np.float32))
    assert probe(file).n_channels == 2
    failure_of(cut_in_half(file))


@pytest.mark.parametrize("rate_hz", [2_822_400, 22_579_200])
def test_direct_stream_digital(tmp_path: Path, rate_hz: int) -> None:
    seconds = 1.0 if rate_hz < 3_000_000 else 0.25
    file = tmp_path / "x.dsf"
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(int(seconds * rate_hz)) / rate_hz)
    file.write_bytes(dsf(tone.astype(np.float32), rate_hz))
    waveform = load(file, 16000)
    assert len(waveform) == pytest.approx(16000 * seconds, abs=200)
    middle = waveform[100:-300]
    expected = np.sin(2 * np.pi * 1000 * np.arange(len(middle)) / 16000).astype(np.float32)
    assert correlation(middle, expected, delay_n_max=16) > 0.99


@pytest.mark.parametrize("n_bits", [8, 12, 16, 20, 24, 32])
@pytest.mark.parametrize("kind", ["plain", "extensible", "big-endian"])
def test_every_depth_of_wav(tmp_path: Path, n_bits: int, kind: str) -> None:
    samples = music(1.0, rate_hz=RATE_HZ)
    big_endian = kind == "big-endian"
    data = pcm(samples, n_bits, big_endian=big_endian)
    whole_bits = (n_bits + 7) // 8 * 8
    (tmp_path / "x.wav").write_bytes(
        wav(data, n_bits=whole_bits, extensible=n_bits, big_endian=False)
        if kind == "extensible"
        else wav(data, n_bits=n_bits, big_endian=big_endian)
    )
    np.testing.assert_allclose(load(tmp_path / "x.wav", RATE_HZ), samples, atol=2.1 / 2**n_bits)


def test_wav_of_floats_and_of_long_integers(tmp_path: Path) -> None:
    samples = music(1.0, rate_hz=RATE_HZ)
    file = tmp_path / "x.wav"
    for content in (
        wav(samples.tobytes(), n_bits=32, tag=3),
        wav(samples.tobytes(), n_bits=32, tag=3, extensible=32),
        wav(samples.astype("<f8").tobytes(), n_bits=64, tag=3),
        wav((samples.astype("<f8") * 2.0**63).astype("<i8").tobytes(), n_bits=64),
    ):
        file.write_bytes(content)
        np.testing.assert_allclose(load(file, RATE_HZ), samples, atol=1e-7)
    file.write_bytes(wav(samples.astype("<f2").tobytes(), n_bits=16, tag=3))
    assert "unreadable audio format" in failure_of(file)


def test_content_decides_over_the_extension(tmp_path: Path) -> None:
    write_audio(tmp_path / "x.flac").rename(tmp_path / "really_flac.mp3")
    write_with_ffmpeg(tmp_path / "x.m4a", "aac").rename(tmp_path / "really_m4a.mp3")
    write_with_ffmpeg(tmp_path / "x.mkv", "aac").rename(tmp_path / "really_mkv.wav")
    write_audio(tmp_path / "x.wav").rename(tmp_path / "really_wav.m4a")
    assert len(load(tmp_path / "really_flac.mp3", 8000)) == 16000
    assert len(load(tmp_path / "really_wav.m4a", 8000)) == 16000
    for name in ("really_m4a.mp3", "really_mkv.wav"):
        assert len(load(tmp_path / name, 8000)) == pytest.approx(24000, abs=500)


def test_extensions_are_spelled_as_they_are_looked_up() -> None:
    assert all(name == name.lower() and name.startswith(".") for name in AUDIO_EXTENSIONS)


# ---------------------------------------------------------------- headers that lie


@pytest.mark.parametrize("n_channels", [3, 8, 64, 255, 1024])
def test_many_channels(tmp_path: Path, n_channels: int) -> None:
    samples = music(0.5, rate_hz=RATE_HZ)
    data = np.repeat((samples * 32767).astype("<i2"), n_channels).tobytes()
    (tmp_path / "x.wav").write_bytes(wav(data, n_channels=n_channels))
    np.testing.assert_allclose(load(tmp_path / "x.wav", RATE_HZ), samples, atol=1e-4)


@pytest.mark.parametrize("n_channels", [0, 1025, 65535])
def test_impossible_channels(tmp_path: Path, n_channels: int) -> None:
    (tmp_path / "x.wav").write_bytes(wav(bytes(200_000), n_channels=n_channels))
    assert "not a valid audio header" in failure_of(tmp_path / "x.wav")


@pytest.mark.parametrize("rate_hz", [8000, 192_000, 384_000, 768_000])
def test_rates(tmp_path: Path, rate_hz: int) -> None:
    data = pcm(music(1.0, rate_hz=rate_hz), 24)
    (tmp_path / "x.wav").write_bytes(wav(data, n_bits=24, rate_hz=rate_hz))
    assert len(load(tmp_path / "x.wav", 16000)) == 16000


@pytest.mark.parametrize("rate_hz", [0, 1, 999, 2**31, 2**32 - 1])
def test_impossible_rates(tmp_path: Path, rate_hz: int) -> None:
    (tmp_path / "x.wav").write_bytes(wav(bytes(100_000), rate_hz=rate_hz))
    failure_of(tmp_path / "x.wav")


@pytest.mark.parametrize("n_bytes", [0, 2**31 - 2, 2**31, 2**32 - 1])
def test_a_length_that_means_unknown(tmp_path: Path, n_bytes: int) -> None:
    data = pcm(music(1.0, rate_hz=RATE_HZ), 16)
    (tmp_path / "x.wav").write_bytes(wav(data, data_n_bytes=n_bytes))
    assert len(load(tmp_path / "x.wav", RATE_HZ)) == RATE_HZ


def test_a_length_that_promises_too_much(tmp_path: Path) -> None:
    data = pcm(music(1.0, rate_hz=RATE_HZ), 16)
    (tmp_path / "x.wav").write_bytes(wav(data, data_n_bytes=2**30))
    assert "bytes are missing" in failure_of(tmp_path / "x.wav")


def flac_that_claims(n_samples: int, file: Path) -> Path:
    """A FLAC file of 3 s with another number of samples (36 bits) in its header."""
    content = bytearray(write_audio(file, 3.0, rate_hz=RATE_HZ).read_bytes())
    field = int.from_bytes(content[18:26], "big") >> 36 << 36 | n_samples
    content[18:26] = field.to_bytes(8, "big")
    file.write_bytes(content)
    return file


def test_flac_of_unknown_length_as_pipes_write_it(tmp_path: Path) -> None:
    file = flac_that_claims(0, tmp_path / "x.flac")
    np.testing.assert_allclose(load(file, RATE_HZ), music(3.0, rate_hz=RATE_HZ), atol=1e-4)
    assert probe(file).duration_s == 3.0


@pytest.mark.parametrize("n_samples", [10 * RATE_HZ, 2**31, 2**36 - 1])
def test_flac_that_promises_too_much(tmp_path: Path, n_samples: int) -> None:
    assert "cannot be decoded" in failure_of(flac_that_claims(n_samples, tmp_path / "x.flac"))


@pytest.mark.parametrize("tag_n_bytes", [100, 3_000_000])
@pytest.mark.parametrize("name", ["x.flac", "x.mp3"])
def test_tags_before_the_audio(tmp_path: Path, name: str, tag_n_bytes: int) -> None:
    file = write_audio(tmp_path / name, 3.0, rate_hz=RATE_HZ)
    size = bytes(tag_n_bytes >> shift & 0x7F for shift in (21, 14, 7, 0))
    file.write_bytes(b"ID3\x04\0\0" + size + bytes(tag_n_bytes) + file.read_bytes())
    assert len(load(file, RATE_HZ)) == 3 * RATE_HZ


@pytest.mark.parametrize("name", ["x.flac", "x.mp3", "x.ogg", "x.wav"])
@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), b"APETAGEX" + bytes(200_000)])
def test_tags_behind_the_audio(tmp_path: Path, name: str, tail: bytes) -> None:
    file = write_audio(tmp_path / name, 3.0, rate_hz=RATE_HZ)
    file.write_bytes(file.read_bytes() + tail)
    assert len(load(file, RATE_HZ)) == 3 * RATE_HZ


# ---------------------------------------------------------------- several in one


def test_joined_mp3_files_are_read_to_the_end(tmp_path: Path) -> None:
    first = write_audio(tmp_path / "1.mp3", 3.0, rate_hz=RATE_HZ).read_bytes()
    other = write_audio(tmp_path / "2.mp3", 2.0, rate_hz=22050).read_bytes()
    for name, content, seconds in (("same", first * 2, 6), ("rates", first + other, 5)):
        file = tmp_path / f"{name}.mp3"
        file.write_bytes(content)
        assert len(load(file, 8000)) == pytest.approx(seconds * 8000, abs=1600)


@pytest.mark.parametrize(("name", "rate_hz"), [("x.ogg", 44100), ("x.opus", 48000)])
def test_chained_ogg_is_read_to_the_end(tmp_path: Path, name: str, rate_hz: int) -> None:
    options = {"format": "OGG", "subtype": "OPUS" if name == "x.opus" else "VORBIS"}
    content = write_audio(tmp_path / name, 3.0, rate_hz=rate_hz, **options).read_bytes()
    serial = content[14:18]
    file = tmp_path / f"chained-{name}"
    file.write_bytes(content + with_serial(content, bytes(255 - b for b in serial)))
    assert len(load(file, 8000)) == pytest.approx(6 * 8000, abs=400)


def with_serial(content: bytes, serial: bytes) -> bytes:
    """An Ogg file with another serial number in every page, and the checksums that go with it."""
    pages = bytearray(content)
    at = 0
    while at < len(pages):
        n_segments = pages[at + 26]
        n_bytes = 27 + n_segments + sum(pages[at + 27 : at + 27 + n_segments])
        pages[at + 14 : at + 18] = serial
        pages[at + 22 : at + 26] = bytes(4)
        pages[at + 22 : at + 26] = ogg_checksum(pages[at : at + n_bytes]).to_bytes(4, "little")
        at += n_bytes
    return bytes(pages)


def ogg_checksum(page: bytes) -> int:
    table = []
    for i in range(256):
        value = i << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(value)
    checksum = 0
    for byte in page:
        checksum = (checksum << 8 ^ table[checksum >> 24 ^ byte]) & 0xFFFFFFFF
    return checksum


@pytest.mark.parametrize("layouts", [("stereo", "mono"), ("mono", "stereo")])
def test_joined_aac_of_other_rates_and_channels(tmp_path: Path, layouts: tuple[str, str]) -> None:
    parts = [
        write_with_ffmpeg(tmp_path / f"{i}.aac", "aac", rate, layout=layout, container="adts")
        for i, (layout, rate) in enumerate(zip(layouts, (44100, 22050), strict=True))
    ]
    file = tmp_path / "x.aac"
    file.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert len(load(file, 8000)) == pytest.approx(6 * 8000, abs=1600)


# ---------------------------------------------------------------- broken off


@pytest.mark.parametrize("name", ["x.wav", "x.aiff", "x.flac", "x.mp3", "x.au", "x.w64", "x.rf64"])
def test_truncated_files(tmp_path: Path, name: str) -> None:
    failure_of(cut_in_half(write_audio(tmp_path / name, 10.0, rate_hz=RATE_HZ)))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("x.m4a", "aac", {}),
        ("x.m4a", "aac", {"movflags": "faststart"}),
        ("x.wma", "wmav2", {}),
        ("x.wv", "wavpack", {}),
        ("x.tta", "tta", {}),
        ("x.mka", "aac", {}),
        ("x.mkv", "flac", {}),
        ("x.webm", "libopus", {}),
    ],
)
def test_truncated_files_of_ffmpeg(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    container = "asf" if name == "x.wma" else None
    rate_hz = 48000 if codec == "libopus" else RATE_HZ
    file = write_with_ffmpeg(
        tmp_path / name, codec, rate_hz, 10.0, container=container, options=options
    )
    assert len(load(file, 8000)) == pytest.approx(80_000, abs=800)
    failure_of(cut_in_half(file))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_of_ffmpeg(tmp_path: Path, bad: float) -> None:
    samples = music(1.0, rate_hz=RATE_HZ)
    samples[1000] = bad
    soundfile.write(tmp_path / "x.caf", samples, RATE_HZ, "FLOAT")
    assert "NaN or infinite" in failure_of(tmp_path / "x.caf")
