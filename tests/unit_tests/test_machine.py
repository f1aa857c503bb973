from collections.abc import Callable
from pathlib import Path

import pytest

from langchain_ralmspec import machine
from langchain_ralmspec.engine.threads import default_threads

CPU_V1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
MEMORY_V1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
MEMORY_V2 = ("memory.max", "memory.current")

Told = Callable[[dict[str, str]], None]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Has the control group and the system say something else: text by file."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "schedulable_cores", lambda: 8)

    def tell(said: dict[str, str]) -> None:
        for name, text in said.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)

    return tell


@pytest.mark.parametrize(
    ("said", "quota", "cores"),
    [
        ({}, None, 8),
        ({"cpu.max": "max 100000\n"}, None, 8),
        ({"cpu.max": "250000 100000\n"}, 2.5, 2),
        ({"cpu.max": "50000 100000\n"}, 0.5, 1),
        ({"cpu.max": "1600000 100000\n"}, 16, 8),
        ({"cpu.max": "nonsense"}, None, 8),
        ({"cpu.max": "1 0"}, None, 8),
        (dict(zip(CPU_V1, ("-1\n", "100000\n"), strict=True)), None, 8),
        (dict(zip(CPU_V1, ("350000\n", "100000\n"), strict=True)), 3.5, 3),
        ({CPU_V1[0]: "350000\n"}, None, 8),
    ],
)
def test_a_containers_quota_cuts_cores_and_so_threads(
    said: dict[str, str], quota: float | None, cores: int, told: Told
) -> None:
    told(said)
    assert machine.cpu_quota() == quota
    assert machine.cores() == cores
    assert default_threads() == (max(1, cores // 2), cores)


def test_there_is_a_core_without_a_container() -> None:
    assert machine.schedulable_cores() >= 1


@pytest.mark.parametrize(
    ("said", "free"),
    [
        ({}, None),
        ({"meminfo": "MemTotal: 9 kB\nMemAvailable:   7 kB\n"}, 7 * 1024),
        ({"meminfo": "MemTotal: 9 kB\n"}, None),
        (dict(zip(MEMORY_V2, ("5000\n", "2000\n"), strict=True)), 3000),
        (dict(zip(MEMORY_V2, ("max\n", "2000\n"), strict=True)), None),
        (dict(zip(MEMORY_V2, ("5000\n", "6000\n"), strict=True)), 0),
        (dict(zip(MEMORY_V1, ("5000\n", "1000\n"), strict=True)), 4000),
        ({"meminfo": "MemAvailable: 7 kB", "memory.max": "9999"}, 7 * 1024),
        (
            {"meminfo": "MemAvailable: 7 kB", "memory.max": "9", "memory.current": "1"},
            8,
        ),
    ],
)
def test_free_memory_is_the_machines_or_the_containers(
    said: dict[str, str], free: int | None, told: Told
) -> None:
    told(said)
    assert machine.free_memory() == free


@pytest.mark.parametrize(
    ("said", "most"),
    [
        ({}, None),
        ({"meminfo": "MemTotal: 9 kB\nMemAvailable:   7 kB\n"}, 7 * 1024),
        ({"meminfo": "MemAvailable: 7 kB\nSwapFree: 2 kB\n"}, 9 * 1024),
        ({"meminfo": "MemAvailable: 7 kB", "memory.max": "5000"}, 5000),
        (dict(zip(MEMORY_V1, ("5000\n", "4999\n"), strict=True)), 5000),
        (dict(zip(MEMORY_V2, ("max\n", "2000\n"), strict=True)), None),
    ],
)
def test_the_most_memory_counts_what_is_swapped_or_dropped(
    said: dict[str, str], most: int | None, told: Told
) -> None:
    told(said)
    assert machine.most_memory() == most


@pytest.fixture
def without_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine.OPENMP_ENVIRONMENT:
        monkeypatch.setenv(name, "")  # so that it is as before in the end
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("without_openmp")
def test_openmp_waits_briefly_where_nothing_is_said() -> None:
    assert machine.openmp_environment() == {}
    machine.wait_briefly()
    assert machine.openmp_environment() == machine.OPENMP_ENVIRONMENT


@pytest.mark.usefixtures("without_openmp")
@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_openmp_waits_as_the_user_says(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "7")
    machine.wait_briefly()
    assert machine.openmp_environment() == {name: "7"}


@pytest.mark.usefixtures("without_openmp")
def test_what_is_said_of_another_openmp_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMP_BLOCKTIME", "1")
    machine.wait_briefly()
    expected = machine.OPENMP_ENVIRONMENT | {"KMP_BLOCKTIME": "1"}
    assert machine.openmp_environment() == expected
