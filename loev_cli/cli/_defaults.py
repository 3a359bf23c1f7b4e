"""Defaults of options from ``loev.toml`` and from ``LOEV_*`` variables.

    device = "cpu"          # every command that has --device; LOEV_DEVICE=cpu
    [embed]
    tags = true             # loev embed --tags; LOEV_EMBED_TAGS=1
    [ab.offline]
    k = 20                  # loev ab offline -k 20; LOEV_AB_OFFLINE_K=20

The file is ``loev.toml`` in the current folder, or the one that ``LOEV_CONFIG`` names. What is for
one command goes before what is for all, a variable before the file, an option before both. Keys are
the options without their dashes, in variables in capitals and with ``_`` for ``-``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from loev_cli.errors import UsageError, did_you_mean

FILE = "loev.toml"
PREFIX = "LOEV_"
VARIABLE = f"{PREFIX}CONFIG"
# Options that may stand outside of a command's table, since they mean the same in several.
SHARED = (
    "model",
    "device",
    "backend",
    "precision",
    "workers",
    "bpm-range",
    "cache",
    "root",
    "quiet",
    "log-json",
)
# What destroys something has to be typed. The others are for the program itself.
_TYPED = frozenset({"overwrite", "yes", "help", "debug", "version"})
# Of each pair one is given; the other is then no default.
_EXCLUSIVE = [("by", "weights"), ("steps", "minutes")]
_MAX_N_BYTES = 1 << 20


class Defaults:
    """The defaults that apply here.

    Attributes:
        file: the file in use, if there is one.

    Raises (all methods):
        UsageError: ``LOEV_CONFIG`` names no file, or the file is not TOML, has an unknown key, or a
            value that no option can have.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {k: v for k, v in environment.items() if k.startswith(PREFIX) and v}
        named = self._environment.get(VARIABLE)
        found = Path(named or FILE)
        self.file = found if named or found.is_file() else None
        self._hint = f"{VARIABLE} names it" if named else None
        self._origins: dict[tuple[Any, str], str] = {}

    def __bool__(self) -> bool:
        return self.file is not None or bool(self._environment)

    def check(self, known: Mapping[str, Any]) -> None:
        """Check all of the file.

        Args:
            known: name -> command, of all there are.
        """
        for name in self._check_top(known):
            self._of(known[name], (name,), self._content[name], ())

    def of(self, name: str, command: Any, known: Mapping[str, Any], argv: Sequence[str]) -> Any:
        """The ``default_map`` for a command.

        Args:
            known: the commands there are.
            argv: options that are given.
        """
        self._check_top(known)
        return self._of(command, (name,), self._content.get(name, {}), argv)

    def where(self, command: Any, parameter: str) -> str:
        """Where the default of a parameter is from, for messages."""
        return self._origins[command, parameter]

    def variables(self, known: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Variables that are defaults of options, and others, by their names."""
        mine = {VARIABLE, f"{PREFIX}SHARDS", *(_variable(key) for key in SHARED)}
        for path, command in _walk((), known):
            mine |= {_variable(*path, key) for key in _options(command)}
        there = set(self._environment)
        return sorted(there & mine), sorted(there - mine)

    @cached_property
    def _content(self) -> dict[str, Any]:
        if self.file is None:
            return {}
        from loev_cli.storage.bounded import parse_toml, read_bytes

        try:
            return parse_toml(read_bytes(self.file, _MAX_N_BYTES).decode())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot read {self.file}: {reason}", hint=self._hint) from error

    def _check_top(self, known: Mapping[str, Any]) -> list[str]:
        """The tables of the file."""
        for key, value in self._content.items():
            if key not in known and not (key in SHARED and not isinstance(value, dict)):
                options = [known] if isinstance(value, dict) else [SHARED]
                self._refuse(key, [name for each in options for name in each])
            if key in known and not isinstance(value, dict):
                raise UsageError(f"{self.file}: '{key}' is a command", hint=f"as in [{key}]")
        return [key for key in self._content if key in known]

    def _refuse(self, key: str, known: Sequence[str], table: str = "") -> NoReturn:
        if key in _TYPED:
            hint = "give it on the command line"
            raise UsageError(f"{self.file}: '{key}' is no default", hint=hint)
        within = f"[{table}] has no option" if table else "no command or shared option is called"
        hint = did_you_mean(key, known) or ("" if table else f"shared are {', '.join(SHARED)}")
        raise UsageError(f"{self.file}: {within} '{key}'", hint=hint.strip() or None)

    def _of(
        self, command: Any, path: tuple[str, ...], table: Mapping[str, Any], argv: Sequence[str]
    ) -> dict[str, Any]:
        subcommands = getattr(command, "commands", None)
        called = ".".join(path)
        if subcommands is not None:
            for key in table:
                if key not in subcommands or not isinstance(table[key], dict):
                    self._refuse(key, list(subcommands), called)
            return {
                name: self._of(sub, (*path, name), table.get(name, {}), argv)
                for name, sub in subcommands.items()
            }
        options = _options(command)
        for key, value in table.items():
            if key not in options:
                self._refuse(key, list(options), called)
            self._check_value(options[key], value, f"[{called}] {key}")
        given = {word.partition("=")[0].lstrip("-") for word in argv if word.startswith("--")}
        for first, second in _EXCLUSIVE:
            given |= {second} if first in given else {first} if second in given else set()
        found: dict[str, Any] = {}
        for key, option in options.items():
            shared = key in SHARED
            of_command, of_all = _variable(*path, key), _variable(key)
            if of_command in self._environment:
                value, origin = self._environment[of_command], of_command
            elif shared and of_all in self._environment:
                value, origin = self._environment[of_all], of_all
            elif key in table:
                value, origin = table[key], f"{self.file}: [{called}] {key}"
            elif shared and key in self._content:
                value, origin = self._content[key], f"{self.file}: {key}"
                self._check_value(option, value, key)
            else:
                continue
            if key in given:
                continue
            if option.multiple and isinstance(value, str):
                value = value.split()
            found[option.name] = value
            self._origins[command, option.name] = origin
        return found

    def _check_value(self, option: Any, value: Any, key: str) -> None:
        values = value if option.multiple and isinstance(value, list) else [value]
        if not all(isinstance(each, str | int | float) for each in values):
            raise UsageError(f"{self.file}: {key} is no text, number, true or false")
        if option.is_flag and not isinstance(value, bool):
            raise UsageError(f"{self.file}: {key} is not true or false")


def _options(command: Any) -> dict[str, Any]:
    """Key -> option, of those of a command that may have a default here."""
    found = {}
    for parameter in command.params:
        if parameter.param_type_name == "option":
            key = max(parameter.opts, key=len).lstrip("-")
            if key not in _TYPED:
                found[key] = parameter
    return found


def _walk(path: tuple[str, ...], known: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in known.items():
        subcommands = getattr(command, "commands", None)
        if subcommands is None:
            yield (*path, name), command
        else:
            yield from _walk((*path, name), subcommands)


def _variable(*names: str) -> str:
    return PREFIX + "_".join(names).replace("-", "_").upper()
