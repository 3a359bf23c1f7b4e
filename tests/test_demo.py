"""The demo page (docs/demo) in a real Chromium: Python's numbers, and nothing sent anywhere."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

import loev_cli as loev
from loev_cli.embed import Request, embed
from loev_cli.search.library import Query, open_library
from tests.conftest import ROOT
from tests.explore.test_page import CHROMIUM, Page, chromium  # noqa: F401 (a fixture)

MUSIC = ROOT / "examples" / "music"
RATE_HZ, WINDOW_N_SAMPLES = 16_000, 163_840


def _build_script() -> Any:
    spec = importlib.util.spec_from_file_location("build_demo", ROOT / "docs" / "demo" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = _build_script()
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(not BUILD.RUNTIME.is_dir(), reason="needs npm ci --prefix docs/demo"),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    BUILD.build(out)
    return out


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The page on a server that only has files, as GitHub Pages."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def page(chromium: Any, url: str, request: pytest.FixtureRequest) -> Iterator[Page]:  # noqa: F811
    options = {"viewport": {"width": 1400, "height": 900}, **getattr(request, "param", {})}
    context = chromium.new_context(**options)
    opened = Page(context.new_page(), url)
    methods: list[str] = []
    opened.page.on("request", lambda sent: methods.append(sent.method))
    yield opened
    context.close()
    assert not opened.problems
    assert set(methods) <= {"GET"}  # nothing is sent
    assert [u for u in opened.requested if not u.startswith((url, "data:", "blob:"))] == []


@pytest.fixture(scope="module")
def model() -> loev.Model:
    return loev.load()


def take(page: Page, file: Path) -> None:
    page.page.set_input_files("#file", str(file))
    page.page.wait_for_selector("#result:not([hidden])")


def analyzed(page: Page, file: Path) -> dict[str, Any]:
    """What the page computes of a file that lies in its own folder."""
    result: dict[str, Any] = page.page.evaluate(
        """async (name) => {
          const { analyze, decode } = await import("./demo.js");
          const samples = await decode(await (await fetch(name)).arrayBuffer(), 16000);
          const { vectors, ...rest } = await analyze(samples);
          const lists = Object.entries(vectors).map(([name, x]) => [name, [...x]]);
          return { vectors: Object.fromEntries(lists), ...rest };
        }""",
        file.name if file.parent.name != "music" else f"music/{file.name}",
    )
    return result


def cosine_distance(x: NDArray[Any], y: NDArray[Any]) -> float:
    return float(1 - x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


@pytest.mark.parametrize("n_samples", [40_000, 163_840, 400_001])
def test_equal_samples_give_equal_numbers(
    page: Page, folder: Path, model: loev.Model, n_samples: int
) -> None:
    """Of a float file at the model's rate, which no decoder or resampler changes."""
    music, _ = sf.read(MUSIC / "bossa-in-f-major-124bpm.flac", dtype="float32")
    waveform = music.mean(axis=1)[:n_samples] if music.ndim == 2 else music[:n_samples]
    assert len(waveform) == n_samples
    file = folder / f"{n_samples}.wav"
    sf.write(file, waveform, RATE_HZ, subtype="FLOAT")
    page.open()
    found = analyzed(page, file)
    n_windows = 1 + max(0, -(-(n_samples - WINDOW_N_SAMPLES) // WINDOW_N_SAMPLES))
    assert found["nWindows"] == n_windows
    for name, expected in model(waveform, RATE_HZ).items():
        # Vectors are of a length around 1; the furthest entry seen was 1.4e-6 off.
        np.testing.assert_allclose(found["vectors"][name], expected, rtol=0, atol=2e-6)
    answer = model.annotate(waveform, RATE_HZ)
    assert found["answer"].keys() == answer.keys()
    for column, value in answer.items():
        close = pytest.approx(value, rel=1e-5, abs=1e-6) if isinstance(value, float) else value
        assert found["answer"][column] == close, column


def test_the_nearest_are_those_of_search(page: Page, model: loev.Model, tmp_path: Path) -> None:
    emb = tmp_path / "emb.npz"
    embed(Request([str(MUSIC)], str(emb)))
    library = open_library(emb)
    page.open()
    file = MUSIC / "arcade-in-a-minor-150bpm.wav"
    found = analyzed(page, file)
    vectors = library.ready({name: np.array(x, np.float32) for name, x in found["vectors"].items()})
    take(page, file)
    for name in library.subspaces:
        page.page.check(f"input[value={name}]", force=True)
        hits = library.search(vectors, Query({name: 1.0}, k=6))
        assert page.hits() == [hit.row for hit in hits]
        for hit in hits:
            assert found["distances"][hit.row] == pytest.approx(hit.distances, abs=2e-6)


def test_examples_are_answered_as_by_the_command(page: Page, model: loev.Model) -> None:
    """Though the browser decodes and resamples in its own way."""
    page.open()
    furthest = dict.fromkeys(model.subspaces, 0.0)
    for file in sorted(MUSIC.glob("*-in-*")):
        found = analyzed(page, file)
        waveform, rate_hz = sf.read(file, dtype="float32")
        answer = model.annotate(waveform.T, rate_hz)
        assert found["answer"]["key"] == answer["key"], file.name
        assert found["answer"]["bpm"] == pytest.approx(answer["bpm"], rel=0.02), file.name
        for name, expected in model(waveform.T, rate_hz).items():
            distance = cosine_distance(np.array(found["vectors"][name]), expected)
            furthest[name] = max(furthest[name], distance)
    assert max(furthest.values()) < 1e-3


def test_a_dropped_file_shows_its_key_and_tempo(page: Page) -> None:
    page.open()
    take(page, MUSIC / "house-in-a-minor-124bpm.mp3")
    assert page.page.inner_text("#title") == "house-in-a-minor-124bpm.mp3"
    assert page.page.inner_text("#key") == "A minor"
    assert float(page.page.inner_text("#bpm").split()[0]) == pytest.approx(124, rel=0.04)
    assert page.page.locator("#wheel path").count() == 24
    page.page.click("#hits li:first-child button[aria-label^=Play]")
    page.until("document.querySelector('#hits .playing') !== null")
    page.page.click("#examples button >> text=Reel")
    page.until("document.getElementById('title').textContent.startsWith('reel-')")
    assert page.page.inner_text("#key") == "D major"


def test_a_file_is_analyzed_without_a_connection(page: Page) -> None:
    """Once it is open the page needs nobody: what is dropped can go nowhere."""
    page.open()
    page.page.context.set_offline(True)
    n_requests = len(page.requested)
    take(page, MUSIC / "reel-in-d-major-108bpm.mp3")
    assert page.page.inner_text("#key") == "D major"
    assert [u for u in page.requested[n_requests:] if not u.startswith("blob:")] == []


def test_silence_has_no_answer(page: Page, tmp_path: Path) -> None:
    sf.write(tmp_path / "silence.wav", np.zeros(RATE_HZ, np.float32), RATE_HZ)
    page.open()
    take(page, tmp_path / "silence.wav")
    assert page.page.inner_text("#key") == page.page.inner_text("#bpm") == "silence"
    assert page.page.locator("#wheel path").count() == 0


def test_what_is_not_audio_is_said_in_a_line(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.mp3").write_text("no audio")
    page.open()
    page.page.set_input_files("#file", str(tmp_path / "notes.mp3"))
    page.until("document.getElementById('status').classList.contains('failed')")
    assert page.page.inner_text("#status").startswith("notes.mp3: this browser cannot decode it")
    assert page.page.locator("#result").is_hidden()
    take(page, MUSIC / "reel-in-d-major-108bpm.mp3")  # and the page goes on
    assert page.page.inner_text("#status") == ""


def test_a_damaged_model_is_not_run(page: Page, folder: Path) -> None:
    graph = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(graph[:-1] + bytes([graph[-1] ^ 1]))
    try:
        page.page.goto(page.url)
        page.until(
            "document.getElementById('status').textContent.includes('model.onnx is damaged')"
        )
    finally:
        (folder / "model.onnx").write_bytes(graph)


@pytest.mark.parametrize(
    "page",
    [
        {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
        {"viewport": {"width": 320, "height": 640}, "color_scheme": "dark"},
    ],
    indirect=True,
    ids=["phone", "narrow"],
)
def test_nothing_is_wider_than_the_screen(page: Page) -> None:
    page.open()
    take(page, MUSIC / "house-in-a-minor-124bpm.mp3")
    width = page.js("document.documentElement.clientWidth")
    assert page.js("document.documentElement.scrollWidth") <= width
