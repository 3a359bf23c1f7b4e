"""The command line. One file per command: parse -> call -> report; only this package prints.

Command modules import nothing heavy before they run, so that ``loev --help`` is quick.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection, Sequence
from functools import cache
from typing import Annotated, Any, NoReturn, cast

import typer

from loev_cli import __version__
from loev_cli.cli._boundary import (
    check_working_folder,
    exit_code_of,
    leave,
    signals_raise,
    standard_streams,
)
from loev_cli.cli._console import escaped, log_to_stderr, say_in_json, stop_logging
from loev_cli.cli._defaults import Defaults
from loev_cli.errors import UsageError

_COLUMNS = range(20, 10_000)
_COMPLETE = "_LOEV_COMPLETE"  # what Typer's scripts for shells set

# Every command, in the order of the help, by the panel it is in, with its line there: a module and
# a function in it are called like the command, with _ for -. Here because importing all modules for
# the lines would take a tenth of a second; a test compares the help with that of all commands.
PANELS = {
    "Embed and describe music": {
        "embed": "Turn audio into an embedding file with one array per subspace.",
        "annotate": "Estimate bpm, key and mode of audio files, each with its probability of "
        "being correct.",
        "info": "Show what an embedding file contains: tracks, model, settings, and which files "
        "failed.",
        "merge": "Join embedding files: parts of an array job, or libraries with the same "
        "settings.",
    },
    "Use a library": {
        "search": "Find the tracks nearest to one in a subspace: same tempo, same key, sounds "
        "like this.",
        "explore": "Look at a library as a map, listen to it, and search it by subspace, in the "
        "browser.",
        "playlist": "Make a playlist that keeps one attribute steady and lets another move.",
        "dedup": "Group tracks that are the same recording: copies, re-encodings, other speeds "
        "and keys.",
        "index": "Make a LanceDB database of an embedding file, with an index for all subspaces.",
        "export-vectors": "Write vectors for another database, whose inner product is the score "
        "of 'loev search'.",
    },
    "Judge a model": {
        "evaluate": "Evaluate each subspace: probes, equivariance, retrieval, geometry.",
        "compare": "Train and evaluate CL, LooC, LOEV and LOEV++ alike, and test their "
        "differences.",
        "advise": "Find out from labels which augmentations should have a subspace of their own.",
        "table": "Print the scores of a results.json as a Markdown or LaTeX table.",
        # A group of commands: Typer lists those last.
        "ab": "Compare two searches: judged queries, interleaved lists, an A/B test.",
    },
    "Train a model": {
        "train": "Train a model on a folder of music.",
        "export": "Turn a training checkpoint into a model bundle: weights, ONNX, config, card.",
        "manifest": "Make a manifest from a data set of mirdata, or from JAMS files.",
    },
    "What is installed": {
        "models": "List the models that came with loev, or show the card of one.",
        "doctor": "Say what this machine can run, and why it cannot run the rest.",
    },
}
COMMANDS = {name: line for lines in PANELS.values() for name, line in lines.items()}


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"loev {__version__}")
        raise typer.Exit


def _top(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Music embeddings with a subspace for each attribute: same key, same tempo, same overall.

    First steps, in a folder of music:

    loev embed ~/Music --out emb.npz

    loev search emb.npz song.mp3 --by tempo

    loev explore emb.npz
    """


def build_app(ready: Collection[str] = tuple(COMMANDS)) -> typer.Typer:
    """The application. Commands that are not among ``ready`` are listed and cannot be run: reading
    a command's options takes time."""
    app = typer.Typer(
        name="loev",
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_top)
    for panel, lines in PANELS.items():
        for name, line in lines.items():
            if name not in ready:
                app.command(name, help=line, rich_help_panel=panel)(_listed)
                continue
            called = name.replace("-", "_")
            command = getattr(importlib.import_module(f"loev_cli.cli.{called}"), called)
            if isinstance(command, typer.Typer):  # commands of its own
                app.add_typer(command, name=name, rich_help_panel=panel)
            else:
                app.command(name, rich_help_panel=panel)(command)
    return app


def _listed() -> None:
    """Stands for a command that is not run."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line (default ``sys.argv``) and exit with its code.

    Every error becomes one line on stderr; see DESIGN for the codes.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in argv
    _forget_useless_width()
    if debug:
        log_to_stderr()
    if "--log-json" in argv:  # also for errors in what is before it
        say_in_json()
    with standard_streams(silence_libraries=not debug), signals_raise():
        code = exit_code_of(lambda: _invoke(argv), debug=debug)
    stop_logging()
    if arguments is None:  # a process of our own
        leave(code)
    sys.exit(code)


def _forget_useless_width() -> None:
    """Ignore COLUMNS, the width of help and tables, if nothing would fit into it."""
    width = os.environ.get("COLUMNS", "")
    if not (width.isdecimal() and len(width) < 6 and int(width) in _COLUMNS):
        os.environ.pop("COLUMNS", None)


@cache
def _command(named: str | None) -> Any:
    # Kept, since a notebook or a test may run many command lines in one process.
    return typer.main.get_command(build_app([] if named is None else [named]))


def _invoke(argv: list[str]) -> None:
    if not {"--help", "-h", "--version"} & set(argv):
        check_working_folder()
    # Not app(): it would answer interrupts, broken pipes and usage errors in its own way.
    if _COMPLETE in os.environ:
        _complete(os.environ[_COMPLETE])
    named = next((word for word in argv if not word.startswith("-")), None)
    if named not in COMMANDS:
        named = None
    command = _command(named)
    defaults = Defaults(os.environ)
    default_map = {}
    if named is not None and defaults:
        default_map[named] = defaults.of(named, command.commands[named], COMMANDS, argv)
    command.epilog = f"Defaults: {escaped(str(defaults.file))}." if defaults.file else None
    if named is not None:
        command.commands[named].epilog = command.epilog
    # A command that writes down how it was called finds the words in the context's obj.
    given = {"obj": tuple(argv), "default_map": default_map}
    try:
        with command.make_context("loev", argv or ["--help"], **given) as context:
            command.invoke(context)
    except typer.BadParameter as error:
        raise _of_default(error, defaults) from error


def _of_default(error: Any, defaults: Defaults) -> Exception:
    """The error, which says so if the value is no option's but a default's."""
    context, parameter = error.ctx, error.param
    source = context and parameter and context.get_parameter_source(parameter.name)
    if source is None or source.name != "DEFAULT_MAP":
        return cast(Exception, error)
    where = defaults.where(context.command, parameter.name)
    return UsageError(f"{where}: {error.message.rstrip('.')}")


def _complete(instruction: str) -> NoReturn:
    """Answer a shell that asks how a command line may go on."""
    from typer.completion import shell_complete

    asked = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    named = next((word for word in asked.split()[1:] if word in COMMANDS), None)
    raise typer.Exit(shell_complete(_command(named), {}, "loev", _COMPLETE, instruction))
