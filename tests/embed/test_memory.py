"""Memory does not depend on how long a file is. Figures for real libraries, and for many files,
come from benchmarks/embed_memory.py; writing is measured in test_shards.py."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from loev_cli.bundle import Bundle
from tests.conftest import command, environment

RATE_HZ = 44100


def peak_mb(bundle: Bundle, source: Path, out: Path) -> float:
    """Of the process that encodes and writes, as the system keeps it."""
    process = subprocess.Popen(
        command("embed", source, "--out", out, "--model", bundle.path), env=environment()
    )
    peak_kb = 0
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                peak_kb = int(line.split()[1])
        time.sleep(0.01)
    assert process.returncode == 0
    return peak_kb / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_long_file_takes_no_more_than_a_short_one(bundle: Bundle, tmp_path: Path) -> None:
    peaks = []
    for minutes in (0.5, 30):
        file = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(file, "w", RATE_HZ, 1) as stream:
            for _ in range(round(minutes * 2)):
                stream.write(np.tile(np.array([0, 3000], np.int16), 15 * RATE_HZ))
        peaks.append(peak_mb(bundle, file, tmp_path / f"{minutes}.npz"))
    assert peaks[1] - peaks[0] < 25  # its samples as float32 are 317 MB
