"""The page in a real Chromium, driven by Playwright."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loev_cli.explore import AudioFiles
from loev_cli.search.library import open_library
from tests.conftest import Loev
from tests.explore.common import DURATION_S, HOSTILE, PLAIN, Place, Site

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
PATIENCE_MS = 90_000


class Page:
    """An open page, and what went on in it."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.problems: list[str] = []
        self.requested: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda m: self.problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.requested.append(request.url))

    def open(self, fragment: str = "") -> None:
        self.page.goto(self.url + fragment)
        self.page.wait_for_selector("body[data-ready]")

    def choose(self, row: int) -> None:
        """Open the page at a row, as its address says, which searches from it."""
        self.open(f"#row={row}")
        self.page.wait_for_selector("#hits li")

    def hits(self) -> list[int]:
        return [
            int(row)
            for row in self.js(
                "[...document.querySelectorAll('#hits li')].map((li) => li.dataset.row)"
            )
        ]

    def js(self, expression: str) -> Any:
        return self.page.evaluate(expression)

    def until(self, expression: str) -> None:
        # Not wait_for_function: it evaluates in the page, where our policy forbids that.
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not self.js(expression):
            assert time.monotonic() < deadline, expression
            self.page.wait_for_timeout(50)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio"],
            timeout=PATIENCE_MS,
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, site: Site, request: pytest.FixtureRequest) -> Iterator[Page]:
    options = {"viewport": {"width": 1280, "height": 800}, **getattr(request, "param", {})}
    context = chromium.new_context(**options)
    opened = Page(context.new_page(), site.url)
    yield opened
    context.close()
    assert not opened.problems
    elsewhere = [u for u in opened.requested if not u.startswith((site.url, "data:", "about:"))]
    assert not elsewhere


PIXELS = """() => {
  const c = document.getElementById("points");
  const image = c.getContext("2d").getImageData(0, 0, c.width, c.height);
  const data = new Uint32Array(image.data.buffer);
  let drawn = 0;
  for (const pixel of data) drawn += pixel !== data[0];
  return [drawn, data[0], new Set(data).size];
}"""


def test_the_map_is_drawn(page: Page, place: Place) -> None:
    page.open()
    n = len(open_library(place.emb))
    assert page.page.inner_text("#count").startswith(f"{n} tracks")
    for name in ("pitch", "tempo", "invariant"):
        page.page.check(f"input[name=map][value={name}]", force=True)
        page.until(f"document.getElementById('map').getAttribute('aria-label').endsWith('{name}')")
        for _ in range(50):  # drawn with the next frame, which a busy machine delays
            page.page.wait_for_timeout(100)
            drawn, _, n_colours = page.js(PIXELS)
            if drawn > 20 * n:
                break
        assert drawn > 20 * n  # pixels, a point has about 40
        assert n_colours > 10
    assert page.page.locator("#legend .wedge").count() == 24


@pytest.mark.parametrize("name", [PLAIN[4], "old.aiff"])
def test_a_track_plays(page: Page, place: Place, name: str) -> None:
    page.choose(place.row(name))
    page.page.click("#query button")
    page.until("document.getElementById('audio').currentTime > 0.3")
    assert page.js("document.getElementById('audio').duration") == pytest.approx(
        DURATION_S, abs=0.1
    )
    page.until("document.getElementById('play').getAttribute('aria-label') === 'Play'")  # the end


def test_segments_of_a_track_can_be_clicked(chromium: Any, medley: Site) -> None:
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = Page(context.new_page(), medley.url)
    page.choose(0)
    page.until("document.querySelectorAll('.segment').length === 2")
    texts = page.page.locator(".segment").all_inner_texts()
    assert [text.split(" · ")[0] for text in texts] == ["A minor", "Ab major"]
    page.page.locator(".segment").nth(1).click()
    page.until("document.getElementById('audio').currentTime > 20")
    assert page.page.inner_text("#now") == "0"
    page.page.locator(".segment").nth(0).click()
    page.until("document.getElementById('audio').currentTime < 10")
    page.page.goto("about:blank")  # or only the fragment would change
    page.choose(1)  # has no changes, and no strip
    page.until("document.querySelector('#query .title').textContent === '1'")
    assert page.page.locator(".segment").count() == 0
    context.close()
    assert not page.problems


def test_the_results_are_saved_as_a_playlist(page: Page, place: Place) -> None:
    page.choose(place.row(PLAIN[4]))
    with page.page.expect_download() as waiting:
        page.page.click("#m3u")
    assert waiting.value.suggested_filename == "like-this.m3u"
    lines = Path(waiting.value.path()).read_text("utf-8", "surrogateescape").splitlines()
    assert lines[0] == "#EXTM3U"
    files = [Path(line) for line in lines[2::2]]
    assert files
    assert all(file.is_relative_to(place.music) and file.is_file() for file in files)


def move_to_a_point(page: Page) -> None:
    """Move the pointer to a track that can be played; where they lie on the map is not fixed."""
    box = page.page.locator("#map").bounding_box()
    for y in range(60, int(box["height"]) - 60, 14):  # a point is some 20 pixels wide to it
        for x in range(60, int(box["width"]) - 60, 14):
            page.page.mouse.move(box["x"] + x, box["y"] + y)
            if page.js("document.getElementById('map').classList.contains('over')"):
                page.until("!document.getElementById('tip').hidden")
                if "cannot be played" not in page.page.inner_text("#tip"):
                    return
    pytest.fail("no track on the map that can be played")


def test_a_click_on_a_point_plays_it_and_searches(page: Page) -> None:
    page.open()
    move_to_a_point(page)
    page.page.mouse.down()
    page.page.mouse.up()
    page.page.wait_for_selector("#hits li")
    assert page.page.inner_text("#query .title")
    page.until("document.getElementById('audio').currentTime > 0")


def test_the_pointer_plays_only_when_asked_to(page: Page) -> None:
    page.open()
    move_to_a_point(page)
    page.page.wait_for_timeout(500)
    assert not page.js("document.getElementById('audio').hasAttribute('src')")
    page.page.check("#hover")
    move_to_a_point(page)
    page.until("document.getElementById('audio').currentTime > 0")


def test_a_search_by_tempo_is_that_of_the_command(page: Page, place: Place, loev: Loev) -> None:
    page.choose(place.row(PLAIN[2]))
    page.page.click("button[aria-label='Only tempo']")
    page.until("document.getElementById('command').textContent.includes('--by tempo')")
    words = shlex.split(page.page.inner_text("#command"))
    assert words[:3] == ["loev", "search", str(place.emb)]
    done = loev(*words[1:], "--format", "jsonl")
    assert done.code == 0
    found = [json.loads(line) for line in done.out.splitlines()]
    assert len(found) == 20
    assert page.hits() == [place.row(record["path"]) for record in found]
    shown = page.js(
        "[...document.querySelectorAll('#hits li:first-child .why .n')].map(n => n.textContent)"
    )
    assert shown == [f"{found[0][name]:.2f}" for name in ("invariant", "pitch", "tempo")]


def test_sliders_and_filters_change_the_result(page: Page, place: Place, loev: Loev) -> None:
    page.choose(place.row(PLAIN[2]))
    first = page.hits()
    slider = page.page.locator("#weights input").nth(1)
    slider.focus()
    for _ in range(8):
        page.page.keyboard.press("ArrowLeft")
    page.until("document.getElementById('command').textContent.includes('pitch=-0.4')")
    mixed = page.hits()
    assert mixed != first
    page.page.fill("#where", "bpm > 100 and not path contains 'plain/1'")
    page.page.keyboard.press("Enter")
    page.until("document.getElementById('command').textContent.includes('--where')")
    done = loev(*shlex.split(page.page.inner_text("#command"))[1:], "--format", "jsonl")
    rows = [place.row(json.loads(line)["path"]) for line in done.out.splitlines()]
    assert page.hits() == rows
    assert 0 < len(rows) < len(mixed)
    page.page.fill("#where", "bpn > 100")
    page.page.keyboard.press("Enter")
    page.until("document.getElementById('whereerror').textContent.includes(\"did you mean 'bpm'\")")
    page.problems.clear()  # Chromium writes the answer 400 to the console


def test_the_keyboard_is_enough(page: Page) -> None:
    page.open()
    keys = page.page.keyboard
    keys.press("Tab")
    assert page.js("document.activeElement.className") == "skip"
    for _ in range(12):
        keys.press("Tab")
        if page.js("document.activeElement.id") == "map":
            break
    assert page.js("document.activeElement.id") == "map"
    keys.press("ArrowRight")
    page.until("document.getElementById('live').textContent.length > 0")
    keys.press("ArrowLeft")
    keys.press("+")
    keys.press("0")
    keys.press("Enter")
    page.page.wait_for_selector("#hits li")
    page.until("document.getElementById('live').textContent.includes('nearest to')")
    page.page.locator("#hits li button").first.focus()
    row = page.js("document.activeElement.closest('li').dataset.row")
    keys.press("ArrowDown")
    assert page.js("document.activeElement.closest('li').dataset.row") != row
    keys.press("Tab")  # the other button of the row: search from here
    title = page.js("document.activeElement.closest('li').querySelector('.title').textContent")
    keys.press("Enter")
    page.until(f"document.querySelector('#query .title').textContent === {json.dumps(title)}")


def test_names_that_are_html_are_shown_as_they_are(page: Page, place: Place) -> None:
    page.open()
    page.page.fill("#find", "onerror")
    page.page.wait_for_selector("#found [role=option]")
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector("#hits li")
    assert page.page.inner_text("#query .title") == "<b>bold</b>"
    assert page.page.get_attribute("#query .title", "title") == HOSTILE
    assert shlex.quote(HOSTILE) in page.page.inner_text("#command")
    assert page.page.locator("img, #query b").count() == 0


def test_a_track_without_its_file_says_so(page: Page, place: Place) -> None:
    page.choose(place.row("gone.wav"))
    assert "Some tracks cannot be played" in page.page.inner_text("#notice")
    assert page.page.get_attribute("#query button", "aria-disabled") == "true"
    page.page.focus("#query button")
    page.page.keyboard.press("Enter")
    page.until("document.getElementById('live').textContent.includes('cannot be played')")
    assert not page.js("document.getElementById('audio').hasAttribute('src')")
    assert f"is not in {place.music}" in page.page.inner_text("#query")


@pytest.mark.parametrize(
    "page",
    [
        {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
        {"viewport": {"width": 320, "height": 640}},
        {"viewport": {"width": 820, "height": 600}},
    ],
    indirect=True,
    ids=["phone", "narrow", "tablet"],
)
def test_nothing_is_wider_than_the_screen(page: Page, place: Place) -> None:
    page.choose(place.row(PLAIN[0]))
    width = page.js("document.documentElement.clientWidth")
    assert page.js("document.documentElement.scrollWidth") <= width
    page.page.locator("#hits li").last.scroll_into_view_if_needed()
    assert page.page.locator("#play").is_visible()


@pytest.mark.parametrize("page", [{"color_scheme": "dark"}], indirect=True, ids=["dark"])
def test_dark_and_light(page: Page) -> None:
    page.open()
    luminance = "parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
    assert page.js(luminance) < 60
    assert page.js(PIXELS)[1] & 255 < 60
    page.page.click("#theme")  # light
    assert page.js(luminance) > 200
    page.page.wait_for_timeout(100)
    assert page.js(PIXELS)[1] & 255 > 200


def test_a_library_of_one_track(chromium: Any, tmp_path: Path) -> None:
    from tests.explore.common import served, write_embedding

    write_embedding(tmp_path / "one.npz", ["one.wav"])
    place = Place(tmp_path / "one.npz", tmp_path, tmp_path)
    assert AudioFiles(tmp_path, ["one.wav"]).n_found() == (0, 1)
    with served(place) as site:
        context = chromium.new_context()
        page = Page(context.new_page(), site.url)
        page.open("#row=0")
        page.until("document.getElementById('hitshead').textContent.startsWith('No other track')")
        assert "No track can be played" in page.page.inner_text("#notice")
        context.close()
    assert not page.problems


@pytest.fixture
def searched(page: Page, place: Place) -> Page:
    page.choose(place.row(PLAIN[2]))
    return page


def test_the_filter_applies_as_one_types(searched: Page, place: Place) -> None:
    page = searched
    n = len(page.hits())
    page.page.focus("#where")
    page.page.keyboard.type("path contains 'plain/1'")  # and no Enter
    page.until(f"document.querySelectorAll('#hits li').length < {n}")
    paths = open_library(place.emb).paths
    assert page.hits()
    assert all("plain/1" in paths[row] for row in page.hits())
    assert page.js("document.activeElement.id") == "where"
    page.page.fill("#where", "")
    page.until(f"document.querySelectorAll('#hits li').length === {n}")


def test_no_results_stand_below_a_filter_that_is_wrong(searched: Page) -> None:
    page = searched
    n = len(page.hits())
    page.page.focus("#where")
    page.page.keyboard.type("bpm > 100 and bpn")
    page.until("document.getElementById('whereerror').textContent.includes('bpn')")
    page.until("document.querySelectorAll('#hits li').length === 0")
    assert "filter" in page.page.inner_text("#hitshead")
    assert page.page.is_hidden("#commandbox")
    page.page.click("button[aria-label='Only tempo']")  # a search does not bring them back
    page.page.wait_for_timeout(300)
    assert not page.hits()
    page.page.fill("#where", "bpm > 0")
    page.until(f"document.querySelectorAll('#hits li').length === {n}")
    assert not page.page.inner_text("#whereerror")
    page.problems.clear()  # Chromium writes the answers 400 to the console


COVERED = """() => {
  const map = document.getElementById("map").getBoundingClientRect();
  return [...document.querySelectorAll(".legend, .tools, .zoom")].some((box) => {
    const r = box.getBoundingClientRect();
    return r.left < map.right && r.right > map.left && r.top < map.bottom && r.bottom > map.top;
  });
}"""
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.mark.parametrize("page", [{}, PHONE], indirect=True, ids=["desktop", "phone"])
def test_the_legend_covers_no_track(page: Page) -> None:
    page.open()
    assert page.page.locator("#legendbox").evaluate("box => box.open") == (
        page.page.viewport_size["width"] > 860
    )
    for _ in range(2):
        assert not page.js(COVERED)
        page.page.click("#legendbox summary")
        page.page.wait_for_timeout(50)
    page.page.locator("#legendbox").evaluate("box => box.open = true")
    wedge = page.page.locator("#legend .wedge").first
    wedge.evaluate("wedge => wedge.scrollIntoView({block: 'center'})")
    wedge.click(force=True)  # the letter of the key lies over its middle
    assert page.page.locator("#legend .wedge[aria-pressed=true]").count() == 1


@pytest.mark.parametrize("page", [PHONE], indirect=True, ids=["phone"])
def test_a_phone_is_told_to_tap(page: Page, place: Place) -> None:
    page.open()
    words = (page.page.inner_text("#search") + page.page.inner_text(".player")).lower()
    assert "tap a point" in words
    assert "pinch" in words
    assert not any(word in words for word in ("click", "arrow keys", "hover"))


@pytest.mark.parametrize("page", [{"viewport": {"width": 1400, "height": 860}}], indirect=True)
def test_titles_are_not_cut(page: Page, place: Place) -> None:
    page.choose(place.row(PLAIN[0]))
    page.js(
        "document.querySelectorAll('.title').forEach(t => t.textContent = 'a-track_of.'.repeat(6))"
    )
    assert page.js(
        "[...document.querySelectorAll('.title')].every(t => t.scrollWidth <= t.clientWidth)"
    )


def test_the_strip_keeps_to_the_range_of_tempi(medley: Site, medley_in_range: Site) -> None:
    found, folded = (
        [part["bpm"] for part in json.loads(site.get("/api/segments/0").body)]
        for site in (medley, medley_in_range)
    )
    assert len(found) == len(folded) == 2
    assert all(40 <= bpm < 80 for bpm in folded)
    assert not all(40 <= bpm < 80 for bpm in found)
