"""``--engine ray``: the very rows of the local engine, whatever happens to a worker."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from loev_cli.bundle import Bundle
from loev_cli.embed import Event, Request, TrackDone, embed
from loev_cli.errors import InputError, LoevError, MissingExtraError, StoppedError
from loev_cli.formats import read
from tests.conftest import add_bad_files, in_process_of_its_own, write_audio
from tests.embed.common import assert_same, embedded, request

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the extra 'cluster' is not installed"
)


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """Ray on this machine, with two cores, for all tests here."""
    ray = importlib.import_module("ray")
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20
    )
    yield
    ray.shutdown()


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("per_window", [False, True])
def test_rows_and_failures_are_those_of_the_local_engine(
    ray: None, bundle: Bundle, library: Path, tmp_path: Path, per_window: bool
) -> None:
    add_bad_files(library)
    options = {"per_window": per_window, "tags": True}
    reference, local = embedded(bundle, tmp_path / "local.npz", library, **options)
    file, there = embedded(bundle, tmp_path / "ray.npz", library, engine="ray", **options)
    assert_same(file, reference)
    assert file.meta.keys() == reference.meta.keys()
    assert file.meta["device"] == "cpu"
    assert file.tags == reference.tags
    assert there.failures == local.failures
    assert there.stats.decode_s > 0
    if per_window:
        assert file.start_s is not None
        np.testing.assert_array_equal(file.start_s, reference.start_s)


@needs_ray
@pytest.mark.slow
def test_a_run_that_the_other_engine_began_goes_on(
    ray: None, bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    (library / "short.WAV").rename(tmp_path / "later.WAV")
    embedded(bundle, tmp_path / "x.npz", library)
    (tmp_path / "later.WAV").rename(library / "short.WAV")
    _, report = embedded(bundle, tmp_path / "x.npz", library, engine="ray")
    assert (report.n_done, report.n_rows) == (1, 5)


@pytest.mark.slow
@needs_ray
def test_json_lines_of_a_list_come_in_its_order(ray: None, bundle: Bundle, tmp_path: Path) -> None:
    files = [write_audio(tmp_path / f"{i:02}.wav", 0.3, seed=i) for i in range(20)][::-1]
    listed = "\n".join(map(str, files)).encode()
    stdout = io.BytesIO()
    wanted = Request(["-"], "-", model=str(bundle.path), engine="ray")
    assert embed(wanted, stdin=io.BytesIO(listed), stdout=stdout).n_done == 20
    lines = stdout.getvalue().splitlines()
    assert [json.loads(line)["path"] for line in lines] == list(map(str, files))


@needs_ray
@pytest.mark.slow
def test_strict_stops(ray: None, bundle: Bundle, library: Path, tmp_path: Path) -> None:
    add_bad_files(library)
    out = tmp_path / "x.npz"
    with pytest.raises(InputError, match=r"bad\.mp3|empty\.wav"):
        embed(request(bundle, out, library, engine="ray", strict=True))
    assert not out.exists()


@pytest.mark.slow
@needs_ray
def test_what_a_worker_cannot_open_is_one_clear_error(
    ray: None, bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    with pytest.raises(LoevError, match=r"(?i)cuda|gpu") as caught:
        embed(request(bundle, tmp_path / "x.npz", library, engine="ray", device="cuda"))
    assert "\n" not in str(caught.value)


def workers_of_ours() -> list[int]:
    """Process ids of Ray's actors that descend from this process."""
    parents, actors = {}, []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
            status = (folder / "stat").read_text()
        except OSError:  # it has ended
            continue
        parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
        if command.startswith(b"ray::_Worker"):
            actors.append(int(folder.name))
    return [pid for pid in actors if os.getpid() in ancestors(pid, parents)]


def ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid in parents:
        pid = parents[pid]
        yield pid


@pytest.mark.slow
@needs_ray
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_worker_that_is_killed_loses_nothing(ray: None, bundle: Bundle, tmp_path: Path) -> None:
    library = tmp_path / "library"
    for i in range(64):
        write_audio(library / f"{i:02}.wav", 2.0, seed=i)
    reference, _ = embedded(bundle, tmp_path / "local.npz", library)
    killed: list[int] = []

    def kill_one(event: Event) -> None:
        if isinstance(event, TrackDone) and not killed:
            killed.extend(workers_of_ours()[:1])
            os.kill(killed[0], signal.SIGKILL)

    out = tmp_path / "ray.npz"
    report = embed(request(bundle, out, library, engine="ray"), on_event=kill_one)
    assert killed
    assert (report.n_done, report.failures) == (64, ())
    assert_same(read(out), reference)


@pytest.mark.slow
@needs_ray
def test_a_source_that_vanishes_stops_the_run(ray: None, bundle: Bundle, tmp_path: Path) -> None:
    library = tmp_path / "in" / "library"
    for i in range(40):
        write_audio(library / f"{i:02}.wav", 0.5, seed=i)

    def move(event: Event) -> None:
        if isinstance(event, TrackDone) and library.exists():
            library.rename(tmp_path / "away")

    out = tmp_path / "x.npz"
    with pytest.raises(StoppedError, match="library no longer exists"):
        embed(request(bundle, out, library, engine="ray", workers=1), on_event=move)
    assert not out.exists()
    (tmp_path / "away").rename(library)
    _, report = embedded(bundle, out, library, engine="ray")
    assert report.n_rows == 40
    assert 0 < report.n_done < 40


@pytest.mark.slow
@needs_ray
def test_a_command_on_a_ray_of_its_own_says_nothing_of_it(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    arguments = ["embed", library, "--engine", "ray", "--model", bundle.path]
    done = in_process_of_its_own(*arguments, "--out", tmp_path / "x.npz", timeout_s=180)
    assert (done.code, done.out) == (0, "")
    assert [line.split(",")[0] for line in done.lines] == ["5 tracks"]
    quiet = in_process_of_its_own(*arguments, "--out", "-", "--quiet", timeout_s=180)
    assert (quiet.code, quiet.err) == (0, "")
    assert len(quiet.out.splitlines()) == 5


def test_without_ray_the_extra_is_named(
    bundle: Bundle, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'loev-cli\[cluster\]'"):
        embed(request(bundle, tmp_path / "x.npz", library, engine="ray"))
