"""What the formulas say of a call's guesses, against enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.speculation.plan import GuessChances


@given(st.floats(0, 0.9), st.floats(0, 1), st.integers(1, 12))
def test_proven_guesses_add_steps_and_nothing_else(
    proven: float, accuracy: float, stride: int
) -> None:
    some, none = GuessChances(accuracy, proven=proven), GuessChances(accuracy)
    each = min(4, 1 / (1 - proven))  # steps to each guess that is verified
    assert some.sent(stride) == none.sent(stride)
    assert some.all_right(stride) == none.all_right(stride)
    assert some.kept(stride) == pytest.approx(each * none.kept(stride))
    assert some.written(stride) == pytest.approx(each * none.written(stride))


@given(
    st.floats(0, 1),
    st.just(0.0) | st.floats(0.01, 1),
    st.floats(0, 1),
    st.integers(1, 6),
)
def test_chances_are_those_of_all_that_may_happen(
    accuracy: float, unsure: float, accuracy_unsure: float, stride: int
) -> None:
    kept = written = all_right = 0.0
    ways = itertools.product(
        (
            ((1 - unsure) * accuracy, False, True),
            ((1 - unsure) * (1 - accuracy), False, False),
            (unsure * accuracy_unsure, True, True),
            (unsure * (1 - accuracy_unsure), True, False),
        ),
        repeat=stride,
    )
    for way in ways:
        chance = float(np.prod([share for share, _, _ in way]))
        n = [*(is_unsure for _, is_unsure, _ in way[:-1]), True].index(True) + 1
        right = [*(is_right for _, _, is_right in way[:n]), False].index(False)
        written += chance * n
        kept += chance * min(right + 1, n)
        all_right += chance * (right == n)
    chances = GuessChances(accuracy, unsure, accuracy_unsure, 0.0)
    assert chances.written(stride) == pytest.approx(written)
    assert chances.kept(stride) == pytest.approx(kept)
    assert chances.all_right(stride) == pytest.approx(all_right)
    if not unsure:  # the paper's
        assert chances.kept(stride) == pytest.approx(
            sum(accuracy**i for i in range(stride)), rel=1e-6
        )
        assert chances.written(stride) == stride
