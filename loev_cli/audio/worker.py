"""The process that decodes: one command in, the blocks of one file out, until the input ends.

A decoder is foreign C code that reads what anybody may have written. Here it can crash or hang
without taking more than its own file along; :mod:`loev_cli.audio.isolation` is the other side.

    in    a line of JSON    {"op": "decode", "file": "...", "rate_hz": 16000, "tags": false}
    out   kind (1 byte), length (uint32), payload
          B   float32 samples, one block
          E   JSON: the file has ended   {"duration_s": ..., "peak": ..., "warnings": [],
                                             "tags": {}, "busy_s": ...}
          F   JSON: it failed            {"message": ..., "stage": ..., "kind": ..., "busy_s": ...}
          I   JSON: what its header says (the answer to "probe")
          R   nothing: ready for the first command

Nothing is unpickled on either side.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from loev_cli.audio.decoding import decode, probe
from loev_cli.audio.tags import read_tags
from loev_cli.errors import InputError, Stage

HEAD = struct.Struct("<cI")
BLOCK, END, FAILED, INFO, READY = b"B", b"E", b"F", b"I", b"R"

# A damaged header may ask a codec for any amount of memory; this is that file's failure.
_MEMORY_N_BYTES = 4 << 30


def main() -> None:
    """Serve standard input and output; started by ``python -c`` in a process of its own."""
    # A terminal or a scheduler signals everybody; only the parent decides when decoding ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _limit_memory()
    _die_with_the_parent()
    # C libraries print on 1 and 2 as they like: what we say goes another way.
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    with contextlib.suppress(BrokenPipeError):  # the parent has gone: so do we
        _send(replies, READY, memoryview(b""))
        serve(sys.stdin.buffer, replies)


def serve(commands: BinaryIO, replies: BinaryIO) -> None:
    """Handle the commands one after the other, until there are no more.

    Raises:
        BrokenPipeError: nobody reads the replies.
    """
    operations: dict[str, Callable[..., None]] = {"decode": _decode, "probe": _probe}
    for line in commands:
        command = json.loads(line)
        began = time.thread_time()

        def busy_s(began: float = began) -> float:
            return time.thread_time() - began

        try:
            operations[command.pop("op")](replies, busy_s, **command)
        except BrokenPipeError:
            raise
        except InputError as error:
            _send_json(replies, FAILED, _failure(error, error.stage, str(error), busy_s()))
        except Exception as foreign:
            # The one place for it: decoder libraries meet every kind of broken file, and whatever
            # they raise is this file's failure and nobody else's.
            what = f"{type(foreign).__name__}: {foreign}".rstrip(": ")
            message = f"{command['file']}: cannot be decoded: {what}"
            _send_json(replies, FAILED, _failure(foreign, "decode", message, busy_s()))


def _decode(
    replies: BinaryIO, busy_s: Callable[[], float], file: str, rate_hz: int, tags: bool = False
) -> None:
    decoding = decode(Path(file), rate_hz)
    for block in decoding:
        _send(replies, BLOCK, np.ascontiguousarray(block).data.cast("B"))
    end = {
        "duration_s": decoding.duration_s,
        "peak": decoding.peak,
        "warnings": decoding.warnings,
        "tags": read_tags(Path(file)) if tags else {},
    }
    _send_json(replies, END, end | {"busy_s": busy_s()})


def _probe(replies: BinaryIO, busy_s: Callable[[], float], file: str) -> None:
    _send_json(replies, INFO, asdict(probe(Path(file))))


def _failure(error: Exception, stage: Stage, message: str, busy_s: float) -> dict[str, Any]:
    kind = type(error.__cause__ or error).__name__
    return {"message": message, "stage": stage, "kind": kind, "busy_s": busy_s}


def _send_json(replies: BinaryIO, kind: bytes, content: dict[str, Any]) -> None:
    _send(replies, kind, memoryview(json.dumps(content).encode()))


def _send(replies: BinaryIO, kind: bytes, payload: memoryview) -> None:
    replies.write(HEAD.pack(kind, len(payload)))
    while payload:  # an unbuffered pipe takes what fits
        payload = payload[replies.write(payload) :]


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _MEMORY_N_BYTES if hard == resource.RLIM_INFINITY else min(hard, _MEMORY_N_BYTES)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _die_with_the_parent() -> None:
    """A decoder that hangs does not see its input end; Linux can be told to kill it then."""
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
