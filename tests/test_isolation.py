"""Decoding in another process: the same audio, and a file that kills or stops it fails alone."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from loev_cli.audio import DecoderProcess, decode, probe, worker
from loev_cli.errors import InputError, StoppedError
from tests.conftest import ROOT, add_bad_files, environment, write_audio

posix_only = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
RATE_HZ = 16000


@pytest.fixture
def decoder() -> Iterator[DecoderProcess]:
    with DecoderProcess() as process:
        yield process


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.mp3"])
def test_the_audio_is_the_same(tmp_path: Path, decoder: DecoderProcess, name: str) -> None:
    file = write_audio(tmp_path / name, 20.0, rate_hz=44100)
    here, there = decode(file, RATE_HZ), decoder.decode(file, RATE_HZ)
    for block, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(block, other)
    assert (there.duration_s, there.peak) == (here.duration_s, here.peak)
    assert there.busy_s > 0
    assert decoder.probe(file) == probe(file)


def test_a_failure_is_the_same_and_the_process_goes_on(
    tmp_path: Path, decoder: DecoderProcess
) -> None:
    add_bad_files(tmp_path)
    good = write_audio(tmp_path / "x.wav").rename(tmp_path / "caf\udce9.wav")
    list(decoder.decode(good, RATE_HZ))
    pid = decoder.pid
    for name in ("bad.mp3", "empty.wav", "gone.wav"):
        for attempt in (decoder.probe, lambda file: list(decoder.decode(file, RATE_HZ))):
            with pytest.raises(InputError) as remote:
                attempt(tmp_path / name)  # type: ignore[operator]
            with pytest.raises(InputError) as local:
                probe(tmp_path / name)
            assert str(remote.value) == str(local.value)
            assert remote.value.stage == "open"
            cause = local.value.__cause__ or local.value
            assert remote.value.kind == type(cause).__name__
    assert len(np.concatenate(list(decoder.decode(good, RATE_HZ)))) == 2 * RATE_HZ
    assert decoder.pid == pid


@posix_only
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGSEGV, "the decoder crashed (signal 11)"),
        (signal.SIGKILL, "the decoder was killed (signal 9), possibly out of memory"),
    ],
)
def test_a_crash_is_this_files_failure(
    tmp_path: Path, decoder: DecoderProcess, number: signal.Signals, message: str
) -> None:
    file = write_audio(tmp_path / "x.wav", 300.0)
    blocks = iter(decoder.decode(file, RATE_HZ))
    next(blocks)
    first = decoder.pid
    assert first is not None
    os.kill(first, number)
    with pytest.raises(InputError) as crash:
        list(blocks)
    assert str(crash.value) == f"{file}: {message}"
    assert (crash.value.stage, crash.value.kind) == ("decode", "DecoderCrash")
    assert len(np.concatenate(list(decoder.decode(file, RATE_HZ)))) == 300 * RATE_HZ
    assert decoder.pid != first


@posix_only
def test_dying_between_files_is_no_files_failure(tmp_path: Path, decoder: DecoderProcess) -> None:
    file = write_audio(tmp_path / "x.wav")
    list(decoder.decode(file, RATE_HZ))
    assert decoder.pid is not None
    os.kill(decoder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, decoder.pid, os.WEXITED | os.WNOWAIT)
    assert len(np.concatenate(list(decoder.decode(file, RATE_HZ)))) == 2 * RATE_HZ


@posix_only
def test_a_launched_process_is_the_one_that_decodes(
    tmp_path: Path, decoder: DecoderProcess
) -> None:
    decoder.launch()
    pid = decoder.pid
    assert pid is not None
    assert sum(len(block) for block in decoder.decode(write_audio(tmp_path / "x.wav"), 8000)) > 0
    assert decoder.pid == pid


def test_a_launched_process_ends_unused() -> None:
    with DecoderProcess() as decoder:
        decoder.launch()
        pid = decoder.pid
    assert pid is not None
    assert not _is_alive(pid)


def test_a_decoder_that_hangs_is_given_up(tmp_path: Path) -> None:
    file = write_audio(tmp_path / "x.wav", 300.0)
    with DecoderProcess(timeout_s=1.0) as decoder:
        blocks = iter(decoder.decode(file, RATE_HZ))
        next(blocks)
        assert decoder.pid is not None
        os.kill(decoder.pid, signal.SIGSTOP)
        with pytest.raises(InputError, match="the decoder timed out: no audio for 1 s") as hang:
            list(blocks)
        assert hang.value.kind == "DecoderTimeout"
        good = write_audio(tmp_path / "good.wav")
        assert len(np.concatenate(list(decoder.decode(good, RATE_HZ)))) == 2 * RATE_HZ


@posix_only
@pytest.mark.parametrize("meanwhile", ["it waits", "it is killed"])
def test_time_in_which_the_job_is_suspended_does_not_count(tmp_path: Path, meanwhile: str) -> None:
    file = write_audio(tmp_path / "x.wav", 300.0)
    code = (
        "import os, signal; from pathlib import Path; from loev_cli.audio import DecoderProcess\n"
        f"d = DecoderProcess(timeout_s=1); b = iter(d.decode(Path({str(file)!r}), {RATE_HZ}))\n"
        "n = len(next(b)); os.kill(d.pid, signal.SIGSTOP); print(d.pid, flush=True)\n"
        "try: print(n + sum(map(len, b)))\n"
        "except Exception as error: print(error.kind, error)"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment(), text=True
    )
    assert job.stdout is not None
    decoder = int(job.stdout.readline())
    os.kill(job.pid, signal.SIGSTOP)
    time.sleep(1.6)
    if meanwhile == "it is killed":
        os.kill(decoder, signal.SIGKILL)
    os.kill(job.pid, signal.SIGCONT)
    os.kill(decoder, signal.SIGCONT)
    said = job.communicate(timeout=60)[0]
    if meanwhile == "it waits":
        assert said == f"{300 * RATE_HZ}\n"
    else:
        assert said.startswith(f"DecoderCrash {file}: the decoder was killed (signal 9)")


@posix_only
def test_a_decoder_that_cannot_be_started_is_no_files_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_audio(tmp_path / "x.wav")
    for attribute, value, reason in (
        ("executable", str(tmp_path / "gone"), "No such file"),
        ("executable", "/bin/false", "exited unexpectedly (exit code 1)"),
        ("path", [], "No module named 'loev_cli'"),
    ):
        with monkeypatch.context() as patch, DecoderProcess() as decoder:
            patch.setattr(sys, attribute, value)
            for attempt in (decoder.probe, lambda file, d=decoder: list(d.decode(file, RATE_HZ))):
                with pytest.raises(StoppedError) as refused:
                    attempt(file)  # type: ignore[operator]
                assert reason in str(refused.value)
                assert decoder.pid is None


def test_the_clock_stands_still_while_nobody_takes_blocks(tmp_path: Path) -> None:
    file = write_audio(tmp_path / "x.wav", 300.0)
    with DecoderProcess(timeout_s=1.0) as decoder:
        blocks = iter(decoder.decode(file, RATE_HZ))
        next(blocks)
        time.sleep(1.3)
        assert sum(map(len, blocks)) > 0


def test_stopping_early_leaves_nothing_for_the_next_file(
    tmp_path: Path, decoder: DecoderProcess
) -> None:
    long, short = write_audio(tmp_path / "l.wav", 300.0), write_audio(tmp_path / "s.wav", seed=1)
    decoding = decoder.decode(long, RATE_HZ)
    next(iter(decoding))
    decoding.blocks.close()
    expected = np.concatenate(list(decode(short, RATE_HZ)))
    np.testing.assert_array_equal(np.concatenate(list(decoder.decode(short, RATE_HZ))), expected)


def test_an_interrupt_ends_the_wait(tmp_path: Path, decoder: DecoderProcess) -> None:
    file = write_audio(tmp_path / "x.wav", 300.0)
    blocks = iter(decoder.decode(file, RATE_HZ))
    next(blocks)
    threading.Timer(0.1, decoder.interrupt).start()
    with pytest.raises(InputError):
        for _ in blocks:
            time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_decoder_does_not_outlive_its_parent(tmp_path: Path) -> None:
    write_audio(tmp_path / "x.wav", 300.0)
    code = (
        "from pathlib import Path; import time; from loev_cli.audio import DecoderProcess\n"
        f"d = DecoderProcess(); b = iter(d.decode(Path({str(tmp_path / 'x.wav')!r}), 16000))\n"
        "next(b); print(d.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment(), text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, signal.SIGSTOP)  # as one that hangs
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_whatever_a_decoder_raises_is_its_files_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exploding:
        def __init__(self, file: Path, rate_hz: int) -> None:
            raise ZeroDivisionError("deep inside\na codec")

    monkeypatch.setattr(worker, "decode", Exploding)
    command = json.dumps({"op": "decode", "file": "x.mp3", "rate_hz": 8}).encode() + b"\n"
    replies = io.BytesIO()
    worker.serve(io.BytesIO(command * 2), replies)
    replies.seek(0)
    for _ in range(2):
        kind, n_bytes = worker.HEAD.unpack(replies.read(worker.HEAD.size))
        content = json.loads(replies.read(n_bytes))
        assert kind == worker.FAILED
        assert (content["stage"], content["kind"]) == ("decode", "ZeroDivisionError")
        assert content["message"].startswith("x.mp3: cannot be decoded: ZeroDivisionError: deep")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_decoder_needs_little(tmp_path: Path, decoder: DecoderProcess) -> None:
    list(decoder.decode(write_audio(tmp_path / "x.wav"), RATE_HZ))
    maps = Path(f"/proc/{decoder.pid}/maps").read_text()
    assert "soxr" in maps
    for heavy in ("onnxruntime", "torch", "pyarrow", f"{os.sep}av{os.sep}"):
        assert heavy not in maps.replace(str(ROOT), "")
