"""``loev doctor``."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata

import typer

from loev_cli import __version__
from loev_cli.cli import _options as options
from loev_cli.cli._console import plural, show, table
from loev_cli.cli._defaults import FILE, VARIABLE, Defaults
from loev_cli.errors import EXIT_FAILED, LoevError

_PACKAGES = [
    *("numpy", "soundfile", "soxr", "av", "onnxruntime-gpu", "onnxruntime", "pyarrow"),
    *("typer", "rich", "torch", "torchaudio"),
]

# Extra of the package -> what it is for.
_EXTRAS = {
    "train": "loev train, export and compare; --backend torch",
    "eval": "loev evaluate, compare, advise and ab; maps of loev explore",
    "parquet": ".parquet outputs",
    "db": ".lance outputs, loev index",
    "remote": "inputs and outputs on https://, s3:// and gs://",
    "hub": "models from and to hf:// addresses",
    "mir": "loev manifest mirdata",
    "cluster": "loev embed --engine ray",
    "explore": "the page of loev explore",
    "pandas": "EmbeddingFile.to_pandas",
    "tags": "loev annotate --write-tags (mutagen, GPL)",
    "corpus": "the scripts that render music",
}
# Program -> what it is for.
_PROGRAMS = {"rubberband": "shifts and stretches of loev evaluate --stretcher rubberband"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``ok`` is None where neither answer is a fault."""

    topic: str
    name: str
    ok: bool | None
    detail: str


def doctor(
    as_json: options.Json = False, quiet: options.Quiet = False, debug: options.Debug = False
) -> None:
    """Say what this machine can run, and why it cannot run the rest.

    Example: loev doctor
    """
    findings = [*_versions(), *_defaults(), *_extras(), *_audio(), *_models(), *_devices()]
    if as_json:
        show(json.dumps([asdict(finding) for finding in findings], indent=2), raw=True)
    else:
        marks = {True: "ok", False: "FAULT", None: "-"}
        show(
            table(
                ["topic", "what", "", "detail"],
                [[f.topic, f.name, marks[f.ok], f.detail] for f in findings],
            ),
            raw=True,
        )
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(EXIT_FAILED)


def _versions() -> list[Finding]:
    findings = [
        Finding("version", "loev", True, __version__),
        Finding("version", "python", True, f"{platform.python_version()} at {sys.executable}"),
        Finding("version", "system", True, f"{platform.system()} {platform.machine()}"),
    ]
    for package in _PACKAGES:
        try:
            findings.append(Finding("version", package, True, metadata.version(package)))
        except metadata.PackageNotFoundError:
            findings.append(Finding("version", package, None, "not installed"))
    return findings


def _extras() -> list[Finding]:
    """What is optional: extras of the package, and programs."""
    findings = []
    for extra, use in _EXTRAS.items():
        missing = _missing_of(extra)
        how = f"; missing {', '.join(missing)}: pip install 'loev-cli[{extra}]'" if missing else ""
        findings.append(Finding("extra", extra, None if missing else True, f"{use}{how}"))
    for program, use in _PROGRAMS.items():
        found = shutil.which(program) is not None
        detail = use if found else f"{use}; not installed"
        findings.append(Finding("program", program, True if found else None, detail))
    return findings


def _missing_of(extra: str) -> list[str]:
    """The packages of an extra that are not installed."""
    missing = []
    for line in metadata.requires("loev-cli") or ():
        requirement, _, marker = line.partition(";")
        if re.search(rf"""extra *== *["']{extra}["']""", marker) is None:
            continue
        name = re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def _defaults() -> list[Finding]:
    """The file of defaults, checked for every command, and variables."""
    from loev_cli.cli import build_app  # which lists this module

    commands = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    defaults = Defaults(os.environ)
    found = str(defaults.file.absolute()) if defaults.file else f"no {FILE} here, no {VARIABLE}"
    findings = [Finding("defaults", FILE, True if defaults.file else None, found)]
    try:
        defaults.check(commands)
    except LoevError as error:
        findings = [Finding("defaults", FILE, False, str(error))]
    used, unknown = defaults.variables(commands)
    findings += [Finding("defaults", name, True, "in use") for name in used]
    return findings + [Finding("defaults", name, None, "no option of loev") for name in unknown]


def _audio() -> list[Finding]:
    findings = []
    try:
        import soundfile

        formats = ", ".join(sorted(soundfile.available_formats()))
        detail = f"{soundfile.__libsndfile_version__}: {formats}"
        findings.append(Finding("audio", "libsndfile", True, detail))
    except (ImportError, OSError) as error:
        findings.append(Finding("audio", "libsndfile", False, str(error)))
    try:
        import av

        wanted = ["aac", "alac", "wmav2", "ape", "wavpack"]
        there = [name for name in wanted if name in av.codecs_available]
        detail = f"PyAV {av.__version__}: {', '.join(there)}"
        findings.append(Finding("audio", "FFmpeg", there == wanted, detail))
    except (ImportError, OSError) as error:
        findings.append(Finding("audio", "FFmpeg", False, str(error)))
    return findings


def _models() -> list[Finding]:
    from loev_cli import bundle as bundles

    try:
        shipped = bundles.shipped()
    except LoevError as error:
        return [Finding("model", "shipped", False, str(error))]
    findings = []
    for model in shipped:
        try:
            for filename in (bundles.ONNX_FILE, bundles.WEIGHTS_FILE):
                model.verified(filename)
            findings.append(Finding("model", model.name, True, f"checksums match, {model.path}"))
        except LoevError as error:
            findings.append(Finding("model", model.name, False, str(error)))
    return findings or [Finding("model", "shipped", None, "this installation ships no model")]


def _devices() -> list[Finding]:
    from loev_cli.backends import machine

    findings = [Finding("device", "cpu", True, f"{machine.usable_cpus()} usable cores")]
    driver = machine.cuda_driver()
    detail = driver.problem or plural(driver.n_devices, "device")
    findings.append(Finding("device", "NVIDIA driver", None if driver.problem else True, detail))
    return [*findings, *_onnx_runtime(driver.problem), *_torch()]


def _onnx_runtime(no_gpu: str | None) -> list[Finding]:
    try:
        import onnxruntime
    except ImportError as error:
        return [Finding("device", "ONNX Runtime", False, str(error))]
    from loev_cli import bundle as bundles
    from loev_cli.backends import ort

    # What the package brings, not what works here: that is the next line.
    providers = f"built with {', '.join(onnxruntime.get_available_providers())}"
    findings = [Finding("device", "ONNX Runtime", True, providers)]
    if no_gpu is not None:
        return [*findings, Finding("device", "ONNX CUDA", None, no_gpu)]
    try:
        problem = ort.cuda_problem(bundles.find(bundles.DEFAULT_MODEL))
    except LoevError as error:
        problem = f"not tried: {error}"
    # Having no GPU is not a problem; an unused one is.
    detail = problem or "the shipped model opens on the GPU"
    return [*findings, Finding("device", "ONNX CUDA", problem is None, detail)]


def _torch() -> list[Finding]:
    try:
        from loev_cli.backends import pytorch
    except LoevError as error:
        return [Finding("device", "torch CUDA", None, str(error))]
    problem = pytorch.cuda_problem()
    return [Finding("device", "torch CUDA", None if problem else True, problem or "usable")]
