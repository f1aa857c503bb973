"""Candidates leave none of the best rows out, whatever rounding does to scores."""

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from langchain_ralmspec.scans import (
    BATCHES,
    Metric,
    Scan,
    candidates,
)
from langchain_ralmspec.scans import rows as rows_module
from langchain_ralmspec.scans import scan as scan_module

Rows = NDArray[Any]
Queries = NDArray[np.float32]

FORMS: tuple[Any, ...] = ("numpy", "torch", "bfloat16")
METRICS: tuple[Metric, ...] = get_args(Metric)
SHAPES = ["plain", "offset", "outliers", "poles", "equal", "all equal", "grid"]
each_form = pytest.mark.parametrize("form", FORMS)
each_metric = pytest.mark.parametrize("metric", METRICS)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for one another take longer than such small products."""
    earlier = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(earlier)


def scan_by(
    form: Any, rows: Rows, metric: Metric = "squared_l2", **arguments: Any
) -> Scan:
    """A scan by a given form, of rows in place or centred."""
    scan = Scan(rows, metric, torch, **arguments)
    scan.chosen = dict.fromkeys(BATCHES, form)
    return scan


def no_rival(*_: object) -> None:
    """A rival that is to search where a scan may not."""


def best(rows: Rows, query: Queries, k: int, metric: Metric) -> set[int]:
    """The ``k`` best rows, and all as good as the last of them."""
    wide, query = rows.astype(np.float64), query.astype(np.float64)
    scores = -wide @ query
    if metric == "squared_l2":
        scores = ((wide - query) ** 2).sum(axis=1)
    return set(np.flatnonzero(scores <= np.sort(scores)[k - 1]).tolist())


def missed(scan: Scan, rows: Rows, queries: Queries, k: int) -> int:
    """How many of the best rows are no candidates."""
    found = scan.candidates(queries, k)
    assert found is not None
    assert all(len(set(each.tolist())) == len(each) >= k for each in found)
    metric = scan._metric
    return sum(
        len(best(rows, query, k, metric) - set(each.tolist()))
        for query, each in zip(queries, found, strict=True)
    )


def drawn_rows(shape: str, n: int, dimension: int, seed: int) -> Rows:
    """Rows that are hard to tell apart, each in a way of its own."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, dimension))
    if shape == "offset":  # far from nothing, near to one another
        rows = 300 + 0.5 * rows
    elif shape == "outliers":
        rows[rng.random(n) < 0.1] *= 100
    elif shape == "poles":  # their centre is far from all of them
        rows[:, 0] += np.where(rng.random(n) < 0.5, 200, -200)
    elif shape == "equal":
        rows = rows[rng.integers(max(1, n // 8), size=n)]
    elif shape == "all equal":
        rows[:] = rows[0]
    elif shape == "grid":  # ties between different rows
        rows = rows.round()
    return rows


@settings(max_examples=200)
@given(data=st.data(), shape=st.sampled_from(SHAPES), seed=st.integers(0, 999))
def test_the_best_rows_are_among_the_candidates(
    data: st.DataObject, shape: str, seed: int
) -> None:
    n, n_queries = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 5))
    form, is_centred = data.draw(st.sampled_from(FORMS)), data.draw(st.booleans())
    dimension = data.draw(st.sampled_from([1, 3, 16, 70]))
    types = ["float16", "float32"] if is_centred else ["float32"]
    kind = data.draw(st.sampled_from(types))
    rows = drawn_rows(shape, n, dimension, seed).astype(kind)
    rng = np.random.default_rng(seed)
    # Queries are like rows: some are rows, some lie near one.
    queries = rows[rng.integers(n, size=n_queries)].astype(np.float32)
    noise = rng.choice([0, 0, 0.1, 1], (n_queries, 1)).astype(np.float32)
    queries += noise * rng.standard_normal(queries.shape).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        groups = data.draw(st.sampled_from([1, 3, 16, 2048]))
        patch.setattr(candidates, "GROUPS", groups)
        patch.setattr(rows_module, "BLOCK_ROWS", data.draw(st.integers(20, 320)))
        scores = data.draw(st.sampled_from([60, 200, 700, 1 << 22]))
        patch.setattr(scan_module, "_SCORES_PER_BLOCK", scores)
        patch.setattr(scan_module, "_CONVERTED_ROWS", data.draw(st.integers(5, 99)))
        metric = data.draw(st.sampled_from(METRICS[is_centred:]))
        n_before = data.draw(st.integers(1, n))
        k = data.draw(st.integers(1, n))
        scan = scan_by(form, rows[:n_before], metric, centred=is_centred)
        scan.candidates(queries, 1)
        assert scan.follow(rows)
        assert missed(scan, rows, queries, k) == 0


def poles(size: float = 200.0) -> tuple[Rows, Queries]:
    """Rows around two far points, where bfloat16 tells none of them apart."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2000, 16)).astype(np.float32)
    rows[:, :8] += np.where(rng.random(2000) < 0.5, size, -size)[:, np.newaxis]
    noise = rng.standard_normal((5, 16)) / 10
    return rows, (rows[::400] + noise).astype(np.float32)


@pytest.mark.parametrize("length", [1e-3, 1.0, 300.0])
@each_metric
def test_rows_that_rounding_cannot_tell_apart(metric: Metric, length: float) -> None:
    generator = np.random.default_rng(0)
    queries = generator.standard_normal((4, 64)).astype(np.float32)
    near = 1e-3 * generator.standard_normal((4, 500, 64))
    rows = (queries[:, np.newaxis] + near).reshape(-1, 64).astype(np.float32) * length
    rows = rows.astype(np.float32)
    assert missed(scan_by("bfloat16", rows, metric), rows, queries, 10) == 0
    rounded = torch.from_numpy(rows).bfloat16().float().numpy()
    wrong = [best(rounded, q, 10, metric) != best(rows, q, 10, metric) for q in queries]
    assert any(wrong), "rounding hides some, but for the bound"


def test_without_its_bound_rounding_would_hide_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(_: Any, queries: Queries) -> NDArray[np.float64]:
        return np.zeros(len(queries))

    monkeypatch.setattr(Scan, "_is_as_exact", lambda *_: True)
    monkeypatch.setattr(rows_module.BFloat16Rows, "errors", none)
    rows, queries = poles()
    assert missed(scan_by("bfloat16", rows, centred=True), rows, queries, 16) > 0
    rows, queries = poles(size=20_000)
    assert missed(scan_by("numpy", rows, centred=True), rows, queries, 16) == 0
    monkeypatch.setattr(rows_module.Rows, "errors", none)
    monkeypatch.setattr(candidates, "FLOAT32_ERROR", 0.0)
    assert missed(scan_by("numpy", rows, centred=True), rows, queries, 16) > 0


@pytest.mark.parametrize(
    ("form", "most"), [("numpy", 60), ("torch", 60), ("bfloat16", 600)]
)
def test_most_rows_are_no_candidates_wherever_all_lie(form: str, most: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((5000, 32)).astype(np.float32)

    def n_found(offset: float) -> int:
        moved = rows + np.float32(offset)
        found = scan_by(form, moved, centred=True).candidates(moved[:4], 16)
        assert found is not None
        assert max(map(len, found)) <= most
        return sum(map(len, found))

    # Distances stay as they are, so the centre is taken off before rounding.
    assert n_found(100) < 1.1 * n_found(0)


@settings(max_examples=200)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_no_score_is_further_off_than_said(data: st.DataObject, seed: int) -> None:
    generator = np.random.default_rng(seed)
    shape = (9, data.draw(st.sampled_from([1, 3, 64, 300, 1000])))
    signs = data.draw(st.sampled_from([(1.0,), (-1.0, 1.0)]))
    powers = 2.0 ** generator.integers(-6, 7, shape)
    # Near the middle between two numbers of bfloat16.
    numbers = powers * (1 + 2**-8 + generator.integers(-9, 10, shape) * 2.0**-16)
    rows = (numbers * generator.choice(signs, shape)).astype(np.float32)
    form = data.draw(st.sampled_from(FORMS))
    kept = scan_by("numpy", rows)._rows(form)
    by = torch if form == "torch" else None
    scores = kept.scores(-rows, kept.part(2, 9), None, by)
    off = scores + rows.astype(float) @ rows[2:].T.astype(float)
    lengths = np.linalg.norm(rows.astype(float), axis=1)
    allowed = kept.errors(rows)[:, np.newaxis] * np.outer(lengths, lengths[2:])
    assert (np.abs(off) <= allowed).all()


DOWN, UP = 1 + 2**-8 - 2**-20, 1 + 2**-8 + 2**-20  # round to 1 and to 1 + 2**-7


def test_a_bound_is_no_larger_than_it_must_be() -> None:
    # Both vectors lose as much as numbers can, and so does the product, 257.
    rows = np.full((1, 257), DOWN, np.float32)
    kept = scan_by("bfloat16", rows)._rows("bfloat16")
    (error,) = kept.errors(rows) * 257 * DOWN**2
    scores = kept.scores(rows, kept.part(0, 1), None, None)
    off = abs(float(scores[0, 0]) - 257 * DOWN**2)
    assert 0.98 * error < off <= error


def test_the_best_row_may_be_off_one_way_and_another_the_other() -> None:
    rows = np.zeros((2, 259), np.float32)
    rows[0, :258], rows[0, 258] = DOWN, -1  # 258.008, scored as 256
    rows[1, :257] = UP  # 258.004, scored as 260
    queries = np.ones((1, 259), np.float32)
    scan = scan_by("bfloat16", rows, "inner_product")
    assert missed(scan, rows, queries, 1) == 0
    kept = scan._rows("bfloat16")
    scored = kept.scores(-queries, kept.part(0, 2), None, None)
    assert scored.tolist() == [[-256, -260]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("where", [0, 1])
@each_metric
@each_form
def test_numbers_that_are_not_finite_are_left_to_others(
    form: str, metric: Metric, where: int, bad: float
) -> None:
    rows, queries = (drawn_rows("plain", n, 16, n).astype("f") for n in (20, 2))
    (rows, queries)[where][1, 0] = bad
    scan = scan_by(form, rows, metric)
    assert (scan.candidates(queries, 3), scan.failures) == (None, 1)
    if where == 1:
        assert missed(scan, rows, queries[:1], 3) == 0
        assert scan.failures == 0


@pytest.mark.parametrize("form", ["torch", "bfloat16"])
@pytest.mark.parametrize("how", [torch.bfloat16, torch.float16, 1.1])
@each_metric
def test_where_torch_rounds_more_coarsely_numpy_takes_over(
    metric: Metric, how: Any, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    multiply = torch.mm

    def coarse(left: Any, right: Any, *, out: Any) -> None:
        if isinstance(how, float):
            multiply(left, right, out=out).mul_(how)
        else:
            out.copy_(left.to(how).float() @ right.to(how).float())

    rows, queries = (drawn_rows("plain", n, 16, n).astype("f") for n in (200, 3))
    scan = scan_by(form, rows, metric, rival=no_rival)
    scan.chosen |= {1: "rival", 32: "torch" if form == "bfloat16" else "bfloat16"}
    before = dict(scan.chosen)
    assert missed(scan, rows, queries, 3) == 0
    assert scan.chosen == before
    monkeypatch.setattr(torch, "mm", coarse)
    assert missed(scan, rows, queries, 3) == 0
    if form == "torch" or isinstance(how, float):  # bfloat16 is what it says
        assert scan.chosen == before | {8: "numpy"}


def test_numpy_is_what_others_are_checked_by(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = drawn_rows("plain", 20, 3, 0).astype("f")
    scan, calls, found = scan_by("numpy", rows), [], Scan._found

    def off(*arguments: Any) -> Any:
        calls.append(arguments)
        for each in (answer := found(*arguments) or []):
            each.scores += 1
        return answer

    monkeypatch.setattr(Scan, "_found", off)
    assert scan.candidates(rows[:2], 3)
    assert len(calls) == 1


@pytest.mark.parametrize("form", ["numpy", "bfloat16"])
def test_a_copy_takes_the_memory_of_its_rows(
    form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_ROWS", 50)
    rows = drawn_rows("plain", 120, 6, 0).astype("f")
    scan = scan_by(form, rows[:20], centred=True)
    grown = {20: [20], 21: [40], 45: [45], 46: [50], 120: [50, 50, 20]}
    for n, sizes in grown.items():
        assert scan.follow(rows[:n])
        kept = scan._rows(form)
        assert [len(block) for block in kept._blocks] == sizes
        parts = [torch.as_tensor(kept.part(i, i + 1)).float() for i in range(n)]
        expected = rows[:n] - scan._centre
        np.testing.assert_allclose(torch.cat(parts).numpy(), expected, rtol=0.01)


def test_the_bound_of_a_length_grows_with_the_numbers_summed() -> None:
    for dimension, error in [(16, 1e-4), (4096, 2.0**-12)]:
        kept = rows_module.Rows()
        chunk = np.zeros((1, dimension), np.float32)
        chunk[0, 0] = 3
        kept.append(chunk, 1)
        assert kept.longest == 3 * (1 + error)


@each_form
def test_too_many_candidates_are_left_to_a_rival(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, queries = np.ones((40, 3), np.float32), np.ones((2, 3), np.float32)
    scan = scan_by(form, rows, rival=no_rival)
    assert scan.candidates(queries, 3) is not None
    monkeypatch.setattr(scan_module, "_MOST_CANDIDATES", 36)
    assert scan.candidates(queries, 3) is None
    assert scan.candidates(queries, 4) is not None, "more were wanted"
    assert scan_by(form, rows).candidates(queries, 3) is not None, "there is no rival"


def test_other_rows_are_mostly_told_by_a_sample() -> None:
    rows, more = (drawn_rows("plain", n, 16, n).astype("f") for n in (60, 1))
    scan = scan_by("numpy", rows)
    assert not scan.follow(rows[:-1])
    for removed in (0, 31, 59):
        kept = np.delete(rows, removed, axis=0)
        assert not scan.follow(np.concatenate([kept, more]))
        # Even if what is added at the end is what was there.
        assert scan.follow(np.concatenate([kept, rows[-1:]])) == (removed == 59)
    shifted = np.delete(rows, 58, axis=0)
    assert not scan.follow(np.concatenate([shifted, shifted[-1:]]))
    rows[40:] = rows[40]  # the last ones are the same, moved or not
    scan = scan_by("numpy", rows)
    assert not scan.follow(np.concatenate([rows[:5], rows[6:], rows[-1:]]))
