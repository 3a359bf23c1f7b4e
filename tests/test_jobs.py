"""The jobs of examples/jobs, in miniature: as a scheduler, GNU parallel, Ray and cron run them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loev_cli.formats import read
from loev_cli.search import open_library
from tests.conftest import ROOT, write_audio

JOBS = ROOT / "examples" / "jobs"
N_TRACKS = 5

pytestmark = pytest.mark.skipif(os.name == "nt", reason="they are for a POSIX shell")


@pytest.fixture
def music(tmp_path: Path) -> Path:
    folder = tmp_path / "my music"  # scripts have to quote it
    for i in range(N_TRACKS):
        write_audio(folder / f"{i}.wav", 1.0, seed=i)
    (folder / "bad.mp3").write_text("no music\n" * 50)
    return folder


def run(
    *words: str | Path, shell: str = "bash", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script with this installation of loev."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        [shell, *map(str, words)],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_whole(out: Path) -> None:
    file = read(out)
    assert file.paths == [f"{i}.wav" for i in range(N_TRACKS)]
    assert file.annotations and file.tags


@pytest.mark.slow
def test_a_slurm_array(music: Path, tmp_path: Path) -> None:
    parts = tmp_path / "the parts"
    codes = []
    for task in (1, 2):
        array = {
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_ARRAY_TASK_MIN": "1",
            "SLURM_ARRAY_TASK_COUNT": "2",
            "SLURM_CPUS_PER_TASK": "1",
        }
        done = run(JOBS / "slurm_array.sh", music, parts, **array)
        codes.append(done.returncode)
        assert [json.loads(line)["event"] for line in done.stderr.splitlines()][-1] == "finished"
    assert codes == [0, 0]  # though a file is bad
    (merge,) = re.findall(r"--wrap '(loev merge .*?)'", (JOBS / "slurm_array.sh").read_text())
    merge = merge.replace("/scratch/parts", '"$parts"').replace("/scratch/", '"$parts"/')
    assert run("-c", merge, parts=str(parts)).returncode == 0
    assert_whole(parts / "emb.parquet")
    assert run(JOBS / "slurm_array.sh", tmp_path / "none", parts, **array).returncode == 2


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("parallel") is None, reason="GNU parallel is not installed (apt install parallel)"
)
def test_gnu_parallel(music: Path, tmp_path: Path) -> None:
    parts = tmp_path / "the parts"
    done = run(JOBS / "parallel.sh", music, parts, "2", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert_whole(parts / "emb.parquet")
    assert len(list(parts.glob("part-?.parquet"))) == 2
    done = run(JOBS / "parallel.sh", tmp_path / "none", parts, "2", HOME=str(tmp_path))
    assert done.returncode != 0


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the extra 'cluster' is not installed"
)
def test_a_ray_job(music: Path, tmp_path: Path) -> None:
    done = run(JOBS / "ray_job.sh", music, tmp_path / "emb.parquet")
    assert done.returncode == 0, done.stderr
    assert_whole(tmp_path / "emb.parquet")


@pytest.mark.slow
def test_a_cron_entry(music: Path, tmp_path: Path) -> None:
    pytest.importorskip("lance", reason="the extra 'db' is not installed")
    lines = [line for line in (JOBS / "crontab").read_text().splitlines() if line[:1] not in "#"]
    variables = dict(line.split("=", 1) for line in lines[:-1])
    fields = re.fullmatch(r"(\d+) (\d+) \* \* \* (.*)", lines[-1])
    assert fields and int(fields[1]) < 60 and int(fields[2]) < 24
    command = fields[3]
    assert "%" not in command  # cron would make a new line of it
    assert set(variables) == {"PATH", "MUSIC", "LIBRARY"}
    (first,) = re.findall(r"^# +(loev embed .*)$", (JOBS / "crontab").read_text(), re.M)
    library = tmp_path / "lib"
    library.mkdir()
    places = {"MUSIC": str(music), "LIBRARY": str(library)}
    first = first.replace("/srv/music", '"$MUSIC"').replace("/srv/loev", '"$LIBRARY"')
    assert run("-c", first, shell="sh", **places).returncode == 3
    write_audio(music / "5.wav", 1.0, seed=5)
    (music / "0.wav").unlink()
    done = run("-c", command, shell="sh", **places)  # cron's own shell
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = open_library(library / "library")
    assert found.paths == [f"{i}.wav" for i in range(1, 6)]
    assert "bpm" in found.columns and "tag_artist" in found.columns
    events = [json.loads(line) for line in (library / "loev.jsonl").read_text().splitlines()]
    assert {"started", "failed", "finished", "message"} <= {event["event"] for event in events}


HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
    "hadolint"
)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (extra 'test')")
@pytest.mark.parametrize("name", ["cpu.Dockerfile", "cuda.Dockerfile"])
def test_dockerfiles_are_clean(name: str, tmp_path: Path) -> None:
    assert HADOLINT is not None
    file = JOBS / name
    done = subprocess.run([HADOLINT, file], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    worse = tmp_path / "Dockerfile"
    worse.write_text(file.read_text() + "RUN cd /data && ls\n")
    assert "DL3003" in subprocess.run([HADOLINT, worse], capture_output=True, text=True).stdout
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", file.read_text(), re.M)
    for path in " ".join(copied).split():
        assert (ROOT / path).exists(), path
    for line in re.findall(r"^#.*(docker (?:build|run) .*)$", file.read_text(), re.M):
        if "build" in line:
            assert f"-f examples/jobs/{name}" in line
