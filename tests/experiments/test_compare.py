"""``loev compare`` from manifest to report, with runs of two steps."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loev_cli.cli import main
from loev_cli.evaluate import figures
from loev_cli.evaluate.manifest import read_manifests
from loev_cli.evaluate.statistics import fewest_groups
from loev_cli.experiments import runs
from loev_cli.experiments.compare import pretraining_rows, write_pretraining
from loev_cli.train.checkpoint import load_checkpoint
from loev_cli.train.data import listing
from tests.conftest import Loev, command, environment
from tests.evaluate.conftest import leaves, no_pngs, write_csv
from tests.experiments.conftest import cache, finish, music
from tests.train.conftest import N_TRACKS, TINY_OPTIONS

__all__ = ["cache", "music", "no_pngs"]

TRAINING = (
    *("--methods", "loev++,cl", "--steps", "2", "--batch-size", "4"),
    *TINY_OPTIONS,
)
JUDGING = ("--label", "key", "--label", "energy", "--changed", "2", "--stretcher", "signalsmith")
Tree = dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def manifest(music: Path) -> Path:
    rng = np.random.default_rng(0)
    columns = {
        "path": [f"{i:02}.wav" for i in range(N_TRACKS)],
        "key": [("C major", "A minor")[i % 2] for i in range(N_TRACKS)],
        "energy": [f"{x:.3f}" for x in rng.standard_normal(N_TRACKS)],
        "one": ["same"] * N_TRACKS,
    }
    return write_csv(music / "manifest.csv", columns)


@pytest.fixture(scope="module")
def foreign(manifest: Path) -> Path:
    """What another tool may have saved: it knows the key and nothing else."""
    rng = np.random.default_rng(1)
    vectors = 0.01 * rng.standard_normal((N_TRACKS, 4)) + np.arange(N_TRACKS)[:, None] % 2
    file = manifest.parent / "other-tool.npz"
    paths = [f"/somewhere/else/{i:02}.wav" for i in range(N_TRACKS)]
    np.savez(file, filenames=np.array(paths), emb=vectors.astype(np.float32), labels=np.arange(3))
    return file


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)])
def n_seeds(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def compared(
    manifest: Path,
    foreign: Path,
    cache: Path,
    n_seeds: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A finished comparison; models are trained in the slow lane only."""
    out = tmp_path_factory.mktemp("compared") / "out"
    arguments = (
        *("compare", "--data", manifest, "--out", out, "--cache", cache, "--folds", "3"),
        *(*TRAINING, "--seeds", str(n_seeds), *JUDGING, "--against", foreign),
    )
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", stderr)
        if n_seeds == 1:
            patch.setattr(runs._Pool, "train", finish)
            patch.setattr(figures, "save_png", lambda figure, path: path.touch())
            arguments += ("--jobs", "1")
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
    assert ended.value.code == 0, stderr.getvalue()
    assert "| loev++ |" in stdout.getvalue()
    assert "the evaluation tracks were part of (unlabeled) pretraining" in stderr.getvalue()
    assert f"-> {out / 'report.html'}" in stderr.getvalue().splitlines()[-1]
    return out


def results_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "results.json").read_text(encoding="utf-8")))


def test_every_method_is_judged_alike(compared: Path, n_seeds: int) -> None:
    results = results_of(compared)
    assert results["command"].startswith("loev compare --data ")
    assert list(results["contestants"]) == ["loev++", "cl", "other-tool"]
    assert len(results["contestants"]["cl"]["runs"]) == n_seeds
    assert results["training"]["steps"] == 2 and results["training"]["n_tracks"] == N_TRACKS
    scores = results["scores"]
    chosen = {(s["question"], s["contestant"]) for s in scores if s["rule"] == "chosen"}
    assert chosen == {
        (label, name) for label in ("key", "energy") for name in results["contestants"]
    }
    for score in scores:
        assert score["n_groups"] > 0
        assert score["low"] is None or score["low"] <= score["high"]
        n_scores = 1 if score["contestant"] == "other-tool" else n_seeds
        assert len(score["of_seeds"]) == n_scores
        assert score["value"] == pytest.approx(np.mean(score["of_seeds"]))
    # The foreign vectors hold the key and no more.
    key = next(
        s for s in scores
        if (s["question"], s["contestant"], s["rule"]) == ("key", "other-tool", "chosen")
        and s["metric"] == "accuracy"
    )  # fmt: skip
    assert key["value"] > 0.8
    assert all(math.isfinite(leaf) for leaf in leaves(results) if isinstance(leaf, float))


def test_every_pair_is_tested_once_and_corrected(compared: Path) -> None:
    results = results_of(compared)
    tests = results["differences"]
    labels = [(d["question"], d["a"], d["b"]) for d in tests]
    assert len(set(labels)) == len(labels)
    # Three pairs for each of two labels; the file cannot hear changes, so one pair for each change.
    assert len(tests) == 3 * 2 + 2
    n_tested = sum(d["p_holm"] is not None for d in tests)
    assert f"Holm over {n_tested} tests" in results["test"]
    for d in tests:
        assert (d["p_holm"] is not None) == (d["n_groups"] >= fewest_groups(len(tests)))
        if d["p_holm"] is not None:
            assert d["p"] <= d["p_holm"] <= min(1.0, n_tested * d["p"]) + 1e-12
        of = {
            name: next(
                s["value"] for s in results["scores"]
                if s["question"] == d["question"] and s["contestant"] == name
                and s["rule"] in ("chosen", "invariant") and s["metric"] == d["metric"]
            )
            for name in (d["a"], d["b"])
        }  # fmt: skip
        assert d["value"] == pytest.approx(of[d["a"]] - of[d["b"]])


def test_the_report_stands_alone(compared: Path, n_seeds: int) -> None:
    html = (compared / "report.html").read_text(encoding="utf-8")
    assert "loev++, cl compared" in html
    assert "<script" not in html and "http" not in html.replace("http://www.w3.org", "")
    name = "loev++ (1 seed)" if n_seeds == 1 else f"loev++ ({n_seeds} seeds)"
    markdown = (compared / "compare.md").read_text(encoding="utf-8")
    assert markdown.count(f"| {name} |") == 1 and "| chance |" in markdown
    # Each table is one block of rows with as many cells.
    for block in markdown.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
            assert len(block.splitlines()) >= 3
    assert {"difference_cl.png", "scores_key.png", "sensitivity_loev_.png"} <= {
        file.name for file in compared.glob("*.png")
    }


@pytest.mark.usefixtures("no_pngs")
def test_a_rerun_trains_embeds_and_renders_nothing(
    compared: Path, n_seeds: int, manifest: Path, foreign: Path, cache: Path, loev: Loev
) -> None:
    def made() -> Tree:
        files = [f for f in compared.rglob("*") if f.suffix in (".safetensors", ".pt", ".npz")]
        return {str(f): (f.stat().st_size, f.stat().st_mtime_ns) for f in files}

    before, results = made(), results_of(compared)
    assert len([n for n in before if "changes" in n and "excerpts" not in n]) == 2 * n_seeds
    done = loev(
        *("compare", "--data", manifest, "--out", compared, "--cache", cache, "--folds", "3"),
        *(*TRAINING, "--seeds", str(n_seeds), *JUDGING, "--against", foreign, "--jobs", "1"),
    )
    assert done.code == 0, done.err
    after = made()
    assert {n: s for n, s in before.items() if "embeddings" not in n} == {
        n: s for n, s in after.items() if "embeddings" not in n
    }
    again = results_of(compared)
    for part in ("scores", "differences", "sensitivity", "geometry"):
        assert again[part] == results[part]


def test_runs_with_other_settings_or_other_tracks_are_not_taken(
    compared: Path, n_seeds: int, manifest: Path, cache: Path, loev: Loev
) -> None:
    done = loev(
        *("compare", "--data", manifest, "--out", compared, "--cache", cache, *JUDGING),
        *("--folds", "3", "--seeds", str(n_seeds), *TRAINING, "--set", "lr=0.001"),
    )
    assert done.code == 2 and "was trained with different settings: lr" in done.err
    fewer = manifest.parent / "fewer.csv"
    fewer.write_text("\n".join(manifest.read_text().splitlines()[:-1]) + "\n")
    done = loev(
        *("compare", "--data", fewer, "--out", compared, "--cache", cache, *JUDGING),
        *("--folds", "3", "--seeds", str(n_seeds), *TRAINING),
    )
    assert done.code == 2 and "trained on different tracks" in done.err
    assert len(done.lines) == 1


def in_minutes(manifest: Path, cache: Path, out: Path) -> tuple[str | Path, ...]:
    return (
        *("compare", "--data", manifest, "--out", out, "--cache", cache, "--folds", "3"),
        *("--methods", "cl,loev++", "--seeds", "1", "--batch-size", "4", "--label", "key"),
        *("--changed", "2", "--stretcher", "signalsmith", "--quiet", "--jobs", "1"),
        *TINY_OPTIONS,
    )


@pytest.mark.slow
def test_too_few_minutes_are_refused(
    manifest: Path, cache: Path, tmp_path: Path, loev: Loev
) -> None:
    done = loev(*in_minutes(manifest, cache, tmp_path / "out"), "--minutes", "0.0001")
    assert done.code == 2 and "or more, or fewer --seeds" in done.err


@pytest.mark.slow
def test_minutes_become_the_same_steps_for_all_and_stay_decided(
    manifest: Path, cache: Path, tmp_path: Path, loev: Loev
) -> None:
    out = tmp_path / "out"
    arguments = in_minutes(manifest, cache, out)
    done = loev(*arguments, "--minutes", "0.3")
    assert done.code == 0, done.err
    plan = json.loads((out / "plan.json").read_text())
    assert set(plan["step_s"]) == {"cl", "loev++"}
    expected = 0.95 * 0.3 * 60 / sum(plan["step_s"].values())
    assert plan["steps"] == int(expected) >= 10
    for method in ("cl", "loev++"):
        state = load_checkpoint(out / "runs" / f"{method}-seed0" / "checkpoints" / "last.pt")
        assert state["step"] == plan["steps"]
    assert not (out / "trial").exists()
    assert loev(*arguments, "--minutes", "0.3").code == 0
    assert json.loads((out / "plan.json").read_text()) == plan


@pytest.mark.slow
def test_interrupted_it_says_how_to_go_on(manifest: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(
            *("compare", "--data", manifest, "--out", out, "--cache", cache, "--label", "key"),
            *("--folds", "3", "--methods", "loev++,cl", "--seeds", "1", "--steps", "1000"),
            *("--batch-size", "4", "--changed", "2", "--stretcher", "signalsmith"),
            *TINY_OPTIONS,
        ),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    metrics = out / "runs" / "loev++-seed0" / "metrics.csv"
    deadline = time.monotonic() + 200
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 143
    assert f"run the same command again to resume from {out}" in stderr
    assert "Traceback" not in stderr
    checkpoint = metrics.parent / "checkpoints" / "last.pt"
    assert load_checkpoint(checkpoint)["step"] >= 2


def bad(**changes: Any) -> Callable[[Path], None]:
    """Rewrites columns of the manifest."""

    def write(file: Path) -> None:
        rows = [line.split(",") for line in file.read_text().splitlines()]
        columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
        write_csv(file, columns | {n: [f(i) for i in range(N_TRACKS)] for n, f in changes.items()})

    return write


def test_variants_are_pretrained_on_as_works(music: Path, tmp_path: Path, loev: Loev) -> None:
    """Two files of a work are one track: five works are too few for a batch of six."""
    columns = {
        "path": [str(music / f"{i:02}.wav") for i in range(N_TRACKS)],
        "key": [("C major", "A minor")[i % 2] for i in range(N_TRACKS)],
        "track": [f"work {i // 2}" for i in range(N_TRACKS)],
        "band": [f"{i % 2}" for i in range(N_TRACKS)],
    }
    file = write_csv(tmp_path / "variants.csv", columns)
    out = tmp_path / "out"
    arguments = ["compare", "--data", file, "--out", out, "--augs", "pitch,band", "--steps", "1"]
    arguments += ["--stretcher", "signalsmith", "--label", "key", "--folds", "3"]
    done = loev(*arguments, "--batch-size", "6")
    assert done.code == 2 and "5 tracks to train on are fewer than the batch of 6" in done.err
    done = loev(*arguments[:-2], "--folds", "3", "--augs", "pitch,bands", "--batch-size", "4")
    assert done.code == 2 and "no column 'bands'" in done.err and len(done.lines) == 1
    done = loev(*arguments[:-2], "--folds", "6", "--batch-size", "4")
    assert done.code == 2 and "6 folds need 6 groups of tracks, the manifest has 5" in done.err
    rows, _ = pretraining_rows(read_manifests([file]), ["band"])
    written = write_pretraining(rows, out, variants=["band"]).read_text().splitlines()
    assert written[0] == "path,group,track,band" and written[4].endswith("/03.wav,,work 1,1")
    assert len(listing(str(out / "pretraining.csv"), ["band"])) == N_TRACKS


@pytest.mark.parametrize(
    ("spoil", "extra", "says"),
    [
        (bad(), ["--methods", "loev++,clr"], "unknown method 'clr' (did you mean 'cl'?"),
        (bad(path=lambda i: f"no{i}.wav"), [], "no file"),
        (bad(key=lambda i: "C major"), ["--label", "key"], "has one value only, 'C major'"),
        (bad(), ["--folds", "20"], "20 folds need 20 tracks, the manifest has 10"),
        (bad(energy=lambda i: "nan" if i == 3 else "1"), ["--label", "energy"], "'energy' is NaN"),
        (bad(), ["--methods", "cl"], "need at least two methods"),
        (bad(), ["--methods", "cl,cl"], "--methods is empty or has duplicates: cl, cl"),
        (bad(), ["--minutes", "5"], "--steps and --minutes exclude each other"),
        (bad(), ["--batch-size", "64"], "10 tracks to train on are fewer than the batch of 64"),
        (bad(), ["--against", "none.npz"], "--against none.npz: no such file"),
        (bad(), ["--set", "leer=3"], "unknown key 'leer'"),
        (bad(), ["--device", "cuda:all"], "no device 'cuda:all'"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_trained(
    spoil: Callable[[Path], None], extra: list[str], says: str, manifest: Path, tmp_path: Path,
    loev: Loev,
) -> None:  # fmt: skip
    for file in manifest.parent.glob("*.wav"):
        os.link(file, tmp_path / file.name)
    copy = tmp_path / "manifest.csv"
    copy.write_text(manifest.read_text())
    spoil(copy)
    arguments = ["--data", copy, "--out", tmp_path / "out", "--batch-size", "4", "--steps", "2"]
    done = loev("compare", *arguments, *extra)
    assert done.code == 2 and says in done.err
    assert len(done.lines) == 1
    assert not (tmp_path / "out").exists()
