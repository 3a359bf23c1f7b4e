"""The page as listeners of two interleaved searches meet it, and the log it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loev_cli.ab.interleave import Interleaver, read_log
from loev_cli.ab.sides import open_sides
from tests.explore.common import PLAIN, Place, Site, served
from tests.explore.test_page import Page, chromium, pytestmark  # noqa: F401

LOG = "log.jsonl"


@pytest.fixture
def blind(place: Place, tmp_path: Path) -> Iterator[Site]:
    sides = open_sides(str(place.emb), f"{place.emb}@tempo")
    with served(place, interleaver=Interleaver(*sides, tmp_path / LOG)) as site:
        yield site


def test_what_is_shown_and_clicked_is_logged(blind: Site, place: Place, tmp_path: Path) -> None:
    row = place.row(PLAIN[0])
    shown = json.loads(blind.get(f"/api/shown?row={row}&session=s&k=5").body)
    assert [hit["rank"] for hit in shown["hits"]] == [1, 2, 3, 4, 5]
    # Nothing tells the listener which search it was.
    assert not {"score", "distances", "team", "teams"} & set().union(*shown["hits"])
    name = shown["hits"][0]["list"]
    assert blind.get(f"/api/click?list={name}&rank=2").status == 200
    for wrong in (f"list={name}&rank=6", f"list={name}&rank=0", "list=other&rank=1"):
        assert blind.get(f"/api/click?{wrong}").status == 404
    event, click = map(json.loads, (tmp_path / LOG).read_text().splitlines())
    assert event["results"] == [hit["path"] for hit in shown["hits"]]
    assert event["query"] == PLAIN[0] and set(event["teams"]) == {"a", "b"}
    found = read_log([tmp_path / LOG])
    assert found.wins.tolist() == [float(event["teams"][click["rank"] - 1] == "b")]


def test_without_a_test_there_is_nothing_to_click(site: Site) -> None:
    assert site.get("/api/shown?row=0&session=s&k=5").status == 404
    assert site.get("/api/click?list=x&rank=1").status == 404


def test_a_listener_in_a_browser(blind: Site, chromium: Any, tmp_path: Path) -> None:  # noqa: F811
    tab = chromium.new_page()
    page = Page(tab, blind.url)
    page.choose(0)
    assert tab.is_hidden("#form") and tab.is_hidden("#commandbox") and tab.is_hidden("#scale")
    assert tab.locator("#hits .why").count() == 0
    tab.locator("#hits li").nth(2).click()
    page.until("document.querySelector('#now').textContent !== 'Nothing playing'")
    tab.wait_for_timeout(500)
    events = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    clicks = [event for event in events if event["event"] == "click"]
    assert [click["rank"] for click in clicks] == [3]
    assert clicks[0]["list"] in {e["list"] for e in events if e["event"] == "list"}
    assert page.problems == []
