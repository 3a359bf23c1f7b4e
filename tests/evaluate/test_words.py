"""The sentences say what the figures say, no more."""

from __future__ import annotations

import dataclasses

import numpy as np

from loev_cli.evaluate import words
from loev_cli.evaluate.equivariance import Response
from loev_cli.evaluate.probes import ProbeResult
from loev_cli.evaluate.retrieval import RetrievalResult
from loev_cli.evaluate.statistics import Estimate


def figure(value: float, reach: float = 0.02, chance: float | None = 0.1) -> Estimate:
    return Estimate(value, value - reach, value + reach, 100, 50, chance)


def probe(subspace: str, value: float) -> ProbeResult:
    none = np.zeros(0, np.int64)
    scores = {"accuracy": figure(value)}
    return ProbeResult("genre", "class", subspace, "linear", none, none, none, scores, (1.0,))


def test_probes_in_words() -> None:
    (said,) = words.of_probes(
        [probe("a", 0.8), probe("b", 0.79), probe("c", 0.3), probe("d", 0.11), probe("all", 0.5)]
    )
    assert said == (
        "genre: highest probe score in a: accuracy 0.80 [0.78, 0.82], chance 0.10. b may be as "
        "good: the intervals overlap. Also above chance: c. Not significantly above chance: d. "
        "Concatenating all subspaces lowers the score."
    )
    (said,) = words.of_probes([probe("a", 0.11), probe("b", 0.1)])
    assert said.startswith("genre: no subspace is significantly above chance; the best, a, has")


def test_changes_in_words() -> None:
    def response(subspace: str, value: float) -> Response:
        moved = figure(value, chance=None)
        return Response(subspace, "pitch", moved, figure(0.9), figure(0.7), {1.0: moved})

    clear = words.of_responses([response("pitch", 0.8), response("tempo", 0.2)], "x", 5)
    assert "the others by at most 0.20, 4.0 times less." in clear[1]
    unclear = words.of_responses([response("pitch", 0.3), response("tempo", 0.29)], "x", 5)
    assert "which is not clearly less" in unclear[1]
    nowhere = words.of_responses([response("global", 0.3)], "x", 5)
    assert nowhere[1] == "No subspace is named pitch; distances moved: global 0.30 [0.28, 0.32]."


def test_retrieval_in_words() -> None:
    found = RetrievalResult("same key", "pitch", {"recall@1": figure(0.5)})
    assert words.of_retrieval([found]) == [
        "same key: best searched by pitch; the nearest neighbor is correct for 50 % of queries "
        "[48, 52], chance 10 %."
    ]
    lost = dataclasses.replace(found, scores={"recall@1": figure(0.1)})
    assert words.of_retrieval([lost]) == ["same key: no subspace is better than chance."]
