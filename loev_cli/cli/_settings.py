"""How a training config comes together; what ``train`` and what trains many models share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loev_cli.errors import UsageError

if TYPE_CHECKING:
    from loev_cli.train.config import TrainConfig


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
