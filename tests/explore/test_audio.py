"""Audio over HTTP: ranges of files, and of what is decoded for the browser."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from loev_cli.explore.audio_files import HEADER_N_BYTES, RATE_HZ, AudioFiles
from loev_cli.search.library import audio_root, open_library
from tests.conftest import RATE_HZ as FILE_RATE_HZ
from tests.conftest import music
from tests.explore.common import DURATION_S, PLAIN, Place, Site, write_embedding


@pytest.mark.parametrize(
    ("asked", "span"),
    [("bytes=0-", (0, None)), ("bytes=100-199", (100, 200)), ("bytes=-50", (-50, None))],
)
def test_a_range_of_a_file(
    site: Site, place: Place, asked: str, span: tuple[int, int | None]
) -> None:
    whole = (place.music / PLAIN[0]).read_bytes()
    answer = site.get(f"/audio/{place.row(PLAIN[0])}", {"range": asked})
    assert answer.status == 206
    assert answer.body == whole[slice(*span)]
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-range"].endswith(f"/{len(whole)}")


@pytest.mark.parametrize("option", ["", "?decoded"])
def test_a_range_beyond_the_end(site: Site, place: Place, option: str) -> None:
    url = f"/audio/{place.row(PLAIN[0])}{option}"
    assert site.get(url, {"range": "bytes=99999999-"}).status == 416


def test_what_browsers_do_not_play_comes_as_wav(site: Site, place: Place) -> None:
    answer = site.get(f"/audio/{place.row('old.aiff')}")
    assert (answer.status, answer.headers["content-type"]) == (200, "audio/wav")
    assert int(answer.headers["content-length"]) == len(answer.body)
    decoded, rate_hz = soundfile.read(io.BytesIO(answer.body), dtype="float32")
    assert (rate_hz, decoded.shape) == (RATE_HZ, (DURATION_S * RATE_HZ,))
    truth = music(DURATION_S, seed=50)
    at_truth = decoded[np.round(np.arange(len(truth)) * RATE_HZ / FILE_RATE_HZ).astype(int)]
    assert np.corrcoef(at_truth[100:-100], truth[100:-100])[0, 1] > 0.9


def test_a_range_of_what_is_decoded(site: Site, place: Place) -> None:
    url = f"/audio/{place.row('old.aiff')}"
    whole = site.get(url).body
    for asked, span in (
        ("bytes=0-0", (0, 1)),
        ("bytes=10-99", (10, 100)),
        ("bytes=44-", (HEADER_N_BYTES, None)),
        ("bytes=50001-50100", (50_001, 50_101)),
        ("bytes=-7", (-7, None)),
    ):
        answer = site.get(url, {"range": asked})
        assert answer.status == 206
        assert answer.body == whole[slice(*span)], asked
    assert site.get(url, method="HEAD").headers["content-length"] == str(len(whole))


def test_a_file_that_is_shorter_than_it_was_ends_in_silence(site: Site, place: Place) -> None:
    file = place.music / PLAIN[7]
    before = file.read_bytes()
    try:
        soundfile.write(file, music(DURATION_S / 4, seed=3), FILE_RATE_HZ, subtype="PCM_16")
        body = site.get(f"/audio/{place.row(PLAIN[7])}?decoded").body
    finally:
        file.write_bytes(before)
    decoded, _ = soundfile.read(io.BytesIO(body))
    assert len(decoded) == DURATION_S * RATE_HZ
    assert np.abs(decoded[: len(decoded) // 4]).max() > 0.1
    assert not decoded[len(decoded) // 2 :].any()


def test_what_is_no_audio_is_told(site: Site, place: Place) -> None:
    file = place.music / PLAIN[8]
    before = file.read_bytes()
    try:
        file.write_bytes(b"no music at all" * 100)
        answer = site.get(f"/audio/{place.row(PLAIN[8])}?decoded")
    finally:
        file.write_bytes(before)
    assert answer.status == 415
    assert str(place.music).encode() not in answer.body


def test_the_folder_that_has_most_of_the_tracks_is_taken(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emb = tmp_path / "emb.npz"
    write_embedding(emb, PLAIN)
    library = open_library(emb)
    paths = library.paths
    monkeypatch.chdir(place.music)
    assert audio_root(emb, library.meta, paths) == Path.cwd()
    assert AudioFiles(Path.cwd(), paths).n_found() == (20, 20)
    monkeypatch.chdir(os.sep)
    assert audio_root(emb, library.meta, paths) is None
