"""For machines and shells: ``--log-json`` on every long command, and completion."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from loev_cli.bundle import Bundle
from loev_cli.cli import _console
from loev_cli.cli._console import Throttle, say, say_in_json, stop_logging
from loev_cli.cli._progress import RunsDisplay
from loev_cli.evaluate.job import Skipped, Stage
from loev_cli.experiments.runs import RunEvent
from tests.conftest import ROOT, Loev, write_audio
from tests.search.common import write_library


@pytest.mark.parametrize(
    "words",
    [
        "export-vectors emb.npz --out v.npz",
        "index emb.npz --db db",
        "dedup emb.npz --out d.csv",
        "playlist emb.npz --seed a/000.wav --out p.csv",
        "merge emb.npz --out m.npz",
    ],
)
def test_every_line_on_stderr_is_an_event(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loev: Loev
) -> None:
    monkeypatch.chdir(tmp_path)
    write_library(Path("emb.npz"), 12)
    done = loev(*words.split(), "--log-json")
    assert done.code == 0
    events = [json.loads(line) for line in done.lines]
    assert events and all(event["event"] and event["time"] for event in events)
    assert events[-1]["event"] == "message"
    name, _, *others = words.split()
    done = loev(name, "none.npz", *others, "--overwrite", "--log-json")
    (error,) = map(json.loads, done.lines)
    assert (done.code, error["event"]) == (2, "error")
    (error,) = map(json.loads, loev(name, "--no-such-option", "--log-json").lines)
    assert (error["event"], "--no-such-option" in error["text"]) == ("error", True)
    assert loev(name, "none.npz", *others, "--overwrite").err.startswith("loev: error")


def test_annotate_tells_as_embed_does(loev: Loev, bundle: Bundle, tmp_path: Path) -> None:
    del bundle  # the shipped one has readouts
    write_audio(tmp_path / "a.wav", 3.0)
    out = tmp_path / "a.csv"
    done = loev("annotate", tmp_path / "a.wav", "--out", out, "--log-json")
    assert [json.loads(line)["event"] for line in done.lines] == ["started", "message"]


def test_stages_and_runs_are_events(capsys: pytest.CaptureFixture[str]) -> None:
    say_in_json()
    try:
        with RunsDisplay(quiet=False) as display:
            for done in range(4):
                display.take(Stage("embedding", done, 3))
            display.take(Skipped("x.wav: no audio"))
            for step in range(3):
                display.take(RunEvent("loev-1", "training", step, 3))
            display.take(RunEvent("loev-1", "failed", 3, 3, "out of memory"))
        warnings.warn("of a library", stacklevel=1)
    finally:
        stop_logging()
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for event in events:
        del event["time"]
    assert events == [
        {"event": "stage", "name": "embedding", "done": 0, "total": 3},
        {"event": "stage", "name": "embedding", "done": 3, "total": 3},
        {"event": "skipped", "text": "x.wav: no audio"},
        {
            "event": "run",
            "name": "loev-1",
            "state": "training",
            "step": 0,
            "n_steps": 3,
            "message": "",
        },
        {
            "event": "run",
            "name": "loev-1",
            "state": "failed",
            "step": 3,
            "n_steps": 3,
            "message": "out of memory",
        },
        {"event": "warning", "text": "of a library"},
    ]
    say("as before")
    assert capsys.readouterr().err == "as before\n"


def test_a_throttle_lets_the_first_pass_and_then_one_in_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(_console.time, "monotonic", lambda: now)
    throttle = Throttle(5.0)
    assert (throttle.passes("a"), throttle.passes("a"), throttle.passes("b")) == (True, False, True)
    now = 104.0
    assert not throttle.passes("a")
    assert throttle.passes("a", always=True)
    now = 106.0
    assert (throttle.passes("a"), throttle.passes("b")) == (False, True)


@pytest.mark.slow
@pytest.mark.parametrize(("quiet", "more"), [([], {"message"}), (["--quiet"], set())])
def test_training_tells_its_steps(
    loev: Loev, tmp_path: Path, quiet: list[str], more: set[str]
) -> None:
    words = "--augs pitch --steps 2 --batch-size 4 --set val_fraction=0 --log-json"
    done = loev(
        "train", ROOT / "examples" / "music", *words.split(), *quiet, "--out", tmp_path / "run"
    )
    assert done.code == 0
    events = [json.loads(line) for line in done.lines]
    steps = [event for event in events if event["event"] == "step"]
    assert [steps[-1]["step"], steps[-1]["share_done"]] == [2, 1.0]
    assert {event["event"] for event in events} == {"stage", "tracks", "step"} | more


# ---------------------------------------------------------------- completion


@pytest.fixture
def completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loev: Loev
) -> Callable[[str], list[str]]:
    """What bash is told to offer at the end of a line."""
    monkeypatch.chdir(tmp_path)

    def offered(line: str) -> list[str]:
        monkeypatch.setenv("_LOEV_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        done = loev()
        assert (done.code, done.err) == (0, "")
        return done.out.split()

    return offered


def test_a_shell_completes_commands_options_and_names(
    tmp_path: Path, completed: Callable[[str], list[str]]
) -> None:
    write_library(tmp_path / "emb.npz", 12, tags=("artist",))
    assert completed("loev pl") == ["playlist"]
    assert completed("loev ab off") == ["offline"]
    assert completed("loev search --wh") == ["--where"]
    assert completed("loev search emb.npz --by t") == ["tempo"]
    assert completed("loev search emb.npz x --weights tempo=1,p") == ["tempo=1,pitch="]
    assert completed("loev search emb.npz x --where tag") == ["tag_artist"]
    assert completed("loev search none.npz --by t") == []
    assert completed("loev embed --subspaces tempo,inv") == ["tempo,invariant"]
    assert completed("loev embed --model loev") == ["loevpp-small"]


def test_the_script_for_a_shell(loev: Loev) -> None:
    done = loev("--show-completion", "bash")
    assert done.code == 0
    assert "_LOEV_COMPLETE=complete_bash" in done.out
