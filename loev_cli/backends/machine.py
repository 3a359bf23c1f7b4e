"""What the machine has: cores this process may use, and CUDA devices, without importing torch."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

_CGROUP_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def usable_cpus() -> int:
    """Cores this process may use: its affinity, and a container's quota if there is one."""
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_CPU_LIMIT.read_text().split()
        if quota != "max":
            cpus = min(cpus, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: nothing limits us further
    return cpus


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
