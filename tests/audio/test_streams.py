"""Valid streams joined, cut and put among other bytes: no sample is lost in silence."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loev_cli.audio import decode
from loev_cli.errors import InputError
from tests.audio.streams import Stream, apev2, flac, id3v1, id3v2, mp3, ogg, pcm

# The figures in docs/inputs.md: LOEV_STREAM_EXAMPLES=2000, five formats.
N_EXAMPLES = int(os.environ.get("LOEV_STREAM_EXAMPLES", "60"))

seconds = st.sampled_from([0.4, 0.75, 1.3])
channels = st.sampled_from([1, 2])
FORMATS: dict[str, st.SearchStrategy[Stream]] = {
    "mp3": st.builds(
        mp3,
        seconds,
        st.sampled_from([44100, 48000, 22050, 16000]),
        channels,
        st.booleans(),
        st.sampled_from(["CONSTANT", "VARIABLE"]),
    ),
    "ogg": st.builds(ogg, seconds, st.just(48000), channels, st.sampled_from(["VORBIS", "OPUS"])),
    "flac": st.builds(flac, seconds, st.sampled_from([44100, 16000]), channels),
    "wav": st.builds(
        pcm,
        seconds,
        st.sampled_from([44100, 16000]),
        channels,
        st.just("WAV"),
        st.sampled_from(["PCM_16", "PCM_24", "FLOAT"]),
    ),
    "aiff": st.builds(
        pcm, seconds, st.sampled_from([44100, 16000]), channels, st.just("AIFF"), st.just("PCM_16")
    ),
}


def random_bytes(seed: int, n_bytes: int) -> bytes:
    return np.random.default_rng(seed).bytes(n_bytes)


shares = st.one_of(st.just(1.0), st.just(1.0), st.just(1.0), st.floats(0.2, 1.0))
junk = st.one_of(
    st.just(b""),
    st.builds(random_bytes, st.integers(0, 2**32 - 1), st.integers(1, 20_000)),
    st.builds(bytes, st.integers(1, 5000)),
    st.builds(id3v1),
    st.builds(id3v2, st.integers(10, 5000)),
    st.builds(apev2, st.integers(10, 500)),
    st.just(b"HTTP/1.0 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n"),
)


@pytest.mark.parametrize("name", FORMATS)
def test_the_length_is_that_of_the_intact_parts_or_the_file_fails(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp(name)
    n_failed = 0

    @settings(
        max_examples=N_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        pieces=st.lists(
            st.tuples(junk, FORMATS[name], shares),
            min_size=1,
            max_size=3,
        ),
        end=junk,
    )
    def check(pieces: list[tuple[bytes, Stream, float]], end: bytes) -> None:
        nonlocal n_failed
        content = b""
        expected_s = slack_s = filled_s = 0.0
        for before, stream, share in pieces:
            n_bytes = int(share * len(stream.content))
            is_whole = n_bytes == len(stream.content)
            n_samples = stream.n_samples if is_whole else stream.n_samples_up_to(n_bytes)
            content += before + stream.content[:n_bytes]
            expected_s += n_samples / stream.rate_hz
            slack_s += max(stream.frame_n_samples, 0.001 * stream.rate_hz) / stream.rate_hz
            if name in ("wav", "aiff") and not is_whole:
                # Bytes in the place of samples that were cut off cannot be told from samples.
                lost_s = (stream.n_samples - n_samples) / stream.rate_hz
                filled_s += lost_s
        file = folder / f"x.{name}"
        file.write_bytes(content + end)
        decoding = decode(file, 8000)
        try:
            for _ in decoding:
                pass
        except InputError as error:
            assert str(file) in str(error)
            n_failed += 1
            return
        slack_s += 1e-6  # a whole frame is allowed
        assert expected_s - slack_s <= decoding.duration_s <= expected_s + slack_s + filled_s

    check()
    assert n_failed < 0.7 * N_EXAMPLES, "to fail is allowed, to refuse everything is not"
