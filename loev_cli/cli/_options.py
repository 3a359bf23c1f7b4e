"""Options that several commands have, spelled the same in every one, and what they say together."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from loev_cli.cli import _completion
from loev_cli.cli._console import say_in_json
from loev_cli.errors import UsageError

if TYPE_CHECKING:
    from loev_cli.train.config import TrainConfig

OUTPUT = "Output"
RUNNING = "Running"


def panel(title: str) -> partial[Any]:
    """What makes an option that ``--help`` lists under a title; called as ``typer.Option`` is."""
    return partial(typer.Option, rich_help_panel=title)


model = panel("Model")
output = panel(OUTPUT)
running = panel(RUNNING)
searching = panel("Searching")
reporting = panel("Reporting")


Emb = Annotated[
    Path,
    typer.Argument(metavar="EMB", help="A file of 'loev embed', or a folder of 'loev index'."),
]
INPUTS_HELP = (
    "Audio files, folders (searched recursively), s3:// and other URLs of them, or - for a list of "
    "paths on stdin."
)
Inputs = Annotated[list[str], typer.Argument(metavar="INPUT", help=INPUTS_HELP)]
Quiet = Annotated[bool, reporting("--quiet", "-q", help="Only errors on stderr.")]
Debug = Annotated[bool, reporting("--debug", help="Show tracebacks and library log messages.")]
# In the help of several commands, without importing what they name (tests/test_cli.py compares).
METHODS = "loev++, loev, looc, cl"
ENCODERS = "small, sf-nfnet-f0"
AUGMENTATIONS = (
    "pitch, tempo, blur, compression, eq, filter, distortion, reverb, noise, codec, gain, polarity"
)

LogJson = Annotated[
    bool,
    reporting(
        "--log-json",
        callback=say_in_json,
        is_eager=True,  # errors in other options are JSON too
        help="Log to stderr as JSON lines, each with an event.",
    ),
]
Json = Annotated[bool, reporting("--json", help="JSON on stdout.")]
Model = Annotated[
    str,
    model(
        help="Name of a shipped model, a bundle folder, or hf://OWNER/NAME@REVISION.",
        metavar="NAME|FOLDER",
        autocompletion=_completion.models,
    ),
]
Device = Annotated[
    str,
    running(
        help="auto uses the first CUDA device if it works, otherwise the CPU; cuda:all uses every "
        "CUDA device.",
        metavar="auto|cpu|cuda|cuda:N|cuda:all",
    ),
]
BpmRange = Annotated[
    str | None,
    model(
        help="Fold tempi by octaves into this range, for example 80-160: the probabilities of a "
        "tempo's octaves are added before the answer is read.",
        metavar="LOW-HIGH",
    ),
]
Backend = Annotated[
    Literal["auto", "onnx", "torch"], running(help="auto is onnx; torch needs the train extra.")
]
Precision = Annotated[
    Literal["auto", "fp32", "fp16", "bf16"],
    running(help="auto is fp32; fp16 and bf16 need --backend torch and a CUDA device."),
]
Cache = Annotated[
    Path | None,
    running(
        help="Cache folder of decoded tracks; default ~/.cache/loev/features.", metavar="FOLDER"
    ),
]
By = Annotated[
    str | None,
    searching(
        help="Similar in this subspace; default invariant.",
        metavar="SUBSPACE",
        autocompletion=_completion.subspaces,
    ),
]
Weights = Annotated[
    str | None,
    searching(
        help="Alike in several subspaces, as in invariant=1,tempo=0.5; below 0: unlike in that.",
        metavar="A=W,B=W",
        autocompletion=_completion.weights,
    ),
]
Where = Annotated[
    str | None,
    searching(
        help="Keep only tracks matching this filter, such as 'duration_s > 60 and not silent'; "
        "see docs/search.md.",
        metavar="EXPR",
        autocompletion=_completion.columns,
    ),
]
Root = Annotated[
    Path | None,
    output(
        help="Folder that the tracks' paths are relative to, to find their audio. Default: the "
        "folder that was embedded, that of EMB or the current one, whichever has most of them.",
        metavar="FOLDER",
    ),
]
Null = Annotated[
    bool,
    running("--null", "-0", help="The list on stdin is NUL-separated, as written by find -print0."),
]
Workers = Annotated[
    int | None,
    running(
        min=1, help="Processes that decode audio; default depends on the machine.", metavar="N"
    ),
]

# Options that stand in different panels: Annotated[int | None, panel(**FOLDS)].
CONFIG: dict[str, Any] = {
    "help": "TOML file of settings, or a built-in one: paper, laptop, loevpp-small. "
    "Options override it.",
    "metavar": "FILE|NAME",
}
SET: dict[str, Any] = {
    "help": "Any setting of the config, such as augmentations.eq.gain_db=3.",
    "metavar": "KEY=VALUE",
}
FOLDS: dict[str, Any] = {
    "help": "Cross-validate over groups and ignore the manifest's split; default 5 if it has none.",
    "metavar": "N",
}
CHANGED: dict[str, Any] = {
    "min": 2,
    "help": "Number of tracks to transform in pitch, tempo, level and noise.",
    "metavar": "N",
}
STRETCHER: dict[str, Any] = {
    "help": "auto is rubberband if that command is installed.",
    "metavar": "auto|rubberband|signalsmith",
}


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


def weights_of(by: str | None, weights: str | None) -> dict[str, float] | None:
    """What ``--by`` or ``--weights`` says. Raises UsageError where both are given, or malformed."""
    from loev_cli.search.library import parse_weights

    if by is not None and weights is not None:
        raise UsageError("--by and --weights exclude each other", hint="--by x is --weights x=1")
    if by is not None:
        return {by: 1.0}
    return None if weights is None else parse_weights(weights)


def tempi(bpm_range: str | None) -> tuple[float, float] | None:
    """What ``--bpm-range`` says, in BPM. Raises UsageError where it is no range."""
    from loev_cli.annotations import parse_bpm_range

    return None if bpm_range is None else parse_bpm_range(bpm_range)


def names(text: str, option: str) -> list[str]:
    """``a,b`` -> its names.

    Raises:
        UsageError: one of them is empty.
    """
    parts = [name.strip() for name in text.split(",")]
    if not all(parts):
        raise UsageError(f"{option} '{text}' has an empty name", hint=f"as in {option} a,b")
    return parts


def settings_of(
    config_file: str | None, assignments: list[str], named: dict[str, Any]
) -> TrainConfig:
    """Defaults, then the file, then --set, then the named options."""
    from loev_cli.train.config import TrainConfig, from_mapping, parse_assignment, read_toml

    raw = read_toml(config_file) if config_file else {}
    for assignment in assignments:
        keys, value = parse_assignment(assignment)
        table = raw
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise UsageError(f"--set {assignment}: '{key}' is a value, not a table")
        table[keys[-1]] = value
    if named["steps"] is not None or named["minutes"] is not None:
        raw.pop("steps", None)
        raw.pop("minutes", None)
    raw.update({key: value for key, value in named.items() if value is not None})
    return from_mapping(TrainConfig, raw)


def check_budget(steps: int | None, minutes: float | None) -> None:
    """Raises UsageError if both are given, or ``minutes`` is not positive."""
    if steps is not None and minutes is not None:
        raise UsageError("--steps and --minutes exclude each other", hint="give one of them")
    if minutes is not None and minutes <= 0:
        raise UsageError(f"--minutes is {minutes:g}, must be above 0")
