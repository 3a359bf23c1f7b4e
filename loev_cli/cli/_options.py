"""Options that several commands have, spelled the same in every one."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from loev_cli.errors import UsageError

MODEL = "Model"
OUTPUT = "Output"
RUNNING = "Running"
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
        help="Tracebacks, and what the libraries have to say.",
        rich_help_panel=REPORTING,
    ),
]
LogJson = Annotated[
    bool,
    typer.Option(
        "--log-json",
        help="What is told on stderr as JSON lines, each with an event, for machines.",
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
        help="auto takes the first CUDA device if it opens, else the CPU; cuda:all takes every "
        "CUDA device.",
        metavar="auto|cpu|cuda|cuda:N|cuda:all",
        rich_help_panel=RUNNING,
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


def names(text: str, option: str) -> list[str]:
    """``a,b`` -> its names.

    Raises:
        UsageError: one of them is empty.
    """
    parts = [name.strip() for name in text.split(",")]
    if not all(parts):
        raise UsageError(f"{option} '{text}' has an empty name", hint=f"as in {option} a,b")
    return parts
