"""Does the page of `loev explore` stay responsive with 50,000 tracks?

    python benchmarks/explore_speed.py [--tracks 50000] [--chromium /usr/bin/chromium]

Makes an embedding file of clusters with noise (3 subspaces x 256), serves it as the command does,
and drives a real Chromium (headless, so without a GPU): how long the map takes to be there in both
layouts, what drawing a frame costs while the map is dragged and zoomed, against filling the same
canvas by Canvas 2D's own arc() calls in the same page, and how long a move of a slider takes until
the new results are shown. Needs the extras explore and test.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from loev_cli.explore import Access, AudioFiles, listen, make_app
from loev_cli.explore.server import make_server
from loev_cli.formats import Row, open_writer
from loev_cli.search.library import open_library

DIM = 256
N_FRAMES = 16
N_SEARCHES = 10
META = {
    "format_version": 1,
    "model": "synthetic",
    "model_sha256": "0" * 64,
    "window_s": 10.0,
    "hop_s": 5.0,
    "pooling": "mean",
    "subspaces": dict.fromkeys(("invariant", "pitch", "tempo"), DIM),
}

# One frame of the page's own drawing, forced, timed in the page.
OURS = """(n) => {
  const map = window.loevMap, times = [];
  for (let i = 0; i < n; i++) {
    map.view.x = 0.2 * Math.sin(i); map.view.zoom = 1 + (i % 5) / 2;
    const began = performance.now();
    map.drawPoints(); map.drawMarks();
    times.push(performance.now() - began);
  }
  map.whole();
  return times;
}"""
# The floor: the same points by Canvas 2D calls.
CALLS = """(n) => {
  const map = window.loevMap, times = [];
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [map.points.width, map.points.height];
  const pen = canvas.getContext("2d");
  for (let i = 0; i < n; i++) {
    const began = performance.now();
    pen.clearRect(0, 0, canvas.width, canvas.height);
    for (let row = 0; row < map.n; row++) {
      const [x, y] = map.toScreen(row);
      pen.fillStyle = row % 2 ? "#5566aa" : "#aa6655";
      pen.beginPath(); pen.arc(x, y, map.radius, 0, 6.2832); pen.fill();
    }
    pen.getImageData(0, 0, 1, 1);  // waits until it is drawn
    times.push(performance.now() - began);
  }
  return times;
}"""
# Intervals between frames while the pointer drags the map.
FRAMES = """() => { window.frames_ = []; let last = performance.now();
  const tick = (now) => { window.frames_.push(now - last); last = now;
    window.ticking && requestAnimationFrame(tick); };
  window.ticking = true; requestAnimationFrame(tick); }"""
SEARCH = """async (i) => {
  const slider = document.querySelectorAll("#weights input")[1];
  const command = document.getElementById("command"), before = command.textContent;
  const began = performance.now();
  slider.value = 0.1 + 0.05 * (i % 15);
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  while (command.textContent === before) await new Promise((done) => setTimeout(done, 1));
  return performance.now() - began;
}"""


def write_synthetic(out: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    vectors = {}
    for name in META["subspaces"]:
        centers = rng.standard_normal((200, DIM))
        noise = rng.standard_normal((n, DIM), np.float32)
        vectors[name] = (centers[rng.integers(0, 200, n)] + 0.8 * noise).astype(np.float32)
    with open_writer(str(out), META) as writer:
        for i in range(n):
            row = {name: x[i] for name, x in vectors.items()}
            writer.add(Row(f"{i // 100:05}/{i % 100:02}.mp3", 180.0, False, row))
        writer.commit()


def drag(page: Page) -> list[float]:
    """Milliseconds between frames while the map is dragged."""
    box = page.locator("#map").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.evaluate(FRAMES)
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(60):
        page.mouse.move(x + 3 * step, y + 2 * step)
    page.mouse.up()
    page.evaluate("window.ticking = false")
    return list(page.evaluate("window.frames_.slice(1)"))


def told(name: str, times: list[float]) -> None:
    p95 = float(np.percentile(times, 95))
    print(f"| {name} | {statistics.median(times):.1f} | {p95:.1f} |", flush=True)


def measure(url: str, chromium: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 850})
        page.set_default_timeout(600_000)
        began = time.perf_counter()
        page.goto(f"{url}#layout=components&row=7")
        page.wait_for_selector("#hits li")
        print(f"page, components and first search: {time.perf_counter() - began:.1f} s\n")
        print("| ms | median | 95 % |\n|---|---|---|")
        ours, calls = [], []
        for _ in range(4):  # interleaved, as the machine may be at other work too
            ours += page.evaluate(OURS, N_FRAMES // 4)
            calls += page.evaluate(CALLS, N_FRAMES // 4)
        told("draw all points", ours)
        told("the same by arc()", calls)
        print(f"| ratio | {statistics.median(calls) / statistics.median(ours):.1f} | |")
        told("between frames while dragging", drag(page))
        told("slider to results", [page.evaluate(SEARCH, i) for i in range(N_SEARCHES)])
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracks", type=int, default=50_000)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        emb = Path(folder) / "synthetic.npz"
        write_synthetic(emb, options.tracks)
        library = open_library(emb)
        app = make_app(library, AudioFiles(Path(folder), library.paths), Access())
        with listen("127.0.0.1", 0) as listener:
            server = make_server(app)
            thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
            thread.start()
            measure(f"http://127.0.0.1:{listener.getsockname()[1]}/", options.chromium)
            server.should_exit = True
            thread.join()
        from loev_cli.explore import layout

        for name in ("components", "neighbors"):
            began, cpu = time.perf_counter(), time.process_time()
            getattr(layout, name)(library.vectors["pitch"])
            print(
                f"map by {name}: {time.perf_counter() - began:.1f} s by the clock, "
                f"{time.process_time() - cpu:.1f} s of CPU time"
            )


if __name__ == "__main__":
    main()
