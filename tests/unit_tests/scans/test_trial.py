"""Which form of a scan is taken: a trial tells which is the fastest."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from langchain_ralmspec.scans import (
    BATCHES,
    Scan,
    installed_torch,
    loaded_torch,
)
from langchain_ralmspec.scans import scan as scan_module
from tests.unit_tests.scans.test_scan import (
    drawn_rows,
    each_form,
    missed,
    no_rival,
    scan_by,
)


def timed(seconds: Callable[[str, int], float]) -> Any:
    """Stands for a clock: what a form takes for a batch."""

    def fastest(works: dict[Any, Callable[[], object]]) -> Any:
        for work in works.values():
            work()
        size = len(next(iter(works.values())).args[1])  # type: ignore[attr-defined]
        return min(works, key=lambda name: seconds(name, size))

    return fastest


@pytest.mark.parametrize("rival", [None, no_rival])
@pytest.mark.parametrize("narrow_from", [1, 2, 99])
def test_the_fastest_form_is_taken_for_each_size_of_batches(
    narrow_from: int, rival: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(name: str, size: int) -> float:
        return {"bfloat16": size < narrow_from, "torch": size >= narrow_from}.get(
            name, 2
        )

    monkeypatch.setattr(scan_module, "fastest", timed(seconds))
    rows = drawn_rows("plain", 50, 5, 0).astype("f")
    scan = Scan(rows, "squared_l2", torch, rival=rival)
    scan.prepare()
    narrow = {size: "bfloat16" if size >= narrow_from else "torch" for size in BATCHES}
    assert scan.chosen == narrow | ({1: "rival"} if rival else {})
    for n in (2, 9, 40):
        assert missed(scan, rows, rows[:n], 3) == 0
    assert (scan.candidates(rows[:1], 3) is None) == bool(rival)


def test_what_a_rival_does_fastest_is_left_to_it_until_there_are_more_rows() -> None:
    rows = drawn_rows("plain", 50, 5, 0).astype("f")
    tried: list[int] = []
    scan = Scan(rows[:20], "squared_l2", torch, rival=lambda x, _: tried.append(len(x)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_module, "fastest", lambda works: works["rival"]() or "rival")
        for n in (20, 30, 39, 40, 50):
            assert scan.follow(rows[:n])
            n_tried = len(tried)
            assert scan.candidates(rows[:3], 2) is None
            assert len(tried) == n_tried, "no user waits for a trial"
            scan.prepare()
            assert scan.candidates(rows[:3], 2) is None
    assert tried == [20] * 2 + [40] * 2
    assert scan.failures == 0


@each_form
def test_preparing_again_scans_nothing(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, scanned = drawn_rows("plain", 60, 16, 0).astype("f"), list[str]()
    scan = scan_by(form, rows[:50])
    found = scan._found

    def counted(name: Any, *args: Any) -> Any:
        scanned.append(name)
        return found(name, *args)

    monkeypatch.setattr(scan, "_found", counted)
    for n_rows, n_scans in ((50, 1), (50, 1), (60, 2), (60, 2)):
        assert scan.follow(rows[:n_rows])
        scan.prepare()
        assert scanned == [form] * n_scans


def test_time_decides() -> None:
    works: dict[Any, Callable[[], object]] = {
        "numpy": lambda: sum(range(300_000)),
        "torch": lambda: None,
        "bfloat16": lambda: sum(range(300_000)),
    }
    assert scan_module.fastest(works) == "torch"


@each_form
def test_settings_of_the_thread_that_prepares_do_not_matter(form: str) -> None:
    rows = drawn_rows("plain", 60, 16, 0).astype("f")
    with torch.inference_mode():
        scan = scan_by(form, rows[:50])
        assert missed(scan, rows[:50], rows[:3], 2) == 0
    assert scan.follow(rows)
    assert missed(scan, rows, rows[:3], 2) == 0
    before = torch.get_default_device()
    torch.set_default_device("meta")
    try:
        assert missed(scan_by(form, rows), rows, rows[:3], 2) == 0
    finally:
        torch.set_default_device(before)


def test_torch_is_used_where_it_is_loaded_or_installed_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert loaded_torch() is torch
    monkeypatch.delitem(sys.modules, "torch")
    assert loaded_torch() is None
    assert "torch" not in sys.modules
    monkeypatch.setitem(sys.modules, "torch", None)  # what makes an import fail
    assert loaded_torch() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert installed_torch() is None
    rows = drawn_rows("plain", 60, 16, 0).astype("f")
    scan = Scan(rows, "squared_l2", None, centred=True)
    scan.prepare()
    assert scan.chosen == dict.fromkeys(BATCHES, "numpy")
    assert missed(scan, rows, rows[:3], 2) == 0
