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

OPENMP_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "ACTIVE",  # else GNU's do not spin beside those of other threads
    "GOMP_SPINCOUNT": "1000",  # GNU's: about 10 µs, and then they sleep
    "KMP_BLOCKTIME": "0",  # LLVM's and Intel's: they sleep at once
}
"""Variables by which OpenMP's idle threads spin briefly and then sleep.

Where they sleep at once (``PASSIVE`` alone), to wake them takes longer than most of the
hundreds of operations of a small batch: 2 to 8 tokens of SmolLM2-135M take 20 to 27 ms
on two cores, and 7 to 15 with 1,000 spins. Where they spin for milliseconds (nothing
set), they keep other libraries from working: 10 answers over 1 M vectors took 10.9 s
asleep at once, 9.3 s with 1,000 spins, 10.4 s with 10,000.
"""

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


def openmp_environment() -> dict[str, str]:
    """The variables that say how OpenMP's idle threads wait, as far as they are set."""
    return {name: os.environ[name] for name in OPENMP_ENVIRONMENT if name in os.environ}


def wait_briefly() -> None:
    """Have OpenMP's idle threads spin briefly and then sleep, if nothing else is said.

    Those of all libraries that this process or a child of it loads from now on. Of the
    variables, one alone would have GNU's spin for ever, or not at all.
    """
    said = openmp_environment()
    if said.keys() <= {"KMP_BLOCKTIME"}:
        os.environ.update(OPENMP_ENVIRONMENT | said)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
