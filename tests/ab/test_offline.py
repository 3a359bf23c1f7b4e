"""Two searches on judged queries, against trec_eval and against rankings made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from ir_measures import R, nDCG

from loev_cli.ab.offline import ndcg, recall
from tests.conftest import Loev
from tests.search.common import write_library

N, K = 40, 5


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same tracks as two models embed them."""
    folder = tmp_path_factory.mktemp("ab")
    files = folder / "old.npz", folder / "new.npz"
    for seed, file in enumerate(files):
        write_library(file, N, seed=seed)
    return files


def judge(folder: Path, n_queries: int, seed: int = 0) -> Path:
    """Random judgments, of which some of a query's are relevant, and some very much."""
    rng = np.random.default_rng(seed)
    lines = ["query,path,relevance"]
    for q in range(n_queries):
        for path in rng.choice([i for i in range(N) if i != q], 12, replace=False):
            lines.append(f"{q:03}.wav,a/{path:03}.wav,{rng.integers(0, 4)}")
    file = folder / "judged.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def results_of(out: Path) -> Any:
    return json.loads((out / "results.json").read_text())


def test_measures_by_hand() -> None:
    # Relevance by rank 0, 2, 1; also judged: another 2. Discounts 1, 0.6309, 0.5.
    assert ndcg([0, 2, 1], [0, 2, 1, 2], 3) == pytest.approx(
        (2 * 0.63093 + 0.5) / (2 + 2 * 0.63093 + 0.5), abs=1e-5
    )
    assert ndcg([2, 1], [1, 2], 10) == 1 and ndcg([0, 0], [1], 2) == 0
    assert recall([0, 2, 1], [0, 2, 1, 2], 3) == pytest.approx(2 / 3)
    assert recall([0, 2, 1], [0, 2, 1, 2], 1) == 0


def test_the_trec_files_give_the_same_figures_elsewhere(
    loev: Loev, libraries: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = libraries
    out = tmp_path / "out"
    judged = judge(tmp_path, 20)
    found = loev("ab", "offline", old, f"{new}@tempo", "--judged", judged, "-k", K, "--out", out)
    assert found.code == 0 and "nDCG@5" in found.out
    measures = {m["name"]: m for m in results_of(out)["measures"]}
    qrels = list(ir_measures.read_trec_qrels(str(out / "qrels.txt")))
    for side in ("a", "b"):
        theirs = ir_measures.calc_aggregate(
            [nDCG @ K, R @ K], qrels, ir_measures.read_trec_run(str(out / f"{side}.run"))
        )
        assert measures["nDCG@5"][side]["value"] == pytest.approx(theirs[nDCG @ K], abs=1e-4)
        assert measures["recall@5"][side]["value"] == pytest.approx(theirs[R @ K], abs=1e-4)
    page = (out / "report.html").read_text()
    assert page.index("<table") < page.index("<strong>") < page.index("<ul>")


def test_a_search_is_no_better_than_itself(
    loev: Loev, libraries: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    judged = judge(tmp_path, 20)
    found = loev("ab", "offline", libraries[0], libraries[0], "--judged", judged, "--out", out)
    assert found.code == 0 and "No significant difference" in found.out
    assert [m["difference"]["value"] for m in results_of(out)["measures"]] == [0, 0]
    # Again, and another kind of decision, which it must not replace.
    again = loev("ab", "offline", *libraries, "--judged", judged, "--out", out)
    assert again.code == 0
    plan = ["--measure", "s:0.3:0.02", "--units-per-day", 9]
    assert loev("ab", "plan", *plan, "--out", out).code == 2


def test_a_better_search_is_found_and_few_queries_are_not_tested(
    loev: Loev, libraries: tuple[Path, Path], tmp_path: Path
) -> None:
    """What B ranks first is what was judged relevant."""
    from loev_cli.ab.sides import open_side

    side = open_side(str(libraries[1]))
    for n_queries, verdict in ((12, "B ranks"), (6, "too few queries")):
        lines = ["query,path"]
        for q in side.library.paths[:n_queries]:
            lines += [f"{q},{path}" for path, _ in side.ranked(q, 3)]
        judged = tmp_path / "judged.csv"
        judged.write_text("\n".join(lines))
        out = tmp_path / str(n_queries)
        found = loev("ab", "offline", *libraries, "--judged", judged, "--out", out)
        assert found.code == 0 and verdict in found.out
        assert results_of(out)["measures"][0]["b"]["value"] == 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("query,file\n", "path"),
        ("query,path,relevance\n000.wav,001.wav,much\n", "line 2"),
        ("query,path\n000.wav,001.wav\n000.wav,a/001.wav\n", "line 3"),
        ("query,path\nnothing.wav,001.wav\n", "nothing.wav"),
        ("query,path,relevance\n000.wav,001.wav,0\n", "judged.csv"),
    ],
)
def test_judgments_that_cannot_be_used(
    loev: Loev, libraries: tuple[Path, Path], tmp_path: Path, text: str, named: str
) -> None:
    judged = tmp_path / "judged.csv"
    judged.write_text(text)
    found = loev("ab", "offline", *libraries, "--judged", judged, "--out", tmp_path / "out")
    assert found.code == 2 and named in found.err and not (tmp_path / "out").exists()


def test_vectors_of_another_tool(loev: Loev, libraries: tuple[Path, Path], tmp_path: Path) -> None:
    """The same vectors without what else a file of ours holds: the same ranking."""
    with np.load(libraries[0]) as ours:
        np.savez(tmp_path / "theirs.npz", path=ours["path"][::-1], vector=ours["invariant"][::-1])
    out = tmp_path / "out"
    judged = judge(tmp_path, 9)
    found = loev(
        "ab", "offline", tmp_path / "theirs.npz", libraries[0], "--judged", judged, "--out", out
    )
    assert found.code == 0
    assert [m["difference"]["value"] for m in results_of(out)["measures"]] == [0, 0]
    a, b = ((out / name).read_text().replace("theirs", "old") for name in ("a.run", "b.run"))
    assert [line.split()[2] for line in a.splitlines()] == [
        line.split()[2] for line in b.splitlines()
    ]


def test_libraries_of_other_tracks_are_refused(
    loev: Loev, libraries: tuple[Path, Path], tmp_path: Path
) -> None:
    write_library(tmp_path / "less.npz", N - 1)
    found = loev(
        "ab", "offline", libraries[0], tmp_path / "less.npz",
        "--judged", judge(tmp_path, 9), "--out", tmp_path / "out",
    )  # fmt: skip
    assert found.code == 2 and "a/039.wav" in found.err
