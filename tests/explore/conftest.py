from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.explore.common import Place, Site, make_place, served


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("explore"))


@pytest.fixture(scope="package")
def site(place: Place) -> Iterator[Site]:
    with served(place) as running:
        yield running
