"""CPU and CUDA detection: cores this process may use, and CUDA devices, without importing torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_PROCESS = Path("/proc/self")


def usable_cpus(process: Path = _PROCESS) -> int:
    """Cores this process may use: its affinity, and the quotas of the control groups (containers,
    batch jobs, systemd slices) that it is in.

    Args:
        process: the folder that describes this process, where Linux has it.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    quotas = [round(quota) for group in _control_groups(process) for quota in _cpu_quotas(group)]
    return max(1, min([cpus, *quotas]))


def _control_groups(process: Path) -> Iterator[Path]:
    """The folders of the groups that may limit the process's cores: its own, and all above."""
    try:
        groups = (process / "cgroup").read_text(errors="surrogateescape").splitlines()
        mounts = (process / "mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return
    # "0::/a/b" for version 2, "4:cpu,cpuacct:/a/b" for version 1
    paths = {names: path for _, names, path in (group.split(":", 2) for group in groups)}
    for mount in mounts:
        # "35 24 0:30 ROOT FOLDER options ... - TYPE source options"
        place, _, kind = mount.partition(" - ")
        root, folder = map(_unescaped, place.split(" ")[3:5])
        version, _, options = kind.split(" ", 2)
        for names, path in paths.items():
            is_2 = version == "cgroup2" and not names
            is_1 = version == "cgroup" and "cpu" in names.split(",") and "cpu" in options.split(",")
            if is_2 or is_1:
                yield from _upwards(Path(folder), root, path)


def _upwards(mounted: Path, root: str, path: str) -> Iterator[Path]:
    """From the group ``path`` to what is mounted: the group ``root``, in a container its own."""
    below = PurePosixPath(path)
    if below.is_relative_to(root):
        below = below.relative_to(root)
    if ".." in below.parts or below.is_absolute():  # not to be seen from here
        below = PurePosixPath()
    for group in (below, *below.parents):
        yield mounted / group


def _cpu_quotas(group: Path) -> Iterator[float]:
    """In cores, by version 2 and version 1; nothing where there is no limit."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)  # "max" is no number
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


@dataclass(frozen=True)
class CudaDriver:
    """What the NVIDIA driver says. ``problem`` is None if there is a device to use."""

    n_devices: int
    problem: str | None


def cuda_driver() -> CudaDriver:
    """Ask the NVIDIA driver itself how many devices there are; takes no GPU memory."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return CudaDriver(0, f"no NVIDIA driver ({library} not found)")
    status = driver.cuInit(0)
    if status != 0:
        return CudaDriver(0, f"the NVIDIA driver finds no usable device (cuInit error {status})")
    n_devices = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(n_devices))
    if status != 0 or n_devices.value == 0:
        return CudaDriver(0, "the NVIDIA driver lists no device")
    return CudaDriver(n_devices.value, None)
