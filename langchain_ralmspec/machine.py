"""What this process may use of its machine: cores, memory, OpenMP's threads.

A container's limits are those of its control group, in the files of version 2 or 1.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_MAPS = Path("/proc/self/maps")
MAX_THREADS = 512
"""Threads that a library is asked for at most: ggml's ``GGML_MAX_N_THREADS``, above
which llama.cpp ends the process; torch's only wait, where there are fewer cores."""

_PAUSE_HARD = 2  # of OpenMP's omp_pause_resource_t


def cores() -> int:
    """Cores that this process may keep busy, at least 1; threads follow from it."""
    return whole_cores(schedulable_cores(), cpu_quota())


def whole_cores(n_cores: int, quota: float | None) -> int:
    """Cores that a quota leaves of ``n_cores``, at least 1.

    A quota of 2.5 is rounded down: llama.cpp's threads wait for one another after each
    of hundreds of operations a token, so while the quota of a third one is used up,
    all three stand still.
    """
    return n_cores if quota is None else max(1, min(n_cores, int(quota)))


def schedulable_cores() -> int:
    """Cores that the process may be scheduled on, whatever a container's quota."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota() -> float | None:
    """Cores' worth of time that a container grants; None without a limit."""
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")
    if not quota:
        quota = _read(CGROUP / "cpu/cpu.cfs_quota_us")  # -1 is no limit
        period = _read(CGROUP / "cpu/cpu.cfs_period_us")
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return None
    return int(quota) / int(period)


def free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    told = _meminfo()
    free = [told["MemAvailable"]] if "MemAvailable" in told else []
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, used = _read(CGROUP / limit), _read(CGROUP / usage)
        if most.isdigit() and used.isdigit():
            free.append(max(0, int(most) - int(used)))
    return min(free, default=None)


def most_memory() -> int | None:
    """Bytes that can be had at the very most, by swapping too; None if not known.

    What a container uses is not taken off its limit: files that can be dropped count.
    """
    told = _meminfo()
    files = ("memory.max", "memory/memory.limit_in_bytes")
    limits = (_read(CGROUP / name) for name in files)
    most = [int(limit) for limit in limits if limit.isdigit()]
    if "MemAvailable" in told:
        most.append(told["MemAvailable"] + told.get("SwapFree", 0))
    return min(most, default=None)


def _meminfo() -> dict[str, int]:
    """What the system says of its memory, in bytes."""
    lines = (line.split() for line in _read(_MEMINFO).splitlines())
    return {line[0].rstrip(":"): 1024 * int(line[1]) for line in lines}


def stop_idle_openmp_threads() -> None:
    """End the threads that GNU's OpenMP keeps for the calling one; it makes new ones.

    To be called before a fork: the child has none of them, and would wait for ever.
    """
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    # Packages bring copies of it, each with threads of its own.
    for file in {line.split(maxsplit=5)[-1] for line in lines if "/libgomp" in line}:
        try:
            ctypes.CDLL(file).omp_pause_resource_all(_PAUSE_HARD)
        except (OSError, AttributeError):  # replaced on disk, or from before GCC 9
            continue


def wait_policy() -> str | None:
    """How OpenMP's idle threads wait (``OMP_WAIT_POLICY``); None when it is unset."""
    return os.environ.get("OMP_WAIT_POLICY")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
