"""Laws of what comes out, measured on ``judge`` itself rather than sampled."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.speculation import acceptance
from langchain_ralmspec.speculation.acceptance import (
    TRANSFERS,
    Acceptance,
    Transfer,
    draw,
    softmax,
)

Array = NDArray[np.float64]

ALMOST_ONE = 1 - 2.0**-53
etas = st.sampled_from([0.5, 5.0, 20.0, 50.0])


@st.composite
def logits(draw_: st.DrawFn, n_rows: int) -> list[Array]:
    """Rows of logits of one vocabulary; -inf where top-k took a token out."""
    n_vocab = draw_(st.integers(2, 5))
    some = st.one_of(st.floats(-6, 6), st.just(-math.inf))
    row = st.lists(some, min_size=n_vocab, max_size=n_vocab)
    rows = st.lists(row.filter(lambda x: max(x) > -math.inf), min_size=n_rows)
    return [np.array(x) for x in draw_(rows)[:n_rows]]


@st.composite
def distributions(draw_: st.DrawFn, n_rows: int) -> list[Array]:
    return [softmax(row) for row in draw_(logits(n_rows))]


def boundary(holds: Callable[[float], bool]) -> float:
    """Where a condition that holds from 0 on, up to some point below 1, ends."""
    if not holds(0.0):
        return 0.0
    if holds(ALMOST_ONE):
        return 1.0
    low, high = 0.0, 1.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def law(acceptance: Acceptance, p: Array, q: Array, p_hat: Array) -> Array:
    """P(out = t) = Σ_x q(x)·[acc(x)·1(t = x) + (1 - acc(x))·residual_x(t)].

    Acceptance and residual are lengths of intervals of ``judge``'s random numbers.
    """

    def judge(token: int, *uniforms: float) -> tuple[bool, int]:
        return acceptance.judge(token, p, q, p_hat, (uniforms[0], uniforms[1]))

    def accepted(token: int) -> float:
        return boundary(lambda u: judge(token, u, 0.5)[0])

    def replaced_up_to(token: int, limit: int) -> float:
        return boundary(lambda u: judge(token, ALMOST_ONE, u)[1] <= limit)

    out = np.zeros(len(p))
    for x in np.flatnonzero(q).tolist():
        kept = accepted(x)
        out[x] += q[x] * kept
        if kept < 1:
            cdf = [replaced_up_to(x, limit) for limit in range(len(p))]
            out += q[x] * (1 - kept) * np.diff(cdf, prepend=0.0)
    return out


def same(left: Array, right: Array) -> bool:
    return bool(np.allclose(left, right, rtol=0, atol=1e-8))


@settings(max_examples=40)
@given(distributions(3))
def test_how_far_the_output_is_from_the_target_and_the_enriched_target(
    rows: list[Array],
) -> None:
    p, q, p_hat = rows
    assert same(law(Acceptance(), p, q, p), p)
    assert same(law(Acceptance("exact", 5.0), p, q, p_hat), p_hat)
    paper = law(Acceptance("paper", 5.0), p, q, p_hat)
    distance = np.maximum(np.minimum(q, p_hat) - p, 0).sum()
    assert paper.sum() == pytest.approx(1)
    assert np.abs(paper - p).sum() / 2 == pytest.approx(distance, abs=1e-8)


def test_paper_follows_neither() -> None:
    acceptance = Acceptance("paper", 5.0)
    z = np.log([0.5, 0.3, 0.2])
    p, q = softmax(z), np.array([0.2, 0.3, 0.5])
    p_hat = acceptance.enriched(p, q, z)
    out = law(acceptance, p, q, p_hat)
    assert np.abs(out - p).sum() / 2 > 0.1
    assert np.abs(out - p_hat).sum() / 2 > 0.1


@settings(max_examples=40)
@given(logits(2), st.sampled_from(TRANSFERS))
def test_eta_0_transfers_nothing(rows: list[Array], transfer: Transfer) -> None:
    acceptance = Acceptance(transfer, 0.0)
    p, q = map(softmax, rows)
    assert acceptance.enriched(p, q, rows[0]) == pytest.approx(p)
    for token, first, second in itertools.product(
        range(len(p)), (0.0, 0.3, 0.9, ALMOST_ONE), (0.0, 0.5, ALMOST_ONE)
    ):
        uniforms = (first, second)
        assert acceptance.judge(token, p, q, p, uniforms) == Acceptance().judge(
            token, p, q, p, uniforms
        )


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_a_residual_of_zero_falls_back_to_the_target(transfer: Transfer) -> None:
    p = np.array([0.25, 0.75, 0.0])
    # A token that p = q rules out is never drafted, but it is always rejected.
    for uniform, expected in ((0.0, 0), (0.2, 0), (0.3, 1), (ALMOST_ONE, 1)):
        judged = Acceptance(transfer, 5.0).judge(2, p, p, p, (0.0, uniform))
        assert judged == (False, expected)
    # Here p̂ = q leaves nothing, and p is another.
    judged = Acceptance("exact", 5.0).judge(
        2, p, p[[1, 0, 2]], p[[1, 0, 2]], (0.0, 0.3)
    )
    assert judged == (False, 1)


def test_tokens_that_were_taken_out_are_never_kept() -> None:
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.1, 0.1, 0.8])
    for transfer in TRANSFERS:
        kept, out = Acceptance(transfer, 5.0).judge(2, p, q, p, (0.0, 0.0))
        assert not kept
        assert out == 0


@given(logits(2), st.sampled_from(TRANSFERS), etas)
def test_the_greedy_choice_is_the_formulas_and_without_eta_the_targets(
    rows: list[Array], transfer: Transfer, eta: float
) -> None:
    z, draft = rows
    best = int(np.argmax(z))
    assert Acceptance(transfer, 0.0).choice(z, softmax(draft)) == best
    assert Acceptance("exact", 5.0).choice(z, softmax(z)) == best
    chosen = Acceptance("paper", eta).choice(z, softmax(draft))
    q1, p1 = (np.exp(row) / np.exp(row).sum() for row in (draft, z))
    score = z + eta * (q1 - p1)
    assert score[chosen] == pytest.approx(score.max())


def test_transfer_changes_a_greedy_choice_and_the_smaller_id_wins_a_tie() -> None:
    z = np.array([1.0, 0.9, -4.0], np.float32)
    draft = np.array([-3.0, 3.0, 0.0], np.float32)
    for transfer in ("paper", "exact"):
        assert Acceptance(transfer, 5.0).choice(z, softmax(draft)) == 1
        assert Acceptance(transfer, 0.01).choice(z, softmax(draft)) == 0
    tie = np.array([0.0, 2.0, 2.0, 1.0])
    assert Acceptance("exact", 5.0).choice(tie, softmax(tie)) == 1


@given(logits(2), etas)
def test_enriched_is_a_distribution_over_what_the_target_has(
    rows: list[Array], eta: float
) -> None:
    p, q = map(softmax, rows)
    p_hat = Acceptance("exact", eta).enriched(p, q, rows[0])
    assert p_hat.sum() == pytest.approx(1)
    assert (p_hat >= 0).all()
    assert not p_hat[p == 0].any()


def test_enriched_is_the_formula_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "TAIL", 0.0)
    z = np.array([1.0, 0.5, 0.0])
    p, q = softmax(z), np.array([0.2, 0.3, 0.5])
    p_hat = Acceptance("paper", 2.0).enriched(p, q, z)
    weights = np.exp(z + 2 * (q - p))
    assert p_hat == pytest.approx(weights / weights.sum())


def test_the_tail_keeps_the_targets_probabilities() -> None:
    z = np.log([0.7, 0.25, 0.05])
    p, q = softmax(z), np.array([0.9, 0.05, 0.05])
    free = softmax(z + 5 * (q - p))
    guarded = Acceptance("paper", 5.0).enriched(p, q, z)
    in_tail = free < 0.1 * free.max()
    assert in_tail.tolist() == [False, True, True]
    expected = np.where(in_tail, p, free)
    assert guarded == pytest.approx(expected / expected.sum())
    assert guarded[2] / guarded[1] == pytest.approx(p[2] / p[1])
    assert guarded[1] > 2 * free[1]


def test_a_large_eta_overshoots() -> None:
    # Both models prefer token 0; the drafter likes 2 only a bit more than the target.
    z = np.log([0.6, 0.3, 0.1])
    p, q = softmax(z), np.array([0.6, 0.25, 0.15])
    overshot = softmax(z + 1e4 * (q - p))
    assert overshot == pytest.approx(np.array([0.0, 0.0, 1.0]))
    assert Acceptance("exact", 1e4).choice(z, q) == 2
    # The guard gives the others back what the target gave them: half of it at least.
    guarded = Acceptance("exact", 1e4).enriched(p, q, z)
    assert guarded == pytest.approx(np.array([0.6, 0.3, 1.0]) / 1.9)


@pytest.mark.parametrize("temperature", [1e-310, 0.5, 1.0, 3.0])
def test_softmax_is_stable(temperature: float) -> None:
    z = np.array([1e4, 1e4 - 1, -math.inf], np.float32)
    probabilities = softmax(z, temperature)
    assert probabilities.dtype == np.float64
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[2] == 0
    ratio = math.exp(-1 / temperature)
    assert probabilities[1] == pytest.approx(ratio / (1 + ratio))


@given(distributions(1), st.floats(0, ALMOST_ONE))
def test_draw_inverts_the_cumulative_distribution(
    rows: list[Array], uniform: float
) -> None:
    (p,) = rows
    token = draw(p, uniform)
    assert p[token] > 0
    assert p[:token].sum() <= uniform + 1e-12
    assert uniform < p[: token + 1].sum() + 1e-12


def test_draw_survives_a_sum_below_1() -> None:
    short = np.array([0.0, 0.5, 0.5 - 1e-9, 0.0])
    assert draw(short, 0.0) == 1
    assert draw(short, 0.5) == 2
    assert draw(short, ALMOST_ONE) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transfer": "exakt"}, r"transfer='exakt' .* did you mean 'exact'\?"),
        ({"transfer": "?"}, r"transfer='\?' .* known: off, paper, exact"),
        ({"transfer": None}, "transfer=None is unknown"),
        ({"eta": -1.0}, r"eta=-1\.0 must be finite and at least 0"),
        ({"eta": math.inf}, "eta=inf must be finite"),
        ({"eta": math.nan}, "eta=nan must be finite"),
    ],
)
def test_values_that_make_no_sense_are_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValueError, match=message):
        Acceptance(**arguments)


def test_only_what_transfers_nothing_is_lossless() -> None:
    for lossless in (Acceptance(), Acceptance("off", 5.0), Acceptance("exact", 0.0)):
        assert lossless.is_lossless
    assert not Acceptance("paper", 5.0).is_lossless
    assert not Acceptance("exact", 5.0).is_lossless
