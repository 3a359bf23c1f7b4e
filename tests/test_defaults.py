"""Defaults of options: a file, variables, what goes before what, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer.main

from loev_cli.cli import build_app
from loev_cli.cli._defaults import SHARED, Defaults, _options, _walk
from loev_cli.errors import UsageError
from tests.conftest import Loev
from tests.search.common import write_library


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a library to search in."""
    monkeypatch.chdir(tmp_path)
    write_library(Path("emb.npz"), 20)
    return tmp_path


def n_hits(loev: Loev, *options: str) -> int:
    done = loev("search", "emb.npz", "a/000.wav", "--format", "jsonl", *options)
    assert done.code == 0, done.err
    return len(done.out.splitlines())


def test_an_option_goes_before_a_variable_and_that_before_the_file(
    loev: Loev, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert n_hits(loev) == 10
    Path("loev.toml").write_text("[search]\nk = 2\n")
    assert n_hits(loev) == 2
    monkeypatch.setenv("LOEV_SEARCH_K", "3")
    assert n_hits(loev) == 3
    assert n_hits(loev, "-k", "4") == 4
    monkeypatch.setenv("LOEV_SEARCH_K", "")  # as if it were not there
    assert n_hits(loev) == 2
    Path("mine.toml").write_text("[search]\nk = 5\n")
    monkeypatch.setenv("LOEV_CONFIG", "mine.toml")
    assert n_hits(loev) == 5


def test_for_one_command_goes_before_for_all(loev: Loev, monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> str:
        return loev("search", "emb.npz", "a/000.wav").err

    Path("loev.toml").write_text("quiet = true\n")
    assert not said()
    Path("loev.toml").write_text("quiet = true\n[search]\nquiet = false\n")
    assert said()
    monkeypatch.setenv("LOEV_QUIET", "1")
    assert not said()
    monkeypatch.setenv("LOEV_SEARCH_QUIET", "0")
    assert said()


def test_what_is_typed_replaces_the_default_of_what_it_excludes(loev: Loev) -> None:
    Path("loev.toml").write_text('[search]\nby = "tempo"\n')
    assert "by tempo" in loev("search", "emb.npz", "a/000.wav").err
    assert "pitch=-1" in loev("search", "emb.npz", "a/000.wav", "--weights", "pitch=-1").err


def test_commands_of_commands_and_lists(loev: Loev) -> None:
    app: Any = typer.main.get_command(build_app())
    Path("loev.toml").write_text('[ab.offline]\nk = 3\n[train]\nset = ["a.b=1", "c=2"]\n')
    defaults = Defaults({"LOEV_AB_PLAN_QUIET": "1", "OTHER": "x", "LOEV_TRAIN_STEPS": "5"})
    mapped = defaults.of("ab", app.commands["ab"], app.commands, [])
    assert mapped["offline"] == {"k": 3}
    assert mapped["plan"] == {"quiet": "1"}
    mapped = defaults.of("train", app.commands["train"], app.commands, ["--minutes=3"])
    assert mapped == {"set_": ["a.b=1", "c=2"]}  # not the steps, since minutes are given
    assert defaults.variables(app.commands) == (["LOEV_AB_PLAN_QUIET", "LOEV_TRAIN_STEPS"], [])


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[search]\nkk = 3\n", "loev.toml: [search] has no option 'kk'"),
        ("[search]\nwher = 'x'\n", "did you mean 'where'?"),
        ("[search]\nlike_but = 'x'\n", "did you mean 'like-but'?"),
        ("[search]\noverwrite = true\n", "loev.toml: 'overwrite'"),
        ("[serch]\nk = 3\n", "did you mean 'search'?"),
        ("devic = 'cpu'\n", "did you mean 'device'?"),
        ("search = 3\n", "loev.toml: 'search'"),
        ("[search]\nk = 'many'\n", "loev.toml: [search] k: "),
        ("[search]\nquiet = 3\n", "loev.toml: [search] quiet"),
        ("[search]\nby = ['a']\n", "loev.toml: [search] by"),
        ("[search]\nby = 2026-01-01\n", "loev.toml: [search] by"),
        ("quiet = [1]\n", "loev.toml: quiet"),
        ("[search\n", "cannot read loev.toml: "),
        ("[ab]\nk = 3\n", "[ab] has no option 'k'"),
    ],
)
def test_what_is_wrong_in_the_file_is_one_line(loev: Loev, content: str, named: str) -> None:
    Path("loev.toml").write_text(content)
    command = "ab offline emb.npz emb.npz@tempo" if "[ab]" in content else "search emb.npz a/0.wav"
    done = loev(*command.split())
    assert (done.code, len(done.lines)) == (2, 1)
    assert named in done.err


def test_what_is_wrong_elsewhere(loev: Loev, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOEV_SEARCH_K", "many")
    done = loev("search", "emb.npz", "a/000.wav")
    assert (done.code, "LOEV_SEARCH_K: " in done.err) == (2, True)
    assert "LOEV" not in loev("search", "emb.npz", "a/000.wav", "-k", "few").err
    monkeypatch.setenv("LOEV_CONFIG", "none.toml")
    done = loev("search", "emb.npz", "a/000.wav")
    assert (done.code, "none.toml" in done.err, "LOEV_CONFIG" in done.err) == (2, True, True)
    with pytest.raises(UsageError, match=r"none\.toml"):
        Defaults({"LOEV_CONFIG": "none.toml"}).check({})


def test_help_and_doctor_say_which_file_is_in_use(
    loev: Loev, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> dict[str, Any]:
        findings = json.loads(loev("doctor", "--json").out)
        return {f["name"]: (f["ok"], f["detail"]) for f in findings if f["topic"] == "defaults"}

    assert "Defaults" not in loev("--help").out + loev("search", "--help").out
    assert found()["loev.toml"][0] is None
    Path("loev.toml").write_text("[search]\nk = 77\n")
    monkeypatch.setenv("LOEV_DEVICE", "cpu")
    monkeypatch.setenv("LOEV_DEVCE", "cpu")
    assert "Defaults: loev.toml." in loev("--help").out
    assert "[default: 77]" in loev("search", "--help").out
    assert found() == {
        "loev.toml": (True, str(here / "loev.toml")),
        "LOEV_DEVICE": (True, "in use"),
        "LOEV_DEVCE": (None, "no option of loev"),
    }
    Path("loev.toml").write_text("[embed]\nhop = 77\n")  # is of no concern to doctor itself
    assert found()["loev.toml"] == (
        False,
        "loev.toml: [embed] has no option 'hop' (did you mean 'hop-s'?)",
    )
    Path("loev.toml").write_text("[embed")
    assert loev("--help").code == loev("--version").code == 0


def test_shared_options_are_of_several_commands() -> None:
    app: Any = typer.main.get_command(build_app())
    of_commands = [set(_options(command)) for _, command in _walk((), app.commands)]
    for key in SHARED:
        assert sum(key in options for options in of_commands) >= 2, key
