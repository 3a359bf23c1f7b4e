"""Options that several commands have, spelled the same in every one."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from loev_cli.errors import UsageError

MODEL = "Model"
OUTPUT = "Output"
RUNNING = "Running"


def panel(title: str) -> partial[Any]:
    """What makes an option that ``--help`` lists under a title; called as ``typer.Option`` is."""
    return partial(typer.Option, rich_help_panel=title)


model = panel(MODEL)
output = panel(OUTPUT)
running = panel(RUNNING)
searching = panel("Searching")
reporting = panel("Reporting")


class BackendName(StrEnum):
    AUTO = "auto"
    ONNX = "onnx"
    TORCH = "torch"


class PrecisionName(StrEnum):
    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


Quiet = Annotated[bool, reporting("--quiet", "-q", help="Only errors on stderr.")]
Debug = Annotated[bool, reporting("--debug", help="Show tracebacks and library log messages.")]
LogJson = Annotated[
    bool, reporting("--log-json", help="Log to stderr as JSON lines, each with an event.")
]
Json = Annotated[bool, reporting("--json", help="JSON on stdout.")]
Model = Annotated[
    str, model(help="Name of a shipped model, or a bundle folder.", metavar="NAME|FOLDER")
]
Device = Annotated[
    str,
    running(
        help="auto uses the first CUDA device if it works, otherwise the CPU; cuda:all uses every "
        "CUDA device.",
        metavar="auto|cpu|cuda|cuda:N|cuda:all",
    ),
]
Backend = Annotated[BackendName, running(help="auto is onnx; torch needs the train extra.")]
Precision = Annotated[
    PrecisionName,
    running(help="auto is fp32; fp16 and bf16 need --backend torch and a CUDA device."),
]
Cache = Annotated[
    Path | None,
    running(
        help="Cache folder of decoded tracks; default ~/.cache/loev/features.", metavar="FOLDER"
    ),
]
Where = Annotated[
    str | None,
    searching(
        help="Keep only tracks matching this filter, such as 'duration_s > 60 and not silent'; "
        "see docs/search.md.",
        metavar="EXPR",
    ),
]
Root = Annotated[
    Path | None,
    output(
        help="Folder that the tracks' paths are relative to; prepended to them in playlists, and "
        "used to read the audio for --like-but.",
        metavar="FOLDER",
    ),
]


def refuse_repeats(context: typer.Context) -> None:
    """Raises UsageError where an option that takes one value was given twice, of which the parser
    would silently take the last."""
    options = {
        name: parameter
        for parameter in context.command.params
        if parameter.param_type_name == "option" and not getattr(parameter, "multiple", False)
        for name in parameter.opts
    }
    seen: set[str] = set()
    words = iter(context.obj or ())
    for word in words:
        if word == "--":
            return
        name, equals, _ = word.partition("=")
        if not word.startswith("--"):
            name, equals = word[:2], word[2:]
        if name not in options:
            continue
        takes_value = not getattr(options[name], "is_flag", False)
        if takes_value and options[name].opts[0] in seen:
            raise UsageError(f"{name} is given more than once")
        seen.add(options[name].opts[0])
        if takes_value and not equals:
            next(words, None)


def names(text: str, option: str) -> list[str]:
    """``a,b`` -> its names.

    Raises:
        UsageError: one of them is empty.
    """
    parts = [name.strip() for name in text.split(",")]
    if not all(parts):
        raise UsageError(f"{option} '{text}' has an empty name", hint=f"as in {option} a,b")
    return parts
