"""Decoding in a process of its own: a file that crashes or hangs its decoder fails alone.

    with DecoderProcess(timeout_s=300) as decoder:
        for block in (decoding := decoder.decode(file, 16_000)): ...

is :func:`loev_cli.audio.decode` with two failures more. Blocks come through a pipe: 64 kB per
second of audio at 16 kHz, about 2 % of the time that decoding it takes. When nobody takes them the
pipe fills and the process waits, so memory stays bounded and the clock of the time limit, which
runs only while we wait for the process, stands still.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from loev_cli.audio.decoding import FileInfo
from loev_cli.audio.worker import BLOCK, END, HEAD, INFO, READY
from loev_cli.errors import InputError, StoppedError, starting

DEFAULT_TIMEOUT_S = 300.0

# What keeps it from starting is said in place of READY.
_SERVE = """
import sys
sys.path[:] = {path!r}
try:
    from loev_cli.audio.worker import main
except BaseException as error:
    sys.stdout.write(f"{{type(error).__name__}}: {{error}}")
    sys.exit(1)
main()
"""
_WHAT = "a decoder process"
_PIPE_N_BYTES = 1 << 20
_WATCH_EVERY_S = 0.2
_LONGEST_TICK_S = 0.5
_PATIENCE_S = 2.0
_REASON_N_BYTES = 1000


class RemoteDecoding:
    """What :class:`loev_cli.audio.Decoding` is, of a file that another process decodes.

    ``peak``, ``duration_s``, ``warnings``, ``tags`` (empty unless asked for) and ``busy_s`` (CPU
    seconds it took) are known once the blocks have ended. Who stops earlier closes ``blocks``.
    """

    def __init__(self) -> None:
        self.peak = 0.0
        self.duration_s = 0.0
        self.busy_s = 0.0
        self.warnings: list[str] = []
        self.tags: dict[str, str] = {}
        self.blocks: Generator[NDArray[np.float32], None, None] = _nothing()

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return self.blocks


class DecoderProcess:
    """One decoding process, started when it is first needed, or by :meth:`launch`, and replaced
    when it has died.

    Use it from one thread at a time.

    Args:
        timeout_s: how long a file may keep us waiting for its next block, and in all beyond the
            playing time of what it has given.
    """

    def __init__(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._serves = False
        self._watch = _Watch()

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return self._process.pid if self._process else None

    def launch(self) -> None:
        """Start the process without waiting for it: it gets ready while others work.

        Raises:
            StoppedError: it cannot be started.
        """
        if self._process is None:
            self._serves = False
            with starting(_WHAT):
                self._watch.start()
                self._process = _popen()

    def decode(self, file: Path, sample_rate_hz: int, *, tags: bool = False) -> RemoteDecoding:
        """As :func:`loev_cli.audio.decode`, and with ``tags`` :func:`loev_cli.audio.read_tags`.

        Raises (while iterating):
            InputError: as there; and stage ``decode``: the decoder crashed, or took too long.
            StoppedError: no decoder can be started.
        """
        decoding = RemoteDecoding()
        decoding.blocks = self._blocks(decoding, file, sample_rate_hz, tags)
        return decoding

    def probe(self, file: Path) -> FileInfo:
        """As :func:`loev_cli.audio.probe`, and the failures of :meth:`decode`."""
        self._send({"op": "probe", "file": str(file)})
        with self._watched(self._timeout_s):
            kind, payload = self._receive(file)
        content = json.loads(payload)
        if kind == INFO:
            return FileInfo(**content)
        raise _failure(content)

    def _blocks(
        self, decoding: RemoteDecoding, file: Path, rate_hz: int, tags: bool
    ) -> Generator[NDArray[np.float32], None, None]:
        self._send({"op": "decode", "file": str(file), "rate_hz": rate_hz, "tags": tags})
        n_samples, waited_s = 0, 0.0
        whole = False
        try:
            while True:
                # Neither a stop in the middle nor a trickle: a file may fall behind its playing
                # time by the limit, and no block may take longer than that.
                left_s = self._timeout_s + n_samples / rate_hz - waited_s
                began_s = self._watch.awake_s()
                with self._watched(min(self._timeout_s, left_s)):
                    kind, payload = self._receive(file)
                waited_s += self._watch.awake_s() - began_s
                if kind == BLOCK:
                    block: NDArray[np.float32] = np.frombuffer(payload, np.float32)
                    n_samples += len(block)
                    yield block
                    continue
                whole = True
                content = json.loads(payload)
                decoding.busy_s = content.pop("busy_s")
                if kind != END:
                    raise _failure(content)
                decoding.duration_s, decoding.peak = content["duration_s"], content["peak"]
                decoding.warnings, decoding.tags = content["warnings"], content["tags"]
                return
        finally:
            if not whole:  # what it still says would be taken for the next file
                self._kill()

    def _watched(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        assert self._process is not None
        return self._watch.kills(self._process, seconds)

    def _send(self, command: dict[str, Any]) -> None:
        line = json.dumps(command).encode() + b"\n"
        for attempt in ("the one there is", "a new one"):
            if self._process is None or not self._serves:
                self._start()
            assert self._process is not None
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
                return
            except OSError as error:  # it died between two files, which is no fault of this one
                self._kill()
                if attempt == "a new one":
                    raise StoppedError(f"{_WHAT} exited as soon as it was started") from error

    def _start(self) -> None:
        """Start the process, if it is not, and wait until it serves.

        Raises:
            StoppedError: it cannot be started.
        """
        self.launch()
        with self._watched(DEFAULT_TIMEOUT_S):  # no part of a file's time
            head = self._read(HEAD.size)
            if len(head) == HEAD.size and HEAD.unpack(head)[0] == READY:
                self._serves = True
                return
            said = bytes(head + self._read(_REASON_N_BYTES)).decode(errors="replace")
        code, timed_out = self._end()
        ended = "did not respond in time" if timed_out else _how_it_ended(code)
        with starting(_WHAT):
            raise OSError(" ".join(said.split()) or f"it {ended}")

    def _receive(self, file: Path) -> tuple[bytes, bytearray]:
        """The next message: kind and payload."""
        assert self._process is not None
        head = self._read(HEAD.size)
        if len(head) == HEAD.size:
            kind, n_bytes = HEAD.unpack(head)
            payload = self._read(n_bytes)
            if len(payload) == n_bytes:
                return kind, payload
        code, timed_out = self._end()
        raise _died(file, code, timed_out, self._timeout_s)

    def _end(self) -> tuple[int | None, bool]:
        """Of a process that says no more: its exit code, None if it has none; whether we ended it
        since it took too long."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):  # before our signal becomes its reason
            self._process.wait(timeout=_PATIENCE_S)
        code = self._process.returncode
        self._kill()
        return code, self._watch.fired

    def _read(self, n_bytes: int) -> bytearray:
        """So many bytes, or fewer if the process has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        buffer = bytearray(n_bytes)
        view, n_read = memoryview(buffer), 0
        while n_read < n_bytes:
            n_now = self._process.stdout.readinto(view[n_read:])  # type: ignore[attr-defined]
            if not n_now:
                view.release()
                return buffer[:n_read]
            n_read += n_now
        return buffer

    def _kill(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        with contextlib.suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel, on a dead disk
            process.wait(timeout=_PATIENCE_S)
        process.stdout.close()  # type: ignore[union-attr]

    def interrupt(self) -> None:
        """From any thread: end the process, so that a waiting caller gets a failure."""
        if process := self._process:
            process.kill()

    def close(self) -> None:
        """End the process, whatever it is at."""
        self._kill()
        self._watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Watch:
    """Kills a process for which we have waited too long. A thread, since pipes of every system
    can be read and processes killed, but not every pipe can be waited for with a time limit.

    Its clock stands still while this process is stopped (SIGSTOP, a suspended job): nobody reads
    it then, and the time between two readings counts for half a second at most.
    """

    def __init__(self) -> None:
        self.fired = False
        self._target: tuple[subprocess.Popen[bytes], float] | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._clock = threading.Lock()
        self._awake_s = 0.0
        self._read_s = time.monotonic()

    def awake_s(self) -> float:
        """Seconds that this process was there to wait; read every ``_WATCH_EVERY_S`` at least."""
        with self._clock:
            now_s = time.monotonic()
            self._awake_s += min(now_s - self._read_s, _LONGEST_TICK_S)
            self._read_s = now_s
            return self._awake_s

    def start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="decoder-watch", daemon=True)
            thread.start()
            self._thread = thread

    @contextlib.contextmanager
    def kills(self, process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
        self.fired = False
        self._target = (process, self.awake_s() + seconds)
        try:
            yield
        finally:
            with self._lock:
                self._target = None

    def close(self) -> None:
        self._closed.set()

    def _work(self) -> None:
        while not self._closed.wait(_WATCH_EVERY_S):
            now_s = self.awake_s()
            with self._lock:
                if self._target is None or now_s <= self._target[1]:
                    continue
                if self._target[0].poll() is None:  # one that has died by itself did so earlier
                    self.fired = True
                    self._target[0].kill()


def _nothing() -> Generator[NDArray[np.float32], None, None]:
    yield from ()


def _popen() -> subprocess.Popen[bytes]:
    # Not multiprocessing: it would import the caller's main module again, and it pickles.
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE.format(path=sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        # A decoder is one thread among several processes: pools of threads in each are in the way.
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C is for us; we end it
    )
    if sys.platform == "linux":
        import fcntl

        assert process.stdout is not None
        with contextlib.suppress(OSError):  # the system's limit for this user is reached
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_N_BYTES)
    return process


def _failure(content: dict[str, Any]) -> InputError:
    return InputError(content["message"], stage=content["stage"], kind=content["kind"])


def _died(file: Path, code: int | None, timed_out: bool, timeout_s: float) -> InputError:
    if timed_out:
        message = f"{file}: the decoder timed out: no audio for {timeout_s:g} s, or far too little"
        return InputError(message, stage="decode", kind="DecoderTimeout")
    message = f"{file}: the decoder {_how_it_ended(code)}"
    return InputError(message, stage="decode", kind="DecoderCrash")


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "stopped answering"
    if -code == getattr(signal, "SIGKILL", None):
        return "was killed (signal 9), possibly out of memory"
    return f"crashed (signal {-code})" if code < 0 else f"exited unexpectedly (exit code {code})"
