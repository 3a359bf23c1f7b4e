"""``loev evaluate`` from manifest to report."""

from __future__ import annotations

import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from loev_cli.bundle import Bundle
from loev_cli.embed import Request as EmbedRequest
from loev_cli.embed import embed
from loev_cli.evaluate.report import check_out
from tests.conftest import Loev, make_bundle
from tests.evaluate.conftest import leaves, write_csv

pytestmark = pytest.mark.usefixtures("few_draws")
QUICK = ("--probes", "linear", "--changed", "3", "--stretcher", "signalsmith", "--folds", "3")


@pytest.fixture(scope="session")
def embeddings(corpus: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embeddings") / "emb.npz"
    embed(EmbedRequest([str(corpus.parent / "audio")], str(out), model=str(bundle.path)))
    return out


def test_everything_from_a_manifest_and_a_model(
    loev: Loev, corpus: Path, bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    done = loev("evaluate", "--data", corpus, "--model", bundle.path, "--out", out, *QUICK)
    assert done.code == 0, done.err
    assert done.out == loev("table", out / "results.json").out
    assert "| invariant |" in done.out and "key, weighted score" in done.out
    assert "note: column 'label' left out: it has one value only, 'one'" in done.err
    assert f"30 tracks evaluated -> {out / 'report.html'}" in done.lines[-1]

    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["command"].startswith(f"loev evaluate --data {corpus} --model ")
    assert results["model"]["sha256"] == bundle.sha256
    assert results["data"]["split"] == "3-fold cross-validation over groups"
    assert results["data"]["labels"]["genre"]["classes"] == ["<b>rock</b>", "jazz", "pop"]
    subspaces = [*bundle.subspaces, "all"]
    probes = {(p["label"], p["subspace"], p["metric"]) for p in results["probes"]}
    metrics = {
        "key": ("weighted score", "accuracy"),
        "tempo": ("Acc1", "Acc2"),
        "genre": ("accuracy", "balanced accuracy"),
        "mood": ("ROC AUC", "average precision"),
        "energy": ("R2",),
    }
    assert probes == {(c, s, m) for c, of in metrics.items() for s in subspaces for m in of}
    for figure in results["probes"]:
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert figure["n_groups"] == 15 and figure["chance"] is not None
    equivariance = results["equivariance"]
    assert equivariance["stretcher"] == "signalsmith" and len(equivariance["tracks"]) == 3
    changed = {(r["subspace"], r["change"]) for r in equivariance["responses"]}
    assert changed == {
        (s, c) for s in bundle.subspaces for c in ("pitch", "tempo", "gain", "noise")
    }
    questions = {r["question"] for r in results["retrieval"]}
    assert questions >= {"same key", "tempo within 4 %", "same track, other pitch"}
    assert {s["subspace"] for s in results["geometry"]["subspaces"]} == set(bundle.subspaces)
    assert all(s["alignment"]["value"] > 0 for s in results["geometry"]["subspaces"])
    assert len(results["geometry"]["between"]) == 6
    assert all(math.isfinite(leaf) for leaf in leaves(results) if isinstance(leaf, float))

    names = {file.name for file in out.iterdir()}
    assert {"sensitivity.png", "probes_key.png", "key_confusion.png", "map_pitch.png"} <= names
    assert not [file for file in tmp_path.iterdir() if file != out]  # nothing temporary is left


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.links.append(value or "")


@pytest.mark.usefixtures("no_pngs")
def test_the_page_stands_alone_and_escapes_what_files_say(
    loev: Loev, corpus: Path, embeddings: Path, tmp_path: Path
) -> None:
    rows = corpus.read_text(encoding="utf-8").splitlines()
    header = rows[0].replace("genre", "<script>alert(1)</script> $x_1$")
    evil = corpus.parent / "evil.csv"
    evil.write_text("\n".join([header, *rows[1:]]) + "\n", encoding="utf-8")
    out = tmp_path / "report"
    done = loev(
        "evaluate", "--data", evil, "--embeddings", embeddings, "--out", out, "--map", "tsne",
        "--parts", "probes,retrieval,geometry", "--probes", "linear",
        "--label", "<script>alert(1)</script> $x_1$", "--label", "key",
    )  # fmt: skip
    assert done.code == 0, done.err
    html = (out / "report.html").read_text(encoding="utf-8")
    page = Elements()
    page.feed(html)
    assert "script" not in page.tags and "b" not in page.tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $x_1$" in html
    # Nothing is fetched: every link is within the page, and no style imports anything.
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"@import|url\((?!#)", html)
    assert "prefers-color-scheme: dark" in html and "width=device-width" in html
    assert page.tags.count("svg") >= 8 and "currentColor" in html
    ids = re.findall(r'<clipPath id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for file in out.glob("*.png"):
        assert re.fullmatch(r"[A-Za-z0-9_-]+\.png", file.name)


@pytest.mark.usefixtures("no_pngs")
def test_embeddings_and_model_agree(
    loev: Loev, corpus: Path, bundle: Bundle, embeddings: Path, tmp_path: Path
) -> None:
    quick = [*QUICK, "--label", "energy", "--parts", "probes,equivariance"]
    figures = []
    for name, how in {
        "model": ["--model", bundle.path],
        "file": ["--embeddings", embeddings],
        "both": ["--embeddings", embeddings, "--model", bundle.path],
    }.items():
        done = loev("evaluate", "--data", corpus, "--out", tmp_path / name, *how, *quick)
        assert done.code == 0, done.err
        assert ("equivariance skipped" in done.err) == (name == "file")
        figures.append(json.loads((tmp_path / name / "results.json").read_text()))
    probes = [[figure["value"] for figure in each["probes"]] for each in figures]
    np.testing.assert_allclose(probes[0], probes[1], atol=1e-3)
    assert probes[1] == probes[2]
    responses = [each["equivariance"]["responses"] for each in figures]
    assert responses[0] == responses[2] and responses[1] == []

    other = make_bundle(tmp_path / "other", seed=5, name="other")
    done = loev(
        "evaluate", "--data", corpus, "--out", tmp_path / "x", *quick,
        "--embeddings", embeddings, "--model", other.path,
    )  # fmt: skip
    assert done.code == 2 and "the embeddings were made by tiny" in done.lines[-1]
    out = tmp_path / "other.npz"
    embed(EmbedRequest([str(corpus.parent / "audio")], str(out), model=str(other.path)))
    done = loev(
        "evaluate", "--data", corpus, "--out", tmp_path / "x", *quick,
        "--embeddings", embeddings, "--embeddings", out,
    )  # fmt: skip
    assert done.code == 2 and "differ in the model: tiny" in done.lines[-1]


@pytest.mark.usefixtures("no_pngs")
def test_windows_in_a_file_give_tracks_and_their_alignment(
    loev: Loev, corpus: Path, bundle: Bundle, embeddings: Path, tmp_path: Path
) -> None:
    windows = tmp_path / "windows.parquet"
    request = EmbedRequest(
        [str(corpus.parent / "audio")], str(windows), model=str(bundle.path), per_window=True
    )
    embed(request)
    shapes = []
    for name in (windows, embeddings):
        out = tmp_path / name.stem
        done = loev(
            "evaluate", "--data", corpus, "--embeddings", name, "--out", out, "--parts", "geometry"
        )
        assert done.code == 0, done.err
        shapes.append(json.loads((out / "results.json").read_text())["geometry"]["subspaces"])
    for with_windows, without in zip(*shapes, strict=True):
        assert with_windows["alignment"]["value"] > 0 and without["alignment"] is None
        expected = without["effective_rank"]["value"]
        assert with_windows["effective_rank"]["value"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("no_pngs")
def test_a_broken_file_is_skipped_and_told(loev: Loev, bundle: Bundle, corpus: Path) -> None:
    bad = corpus.parent / "audio" / "bad.wav"
    bad.write_text("no music\n" * 100)
    rows = corpus.read_text(encoding="utf-8")
    more = corpus.parent / "more.csv"
    more.write_text(rows + "audio/bad.wav,album x,C major,100,pop,warm,0.5,one\n", encoding="utf-8")
    out = corpus.parent / "skipping"
    done = loev(
        "evaluate", "--data", more, "--model", bundle.path, "--out", out,
        "--parts", "geometry",
    )  # fmt: skip
    bad.unlink()
    assert done.code == 3
    assert "skipped: " in done.err and "bad.wav: unsupported or unreadable audio format" in done.err
    assert json.loads((out / "results.json").read_text())["data"]["n_tracks"] == 30


@pytest.mark.usefixtures("no_pngs")
def test_recordings_of_which_nothing_is_known(loev: Loev, bundle: Bundle, corpus: Path) -> None:
    bare = corpus.parent / "bare.csv"
    write_csv(bare, {"path": [f"audio/{i:02}.wav" for i in range(6)]})
    out = corpus.parent / "bare"
    arguments = ["evaluate", "--data", bare, "--model", bundle.path, "--out", out, *QUICK]
    done = loev(*arguments)
    assert done.code == 2 and "no label column" in done.lines[-1]
    done = loev(*arguments, "--parts", "equivariance,geometry")
    assert done.code == 0, done.err
    assert len(json.loads((out / "results.json").read_text())["equivariance"]["responses"]) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "probes,maps"], "unknown part 'maps'"),
        (["--probes", "linear,"], "--probes 'linear,' has an empty name"),
        (["--map", "umap"], "unknown map 'umap'"),
        (["--label", "gendre"], "the manifest has no column 'gendre' (did you mean 'genre'?"),
        (["--label", "label"], "column 'label' has one value only, 'one'"),
        (["--label", "mood:number"], "'calm;warm' in column 'mood' is not a number"),
        (["--folds", "16"], "16 folds need 16 groups of tracks, the manifest has 15"),
        (["--embeddings", "none.npz"], "no such embedding file: none.npz"),
        (["--model", "none"], "no model 'none'"),
    ],
)
def test_bad_requests_are_one_line(
    loev: Loev, corpus: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = loev("evaluate", "--data", corpus, "--out", tmp_path / "out", *arguments)
    assert done.code == 2
    assert done.lines[-1].startswith("loev: error: ") and message in done.lines[-1]
    assert not (tmp_path / "out").exists()
    assert sum("error" in line for line in done.lines) == 1


def test_labels_for_files_that_are_not_there(
    loev: Loev, bundle: Bundle, embeddings: Path, tmp_path: Path
) -> None:
    manifest = write_csv(
        tmp_path / "m.csv", {"path": [f"{i}.wav" for i in range(9)], "genre": list("abcabcabc")}
    )
    out = tmp_path / "out"
    done = loev("evaluate", "--data", manifest, "--model", bundle.path, "--out", out)
    assert done.code == 2
    assert f"m.csv line 2: no file {tmp_path / '0.wav'}, and 8 more like it" in done.lines[-1]
    done = loev("evaluate", "--data", manifest, "--embeddings", embeddings, "--out", out)
    assert done.code == 2 and "line 2: no embedding of 0.wav in" in done.lines[-1]


def test_without_the_extra_it_says_which_to_install(
    loev: Loev, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("loev_cli.evaluate")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for name in [name for name in sys.modules if name.startswith("sklearn.")]:
        monkeypatch.delitem(sys.modules, name)
    done = loev("evaluate", "--data", corpus, "--out", tmp_path / "out")
    assert done.code == 2 and "pip install 'loev-cli[eval]'" in done.lines[-1]


@pytest.mark.usefixtures("no_pngs")
def test_what_lies_at_out_is_not_overwritten_unasked(
    loev: Loev, corpus: Path, embeddings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    arguments = [
        "evaluate", "--data", corpus, "--embeddings", embeddings, "--out", out,
        "--parts", "geometry", "--quiet",
    ]  # fmt: skip
    done = loev(*arguments)
    assert done.code == 2 and "is not empty (--overwrite" in done.lines[-1]
    for _ in range(2):
        done = loev(*arguments, "--overwrite")
        assert done.code == 0 and done.err == ""
    assert (out / "mine.txt").read_text() == "mine" and (out / "report.html").is_file()
    with pytest.raises(Exception, match="is a file, not a folder"):
        check_out(out / "mine.txt", overwrite=True)
    done = loev("evaluate", "--data", corpus, "--out", tmp_path / "no" / "out")
    assert done.code == 2 and "no folder" in done.lines[-1]
