from __future__ import annotations

from collections.abc import Iterator

import pytest

from loev_cli.embed import Request, embed
from tests.explore.common import Place, Site, make_place, served
from tests.test_segments import write_medley


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("explore"))


@pytest.fixture(scope="package")
def site(place: Place) -> Iterator[Site]:
    with served(place) as running:
        yield running


@pytest.fixture(scope="package")
def medley(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two pieces in a row, and the first of them alone, embedded with their windows."""
    folder = tmp_path_factory.mktemp("medley")
    music = folder / "music"
    music.mkdir()
    write_medley(music / "0.wav", "house-in-a-minor-124bpm", "lullaby-in-a-flat-major-72bpm")
    write_medley(music / "1.wav", "house-in-a-minor-124bpm")
    embed(Request([str(music)], str(folder / "emb.npz"), per_window=True))
    with served(Place(folder / "emb.npz", music, folder)) as running:
        yield running
