from __future__ import annotations

from collections.abc import Iterator

import pytest

from loev_cli import bundle as bundles
from loev_cli.embed import Request, embed
from loev_cli.formats import annotator_for
from loev_cli.search.library import annotated, open_library
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
def medley_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Two pieces in a row, and the first of them alone, embedded with their windows."""
    folder = tmp_path_factory.mktemp("medley")
    music = folder / "music"
    music.mkdir()
    write_medley(music / "0.wav", "house-in-a-minor-124bpm", "lullaby-in-a-flat-major-72bpm")
    write_medley(music / "1.wav", "house-in-a-minor-124bpm")
    embed(Request([str(music)], str(folder / "emb.npz"), per_window=True))
    return Place(folder / "emb.npz", music, folder)


@pytest.fixture(scope="package")
def medley(medley_place: Place) -> Iterator[Site]:
    with served(medley_place) as running:
        yield running


@pytest.fixture(scope="package")
def medley_in_range(medley_place: Place) -> Iterator[Site]:
    """As of ``loev explore --bpm-range 40-80``."""
    library = open_library(medley_place.emb)
    bundle = bundles.find(bundles.DEFAULT_MODEL)
    annotator = annotator_for(library.meta, "emb.npz", bundle, (40, 80))
    with served(medley_place, library=annotated(library, annotator)) as running:
        yield running
