"""The command line. One file per command: parse -> call -> report; only this package prints.

Command modules import nothing heavy before they run, so that ``loev --help`` is quick.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, NoReturn

import typer

from loev_cli import __version__
from loev_cli.cli._boundary import (
    check_working_folder,
    exit_code_of,
    leave,
    signals_raise,
    standard_streams,
)
from loev_cli.cli._console import log_to_stderr, stop_logging

_COLUMNS = range(20, 10_000)

# (module, function): the command is called like the function. Order is that of the help.
COMMANDS = [
    ("loev_cli.cli.embed", "embed"),
    ("loev_cli.cli.merge", "merge"),
    ("loev_cli.cli.info", "info"),
    ("loev_cli.cli.annotate", "annotate"),
    ("loev_cli.cli.train", "train"),
    ("loev_cli.cli.export", "export"),
    ("loev_cli.cli.evaluate", "evaluate"),
    ("loev_cli.cli.compare", "compare"),
    ("loev_cli.cli.advise", "advise"),
    ("loev_cli.cli.search", "search"),
    ("loev_cli.cli.index", "index"),
    ("loev_cli.cli.dedup", "dedup"),
    ("loev_cli.cli.playlist", "playlist"),
    ("loev_cli.cli.explore", "explore"),
    ("loev_cli.cli.ab", "ab"),
    ("loev_cli.cli.models", "models"),
    ("loev_cli.cli.doctor", "doctor"),
]


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
    """Music embeddings with one subspace per thing you want to listen for.

    Example: loev embed ~/Music --out emb.npz
    """


def build_app(only: str | None = None) -> typer.Typer:
    """The application with all its commands, or with one: reading their options takes time."""
    app = typer.Typer(
        name="loev",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_top)
    for module, function in COMMANDS:
        if only not in (None, function):
            continue
        command = getattr(importlib.import_module(module), function)
        if isinstance(command, typer.Typer):  # commands of its own
            app.add_typer(command, name=function)
        else:
            app.command(name=function)(command)
    return app


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line (default ``sys.argv``) and exit with its code.

    Every error becomes one line on stderr; see DESIGN for the codes.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in argv
    _forget_useless_width()
    if debug:
        log_to_stderr()
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
def _command(only: str | None) -> Any:
    # Kept, since a notebook or a test may run many command lines in one process.
    return typer.main.get_command(build_app(only))


def _invoke(argv: list[str]) -> None:
    if not {"--help", "-h", "--version"} & set(argv):
        check_working_folder()
    # Not app(): it would answer interrupts, broken pipes and usage errors in its own way.
    named = argv[0] if argv and argv[0] in {function for _, function in COMMANDS} else None
    command = _command(named)
    # A command that writes down how it was called finds the words in the context's obj.
    with command.make_context("loev", argv or ["--help"], obj=tuple(argv)) as context:
        command.invoke(context)
