"""What does each extra take on disk?

    python benchmarks/install_size.py

By the lists of files of the packages that are installed here, which must be those of the extras
(`pip install '.[all,tags]'`): nothing is downloaded. Compiled modules (`__pycache__`) count too.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = (ROOT / "loev_cli", ROOT / "models")
EXTRAS = (
    *("parquet", "tags", "explore", "pandas", "remote", "db"),
    *("eval", "cluster", "hub", "mir", "train", "all"),
)


def needed(lines: Iterable[str], extra: str = "") -> list[Requirement]:
    found = [Requirement(line) for line in lines]
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]


def closure(requirements: Iterable[Requirement]) -> set[str]:
    """Every package that these need here."""
    found: set[str] = set()
    done: set[tuple[str, str]] = set()
    todo = list(requirements)
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name == PROJECT["name"]:
            for extra in requirement.extras:
                todo += needed(PROJECT["optional-dependencies"][extra])
            continue
        found.add(name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in done:
                done.add((name, extra))
                todo += needed(metadata.requires(name) or (), extra)
    return found


def size_mb(files: Iterable[Path]) -> float:
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def package_mb(name: str) -> float:
    files = metadata.distribution(name).files or ()
    return size_mb(Path(str(file.locate())) for file in files)


def main() -> None:
    ours = size_mb(file for folder in OURS for file in folder.rglob("*"))
    base = closure(needed(PROJECT["dependencies"]))
    base_mb = ours + sum(map(package_mb, base))
    print("| extra | MB with the base | of these, beyond the base | largest |\n|---|---|---|---|")
    for extra in ("", *EXTRAS):
        found = base | (closure([Requirement(f"{PROJECT['name']}[{extra}]")]) if extra else set())
        sizes = {name: package_mb(name) for name in (found - base if extra else base)}
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:5]
        said = ", ".join(f"{name} {sizes[name]:.0f}" for name in largest)
        more = sum(sizes.values()) if extra else 0
        print(f"| {extra or 'base'} | {base_mb + more:.0f} | {more:.0f} | {said} |")


if __name__ == "__main__":
    main()
