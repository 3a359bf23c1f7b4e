"""Finding and decoding files."""

from __future__ import annotations

import io
import os
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from loev_cli.audio import decode, find, load, probe
from loev_cli.errors import InputError, UsageError
from tests.audio.common import write_with_ffmpeg
from tests.conftest import RATE_HZ, music, write_audio


def names(inputs: list[str], **options: object) -> list[str]:
    return [source.path for source in find(inputs, **options)]  # type: ignore[arg-type]


# ---------------------------------------------------------------- find


def test_a_folder_gives_paths_relative_to_it_sorted_by_folder(library: Path) -> None:
    assert names([str(library)]) == [
        "long one.flac",
        "short.WAV",
        "a/same.wav",
        "b/same.wav",
        "ü é/日本 🎵.wav",
    ]


def test_several_inputs_keep_the_folder_as_given(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(library)
    assert names(["a/", "b", "short.WAV"]) == ["a/same.wav", "b/same.wav", "short.WAV"]
    assert names([".", "b"])[:2] == ["./long one.flac", "./short.WAV"]


def test_the_same_file_is_never_twice(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(library)
    assert names(["a", "./a/same.wav", str(library / "a/same.wav"), "a"]) == ["a/same.wav"]


def test_the_same_file_by_other_spellings_is_not_a_second_row(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(library)
    (tmp_path / "elsewhere").symlink_to(library / "a")
    monkeypatch.chdir(library / "b")
    spelled = ["../a", str(library / "a"), "../b/../a/same.wav", f"{tmp_path}/link/a"]
    assert names(spelled) == ["../a/same.wav"]
    assert names(spelled[::-1]) == [f"{tmp_path}/link/a/same.wav"]
    listed = "\n".join(f"{folder}/same.wav" for folder in ["../a", library / "a", ".", ""])
    assert names(["-"], stdin=io.BytesIO(listed.encode())) == [
        *("../a/same.wav", "./same.wav", "/same.wav")
    ]
    # The folder that the link leads to is a, and what is above it the library: no textual rule
    assert names([f"{tmp_path}/elsewhere/../b", "."]) == [f"{tmp_path}/elsewhere/../b/same.wav"]
    assert len(names([str(library), f"{tmp_path}/link"])) == 5


def test_links_to_a_file_are_rows_of_their_own(library: Path) -> None:
    """As copies are: they have names, and may have meanings, of their own."""
    (library / "a" / "soft.wav").symlink_to(library / "a" / "same.wav")
    (library / "a" / "hard.wav").hardlink_to(library / "a" / "same.wav")
    assert names([str(library / "a")]) == ["hard.wav", "same.wav", "soft.wav"]


def test_folders_are_resolved_once(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be a million files in them."""
    for i in range(20):
        (library / "a" / f"{i}.wav").touch()
    real, asked = os.path.realpath, []
    monkeypatch.setattr(os.path, "realpath", lambda path: (asked.append(path), real(path))[1])
    assert len(names([str(library)])) == 25
    assert len(asked) == len(set(asked)) == 4


def test_a_single_file_is_named_as_given_whatever_its_extension(library: Path) -> None:
    odd = library / "notes.txt"
    odd.write_text("hello")
    assert names([str(odd)]) == [str(odd)]


def test_folders_skip_hidden_and_other_files(library: Path) -> None:
    for hidden in (".hidden.wav", ".git/x.wav", "._resource.mp3", "cover.jpg", "a/readme.md"):
        (library / hidden).parent.mkdir(exist_ok=True)
        (library / hidden).touch()
    assert len(names([str(library)])) == 5


@pytest.mark.parametrize(
    ("extension", "codec", "container"),
    [
        (".ts", "mp2", "mpegts"),
        (".m2ts", "ac3", "mpegts"),
        (".MTS", "ac3", "mpegts"),
        (".m2t", "mp2", "mpegts"),
        (".vob", "mp2", "vob"),
        (".nut", "pcm_s16le", "nut"),
        (".m4p", "aac", "ipod"),
        (".f4a", "aac", "mp4"),
        (".f4v", "aac", "mp4"),
        (".wtv", "mp2", "wtv"),
        (".mk3d", "flac", "matroska"),
        (".webm", "libopus", "webm"),
    ],
)
def test_folders_are_searched_for_all_that_ffmpeg_hears(
    tmp_path: Path, extension: str, codec: str, container: str
) -> None:
    file = tmp_path / f"x{extension}"
    rate_hz = 48000 if codec == "libopus" else 44100
    write_with_ffmpeg(file, codec, rate_hz, container=container)
    (source,) = find([str(tmp_path)])
    assert source.file == file
    assert len(load(file, 16000)) == pytest.approx(3 * 16000, rel=0.05)


@pytest.mark.parametrize("extension", [".tak", ".oma", ".mxf", ".dv", ".rmvb", ".ts"])
def test_damaged_files_are_found_all_the_same(tmp_path: Path, extension: str) -> None:
    (tmp_path / f"x{extension}").write_bytes(bytes(400))
    assert names([str(tmp_path)]) == [f"x{extension}"]


def test_what_is_passed_over_is_counted_by_extension(library: Path) -> None:
    others = ["cover.jpg", "a/Cover.JPG", "notes.txt", "a/Vol. 3 (live)", "LICENSE", "code.ts"]
    for name in [*others, ".hidden.txt", ".git/x.jpg", "a/.DS_Store"]:
        (library / name).parent.mkdir(exist_ok=True)
        (library / name).write_text("export const n: number = 1; // naïve\n" * 200)
    passed_over: Counter[str] = Counter()
    assert len(find([str(library)], passed_over=passed_over)) == 5
    assert passed_over == {".jpg": 2, ".txt": 1, "": 2, ".ts": 1}


def test_links_are_followed_and_loops_end(library: Path, tmp_path: Path) -> None:
    (library / "a" / "up").symlink_to(library)
    (library / "a" / "self").symlink_to(library / "a")
    elsewhere = write_audio(tmp_path / "elsewhere" / "linked.wav").parent
    (library / "0 link").symlink_to(elsewhere)
    (library / "0 twin").symlink_to(library / "b")
    found = names([str(library)])
    assert "0 link/linked.wav" in found
    assert "b/same.wav" in found, "a file has its name by the folder it really lies in"
    assert len(found) == 6


def test_stdin_lists_paths_by_line_or_nul(library: Path) -> None:
    files = [str(library / "b/same.wav"), str(library / "ü é/日本 🎵.wav"), "gone.wav"]
    lines = io.BytesIO("\r\n".join(files).encode() + b"\n\n")
    assert names(["-"], stdin=lines) == files
    odd = [*files, "with\nnewline.wav"]
    nul = io.BytesIO("\0".join(odd).encode() + b"\0")
    assert names(["-"], stdin=nul, null=True) == odd


def test_a_folder_on_stdin_is_searched_under_its_name(library: Path) -> None:
    stdin = io.BytesIO(str(library / "a").encode())
    assert names(["-"], stdin=stdin) == [f"{library}/a/same.wav"]


def test_an_argument_that_does_not_exist_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no such file or folder: /no/such"):
        find(["/no/such"])


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_names_that_are_no_utf8_are_spelled_out(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    write_audio(tmp_path / "x.wav").rename(os.fsdecode(raw))
    (source,) = find([str(tmp_path)])
    assert source.path == "caf\\xe9.wav"
    assert len(load(source.file, RATE_HZ)) == 2 * RATE_HZ
    write_audio(tmp_path / "caf\\xe9.wav")  # a file really called so has a row of its own
    assert names([str(tmp_path)]) == ["caf\\\\xe9.wav", "caf\\xe9.wav"]


def test_a_list_written_on_windows(library: Path) -> None:
    file = str(library / "b/same.wav")
    stdin = io.BytesIO(b"\xef\xbb\xbf" + file.encode() + b"\r\n\r\n  \r\ngone.wav\r\n")
    assert names(["-"], stdin=stdin) == [file, "gone.wav"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "listed", ["{0}/b/same.wav\r\n{0}/x.wav\r\n", "{0}/ü é/日本.wav\n", "日\n"]
)
def test_a_list_in_utf_16_is_told_by_name(library: Path, encoding: str, listed: str) -> None:
    stdin = io.BytesIO(listed.format(library).encode(encoding))
    with pytest.raises(UsageError, match=r"UTF-16.*iconv -f utf-16(le|be)? -t utf-8"):
        find(["-"], stdin=stdin)


@pytest.mark.parametrize("separator", ["\n", "\0"])
def test_a_nul_separated_list_in_utf_16_is_told_by_name(library: Path, separator: str) -> None:
    listed = separator.join([f"{library}/b/same.wav", "日本.wav", ""])
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        with pytest.raises(UsageError, match="UTF-16"):
            find(["-"], stdin=io.BytesIO(listed.encode(encoding)), null=True)


def test_lists_that_only_look_like_utf_16(library: Path) -> None:
    with pytest.raises(UsageError, match="use --null"):
        find(["-"], stdin=io.BytesIO(f"{library}/b/same.wav\0x.wav\0".encode()))
    short = [b"a", b"b", b"\xff\xfea"]
    found = find(["-"], stdin=io.BytesIO(b"\0".join(short)), null=True)
    assert [os.fsencode(source.location) for source in found] == short
    found = find(["-"], stdin=io.BytesIO(b"\xff\xfe.wav\nx.wav\n"))
    assert [source.path for source in found] == ["\\xff\\xfe.wav", "x.wav"]


def test_an_empty_argument_is_not_the_current_folder() -> None:
    with pytest.raises(UsageError, match="an input is empty"):
        find([""])


def test_a_path_too_long_to_look_at_fails_alone(library: Path) -> None:
    long, good = "x" * 5000 + ".wav", str(library / "b/same.wav")
    assert names(["-"], stdin=io.BytesIO(f"{long}\n{good}".encode())) == [long, good]
    with pytest.raises(UsageError, match="File name too long"):
        find([long])


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_link_that_may_not_be_followed_is_named(library: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    write_audio(locked / "music" / "x.wav")
    (library / "0 link").symlink_to(locked / "music")
    (library / "0 loop").symlink_to("0 loop")
    locked.chmod(0)
    try:
        if os.access(locked / "music", os.F_OK):
            pytest.skip("this user may look anywhere")
        found = find([str(library)])
    finally:
        locked.chmod(0o700)
    assert len(found) == 6
    assert found[-1].path == "0 link"


# ---------------------------------------------------------------- decode


def test_the_same_rate_is_passed_on_exactly(tmp_path: Path) -> None:
    file = write_audio(tmp_path / "x.wav", 9.7)
    decoding = decode(file, RATE_HZ)
    waveform = np.concatenate(list(decoding))
    np.testing.assert_array_equal(waveform, music(9.7))
    assert waveform.dtype == np.float32
    assert decoding.duration_s == pytest.approx(9.7)
    assert decoding.peak == np.abs(waveform).max()


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 44100, 48000, 96000])
def test_a_tone_keeps_its_frequency_level_and_length(tmp_path: Path, rate_hz: int) -> None:
    t = np.arange(rate_hz * 10) / rate_hz
    soundfile.write(tmp_path / "x.wav", 0.5 * np.sin(2 * np.pi * 1000 * t), rate_hz, "FLOAT")
    waveform = load(tmp_path / "x.wav", 16000)
    assert abs(len(waveform) - 160000) <= 1
    middle = waveform[1000:-1000].astype(np.float64)
    t = np.arange(1000, len(waveform) - 1000) / 16000
    assert np.abs(middle - 0.5 * np.sin(2 * np.pi * 1000 * t)).max() < 1e-3


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 44100])
def test_mono_equals_dual_mono(tmp_path: Path, rate_hz: int) -> None:
    mono = music(6.0, rate_hz=rate_hz)
    for channels in (1, 2, 3, 6):
        soundfile.write(tmp_path / f"{channels}.wav", np.stack([mono] * channels, 1), rate_hz)
    expected = load(tmp_path / "1.wav", RATE_HZ)
    np.testing.assert_array_equal(load(tmp_path / "2.wav", RATE_HZ), expected)
    for channels in (3, 6):
        np.testing.assert_allclose(load(tmp_path / f"{channels}.wav", RATE_HZ), expected, atol=1e-6)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = music(2.0, seed=1), music(2.0, seed=2)
    soundfile.write(tmp_path / "x.wav", np.stack([left, right], 1), RATE_HZ, "FLOAT")
    np.testing.assert_allclose(load(tmp_path / "x.wav", RATE_HZ), (left + right) / 2, atol=1e-7)


def test_a_long_file_comes_in_small_blocks(tmp_path: Path) -> None:
    file = write_audio(tmp_path / "x.wav", 60.0, rate_hz=44100)
    sizes = [len(block) for block in decode(file, RATE_HZ)]
    assert max(sizes) <= 5 * RATE_HZ
    assert sum(sizes) == 60 * RATE_HZ


def test_many_channels_at_a_high_rate_come_in_small_blocks(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros((192_000 * 2, 64), np.int16), 192_000)
    assert len(load(tmp_path / "x.wav", RATE_HZ)) == 2 * RATE_HZ


# ---------------------------------------------------------------- broken files


def failure_of(file: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        load(file, RATE_HZ)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    return caught.value


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    assert failure_of(tmp_path / "gone.wav").stage == "open"
    assert failure_of(tmp_path).stage == "open"
    text = tmp_path / "text.mp3"
    text.write_text("not music\n" * 100)
    assert failure_of(text).stage == "open"
    empty = tmp_path / "empty.wav"
    empty.touch()
    assert "empty" in str(failure_of(empty))
    noise = tmp_path / "noise.flac"
    noise.write_bytes(np.random.default_rng(0).bytes(50_000))
    assert failure_of(noise).stage == "open"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    thread = threading.Thread(target=failure_of, args=(tmp_path / "pipe.wav",), daemon=True)
    thread.start()
    thread.join(timeout=5)
    assert not thread.is_alive()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_samples(tmp_path: Path, bad: float) -> None:
    samples = music(5.0)
    samples[30_000] = bad
    soundfile.write(tmp_path / "x.wav", samples, RATE_HZ, "FLOAT")
    error = failure_of(tmp_path / "x.wav")
    assert error.stage == "decode"
    assert "NaN or infinite" in str(error)


def test_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(0), RATE_HZ)
    assert "no samples" in str(failure_of(tmp_path / "x.wav"))
    soundfile.write(tmp_path / "one.wav", np.ones(1), 768_000)
    assert "too short" in str(failure_of(tmp_path / "one.wav"))


def test_an_implausible_rate(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", music(1.0), 1)
    assert "1 Hz" in str(failure_of(tmp_path / "x.wav"))


def test_a_wav_of_unknown_length_as_pipes_write_it_is_no_truncation(tmp_path: Path) -> None:
    file = write_audio(tmp_path / "x.wav", subtype="PCM_16")
    content = bytearray(file.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = content[4:8] = b"\xff\xff\xff\xff"
    file.write_bytes(content)
    assert len(load(file, RATE_HZ)) == 2 * RATE_HZ


def test_an_mp3_without_a_length_header_is_no_truncation(tmp_path: Path) -> None:
    loud_at_the_end = np.concatenate([np.zeros(44100 * 20), music(5.0, rate_hz=44100)])
    file = tmp_path / "x.mp3"
    soundfile.write(file, loud_at_the_end, 44100, bitrate_mode="VARIABLE", compression_level=0.3)
    content = file.read_bytes()
    assert b"Xing" in content[:200]
    file.write_bytes(content[content.index(b"\xff\xfb", 100) :])  # from the second frame on
    assert len(load(file, 8000)) == pytest.approx(25 * 8000, rel=0.02)


def test_a_playlist_in_disguise_opens_no_other_file(tmp_path: Path) -> None:
    target = write_audio(tmp_path / "secret.wav")
    for name, text in {
        "hls.mp3": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
        "concat.mp3": f"ffconcat version 1.0\nfile '{target.name}'\n",
    }.items():
        (tmp_path / name).write_text(text)
        failure_of(tmp_path / name)


def test_probe_reads_the_header_only(tmp_path: Path) -> None:
    info = probe(write_audio(tmp_path / "x.flac", 3.0, rate_hz=44100))
    assert (info.duration_s, info.sample_rate_hz, info.n_channels) == (3.0, 44100, 1)
