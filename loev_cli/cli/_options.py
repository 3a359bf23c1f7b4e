"""Options that several commands have, spelled the same in every one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loev_cli.errors import UsageError

MODEL = "Model"
OUTPUT = "Output"
RUNNING = "Running"
SEARCHING = "Searching"
REPORTING = "Reporting"


class BackendName(StrEnum):
    AUTO = "auto"
    ONNX = "onnx"
    TORCH = "torch"


class PrecisionName(StrEnum):
    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Only errors on stderr.", rich_help_panel=REPORTING),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        help="Show tracebacks and library log messages.",
        rich_help_panel=REPORTING,
    ),
]
LogJson = Annotated[
    bool,
    typer.Option(
        "--log-json",
        help="Log to stderr as JSON lines, each with an event.",
        rich_help_panel=REPORTING,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.", rich_help_panel=REPORTING)]
Model = Annotated[
    str,
    typer.Option(
        help="Name of a shipped model, or a bundle folder.",
        metavar="NAME|FOLDER",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="auto uses the first CUDA device if it works, otherwise the CPU; cuda:all uses every "
        "CUDA device.",
        metavar="auto|cpu|cuda|cuda:N|cuda:all",
        rich_help_panel=RUNNING,
    ),
]
BpmRange = Annotated[
    str | None,
    typer.Option(
        help="Fold tempi by octaves into this range, for example 80-160: the probabilities of a "
        "tempo's octaves are added before the answer is read.",
        metavar="LOW-HIGH",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Backend = Annotated[
    BackendName,
    typer.Option(help="auto is onnx; torch needs the train extra.", rich_help_panel=RUNNING),
]
Precision = Annotated[
    PrecisionName,
    typer.Option(
        help="auto is fp32; fp16 and bf16 need --backend torch and a CUDA device.",
        rich_help_panel=RUNNING,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Cache folder of decoded tracks; default ~/.cache/loev/features.",
        metavar="FOLDER",
        rich_help_panel=RUNNING,
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        help="Keep only tracks matching this filter, such as 'duration_s > 60 and not silent'; "
        "see docs/search.md.",
        metavar="EXPR",
        show_default=False,
        rich_help_panel=SEARCHING,
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        help="Folder that the tracks' paths are relative to; prepended to them in playlists, and "
        "used to read the audio for --like-but.",
        metavar="FOLDER",
        show_default=False,
        rich_help_panel=OUTPUT,
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
