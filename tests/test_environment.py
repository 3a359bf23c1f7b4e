"""What surrounds a run: no telemetry in it, few things of it are needed, its limits are kept."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from loev_cli.backends.machine import usable_cpus
from loev_cli.bundle import Bundle
from loev_cli.embed import Request, embed, engine, pipeline
from loev_cli.errors import OutputError
from loev_cli.formats import read
from loev_cli.storage.own import user_cache
from tests.conftest import ROOT, command, environment, write_audio

posix_only = pytest.mark.skipif(os.name == "nt", reason="HOME and locales of POSIX")
SWITCHES = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def without_switches(**changes: str) -> dict[str, str]:
    """The environment of a user, not of these tests, which have imported loev_cli."""
    return {k: v for k, v in environment().items() if k not in SWITCHES} | changes


def run_embed(bundle: Bundle, folder: Path, *options: str, env: dict[str, str]) -> None:
    audio = write_audio(folder / "x.wav")
    arguments = ["embed", audio, "--out", folder / "x.npz", "--model", bundle.path, *options]
    done = subprocess.run(command(*arguments), env=env, capture_output=True, timeout=180)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("said_before", [{}, {"ORT_DISABLE_TELEMETRY": "0"}], ids=["", "0"])
def test_an_embed_leaves_nothing_in_the_home_folder(
    bundle: Bundle, tmp_path: Path, said_before: dict[str, str]
) -> None:
    """ONNX Runtime 1.29 and later keeps a device id and events for its makers there."""
    home = tmp_path / "home"
    home.mkdir()
    run_embed(bundle, tmp_path, env=without_switches(HOME=str(home), **said_before))
    assert list(home.rglob("*")) == []


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'cluster'")
def test_an_embed_on_ray_leaves_no_device_id(bundle: Bundle, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    env = without_switches(HOME=str(home))
    run_embed(bundle, tmp_path, "--engine", "ray", env=env)
    assert [file for file in home.rglob("*") if "Microsoft" in file.parts] == []


def test_telemetry_is_off_before_the_library_is_imported(bundle: Bundle, tmp_path: Path) -> None:
    """Whatever its version, and whether or not it could have reached its makers."""
    audio = write_audio(tmp_path / "x.wav")
    arguments = ["embed", str(audio), "--out", str(tmp_path / "x.npz"), "--model", str(bundle.path)]
    code = f"""
import os, sys
seen = []
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime":
            seen.append({{key: os.environ.get(key) for key in {list(SWITCHES)!r}}})
sys.meta_path.insert(0, Finder())
from loev_cli.cli import main
try:
    main({arguments!r})
finally:
    print(seen)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=without_switches(), capture_output=True, text=True
    )
    assert ast.literal_eval(done.stdout) == [SWITCHES]


def test_whatever_imports_onnx_runtime_imports_loev_first() -> None:
    """Also the tests (by their conftest) and benchmarks: they run on people's machines."""
    for file in [*ROOT.glob("loev_cli/**/*.py"), *ROOT.glob("benchmarks/*.py")]:
        names = [
            name.split(".")[0]
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in _names(node)
        ]
        if "onnxruntime" in names and not file.is_relative_to(ROOT / "loev_cli"):
            assert names.index("loev_cli") < names.index("onnxruntime"), file


def _names(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""]


# ---------------------------------------------------------------- little of it


NO_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@posix_only
@pytest.mark.parametrize("home", [None, "read-only", "/dev/null"])
def test_an_embed_without_home_and_locale(
    bundle: Bundle, library: Path, tmp_path: Path, home: str | None
) -> None:
    """As services, containers and cron start it: no HOME, ASCII only, and nothing else set."""
    write_audio(tmp_path / "x.wav").rename(library / "ü é" / "bad 日本.mp3")
    (library / "ü é" / "bad 日本.mp3").write_text("no music")
    env = NO_LOCALE | {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    if home is not None:
        (tmp_path / "read-only").mkdir(mode=0o500)
        env["HOME"] = str(tmp_path / home)
    out = tmp_path / "out" / "x.npz"
    out.parent.mkdir()
    done = subprocess.run(
        command("embed", library, "--out", out, "--model", bundle.path),
        env=env,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 3, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stderr.splitlines()[0].isascii()
    assert "ü é/日本 🎵.wav" in read(out).paths
    assert len(read(out).paths) == 5


@posix_only
def test_a_cache_without_a_home_names_the_variable(
    bundle: Bundle, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)  # in no list of users
    with pytest.raises(OutputError, match="XDG_CACHE_HOME"):
        embed(Request([str(library)], "memory://x.npz", model=str(bundle.path)))
    with pytest.raises(OutputError, match="XDG_CACHE_HOME"):
        user_cache()  # of training's features too


# ---------------------------------------------------------------- cores


@dataclass(frozen=True)
class Groups:
    """What /proc/self says of control groups, and what lies in their folders.

    Attributes:
        cgroup: the group of this process in each hierarchy.
        mounts: (root, folder below the test's, type, options) of each that is mounted.
        files: folder and name -> content.
    """

    cgroup: str
    mounts: Sequence[tuple[str, str, str, str]]
    files: Mapping[str, str]


V2 = ("/", "cgroup", "cgroup2", "rw,nsdelegate")
V1 = ("/", "cpu,cpuacct", "cgroup", "rw,cpu,cpuacct")
NO_LIMIT_V1 = {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}
SLURM = "system.slice/slurmstepd.scope/job_7/step_0"


@pytest.mark.parametrize(
    ("groups", "cores"),
    [
        (Groups("0::/\n", [V2], {"cgroup/cpu.max": "200000 100000\n"}), 2),
        (Groups("0::/\n", [V2], {"cgroup/cpu.max": "max 100000\n"}), 64),
        (Groups("0::/\n", [V2], {"cgroup/cpu.max": "10000 100000\n"}), 1),
        # The limit is that of a slice above
        (
            Groups(
                f"0::/{SLURM}\n",
                [V2],
                {
                    f"cgroup/{SLURM}/cpu.max": "max 100000\n",
                    "cgroup/system.slice/slurmstepd.scope/job_7/cpu.max": "200000 100000\n",
                    "cgroup/system.slice/cpu.max": "1600000 100000\n",
                    "cgroup/other.slice/cpu.max": "100000 100000\n",
                },
            ),
            2,
        ),
        # The smallest of several
        (
            Groups(
                "0::/a/b\n",
                [V2],
                {"cgroup/a/cpu.max": "800000 100000\n", "cgroup/a/b/cpu.max": "150000 50000\n"},
            ),
            3,
        ),
        # Version 1, and the limit of the group above
        (
            Groups(
                "12:memory:/x\n5:cpu,cpuacct:/batch/job\n",
                [V1],
                {f"cpu,cpuacct/batch/job/{name}": text for name, text in NO_LIMIT_V1.items()}
                | {
                    "cpu,cpuacct/batch/cpu.cfs_quota_us": "200000\n",
                    "cpu,cpuacct/batch/cpu.cfs_period_us": "100000\n",
                },
            ),
            2,
        ),
        # In a container of version 1, which sees the host's path, and its own group mounted
        (
            Groups(
                "5:cpu,cpuacct:/docker/0123\n",
                [("/docker/0123", "cpu,cpuacct", "cgroup", "rw,cpu,cpuacct")],
                {
                    "cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                    "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                },
            ),
            4,
        ),
        # Both versions, the cores limited by the first; another controller's files say nothing
        (
            Groups(
                "5:cpu,cpuacct:/\n4:memory:/\n0::/user.slice\n",
                [V1, V2, ("/", "memory", "cgroup", "rw,memory")],
                {
                    "cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                    "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                    "memory/cpu.cfs_quota_us": "100000\n",
                    "memory/cpu.cfs_period_us": "100000\n",
                },
            ),
            3,
        ),
        # A group outside what can be seen from here
        (Groups("0::/../other\n", [V2], {"cgroup/cpu.max": "500000 100000\n"}), 5),
        (Groups("0::/\n", [V2], {"cgroup/cpu.max": "nonsense\n"}), 64),
        (Groups("0::/\n", [V2], {}), 64),
        (Groups("", [], {}), 64),
    ],
)
def test_quotas_of_control_groups_limit_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: Groups, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    mounted = tmp_path / "sys fs"
    for name, text in groups.files.items():
        (mounted / name).parent.mkdir(parents=True, exist_ok=True)
        (mounted / name).write_text(text)
    escaped = str(mounted).replace(" ", "\\040")
    lines = [
        f"{i} 24 0:3{i} {root} {escaped}/{folder} rw,nosuid shared:4 - {kind} none {options}"
        for i, (root, folder, kind, options) in enumerate(groups.mounts)
    ]
    process = tmp_path / "proc"
    process.mkdir()
    (process / "cgroup").write_text(groups.cgroup)
    (process / "mountinfo").write_text("\n".join(["22 1 8:1 / / rw - ext4 /dev/sda rw", *lines]))
    assert usable_cpus(process) == cores


def test_affinity_limits_the_cores_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 9}, raising=False)
    assert usable_cpus(tmp_path / "not linux") == 3


def test_a_job_limited_to_two_cores_starts_two_decoders(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    (tmp_path / "cpu.max").write_text("200000 100000")
    (tmp_path / "cgroup").write_text("0::/")
    (tmp_path / "mountinfo").write_text(f"1 1 0:1 / {tmp_path} rw - cgroup2 none rw")
    for module in (engine, pipeline):
        monkeypatch.setattr(module, "usable_cpus", lambda: usable_cpus(tmp_path))
    _, settings = engine.prepare(engine.set_up(Request(["x"], "x.npz", model=str(bundle.path))))
    assert (settings.n_workers, settings.n_encoders) == (2, 2)
