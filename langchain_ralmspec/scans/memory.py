"""Whether there is memory for a copy of a matrix."""

from __future__ import annotations

from pathlib import Path

_SHARE = 0.75  # of the free memory that a copy may take


def has_room(n_bytes: int) -> bool:
    """Whether there is memory for a copy, and a quarter of what is free left."""
    spare = _spare_bytes()
    return spare is None or n_bytes <= _SHARE * spare


def _spare_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system tells none."""
    lines = (line.split() for line in _told("/proc/meminfo").splitlines())
    free = [1024 * int(line[1]) for line in lines if line[0] == "MemAvailable:"]
    # A container may have less than the machine.
    most, used = (_told(f"/sys/fs/cgroup/memory.{of}") for of in ("max", "current"))
    if most.strip().isdigit() and used.strip().isdigit():
        free.append(int(most) - int(used))
    return min(free, default=None)


def _told(file: str) -> str:
    try:
        return Path(file).read_text(encoding="ascii")
    except OSError:
        return ""
