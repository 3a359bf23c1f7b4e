"""What a release rests on: locked versions, and one version everywhere."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import loev_cli
from tests.conftest import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked() -> dict[str, list[str]]:
    """Package -> its locked versions, of which there may be several for several Pythons."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition("==")
            found.setdefault(canonicalize_name(name), []).append(rest.split(";")[0].strip())
    return found


def requirements(extra: str | None, seen: set[str]) -> list[Requirement]:
    """Of the package and an extra, and the extras that this one takes in."""
    texts = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    found = []
    for each in map(Requirement, texts):
        if each.name != PROJECT["name"]:
            found.append(each)
            continue
        for other in each.extras - seen:
            seen.add(other)
            found += requirements(other, seen)
    return found


def test_every_requirement_is_locked_to_a_version_it_allows() -> None:
    """`uv pip compile` as docs/release.md has it, after pyproject.toml changed."""
    versions = locked()
    needed = [*requirements(None, set()), *requirements("test", set())]
    assert len(needed) > 30
    for each in needed:
        known = versions.get(canonicalize_name(each.name), [])
        assert known, f"{each.name} is not in .ci/constraints.txt"
        assert all(version in each.specifier for version in known), each


def test_extras_that_users_install_are_tested() -> None:
    tested = {each.name for each in requirements("test", set())}
    tested |= {"mirdata"}  # 616 MB, so .ci/run installs it after the fast tests
    assert ".[mir]" in (ROOT / ".ci" / "run").read_text()
    for extra, texts in PROJECT["optional-dependencies"].items():
        names = {each.name for each in map(Requirement, texts)} - {PROJECT["name"]}
        assert names <= tested, extra


def test_versions_of_python_are_those_of_the_workflow() -> None:
    named = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if ":: 3." in c}
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["full"]["steps"]
    full = {s["with"]["python-version"] for s in steps if "python-version" in s.get("with", {})}
    assert named == full | set(workflow["jobs"]["fast"]["strategy"]["matrix"]["python"])
    assert all(f"{version}.1" in SpecifierSet(PROJECT["requires-python"]) for version in named)


@pytest.mark.parametrize("tag", ["v999.0.0", loev_cli.__version__])
def test_a_tag_of_another_version_is_refused(tag: str, tmp_path: Path) -> None:
    for name in (".ci/release", "loev_cli/__init__.py", "CITATION.cff", "CHANGELOG.md"):
        copy = tmp_path / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(
        ["bash", tmp_path / ".ci" / "release", tag], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert f"the tag is {tag}" in done.stderr
    assert not (tmp_path / "dist").exists()


def test_nothing_is_released_beside_another_version(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "old.whl").touch()
    script = tmp_path / ".ci" / "release"
    script.write_text((ROOT / ".ci" / "release").read_text())
    done = subprocess.run(["bash", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "dist/ is not empty" in done.stderr


def test_the_release_page_names_what_is_there() -> None:
    page = (ROOT / "docs" / "release.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:\.ci|\.github|docs|loev_cli)/[\w./-]+)`", page):
        assert (ROOT / path).exists(), path
    assert ".ci/constraints.txt" in page
