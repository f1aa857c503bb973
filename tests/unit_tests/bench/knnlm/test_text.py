from __future__ import annotations

from typing import Any

import pytest

from langchain_ralmspec.bench.knnlm.text import prompts, text_of
from langchain_ralmspec.errors import InvalidValueError
from tests.unit_tests.bench.knnlm.fakes import Words


def test_a_character_that_is_only_begun_is_left_out() -> None:
    pieces = {0: b"na", 1: b"\xc3", 2: b"\xaf"}
    weights: Any = type("Bytes", (), {"piece": staticmethod(pieces.__getitem__)})
    assert text_of([0, 1, 2], weights) == "naï"
    assert text_of([0, 1], weights) == "na"


def paragraphs(n: int) -> str:
    lines = [f"p{number} is a paragraph with words" for number in range(n)]
    return "\n\n".join(f"= heading =\n{line}" for line in lines)


def test_prompts_begin_paragraphs_all_over_the_text() -> None:
    weights: Any = Words()
    taken = prompts(paragraphs(10), weights, limit=5, n_tokens=4)
    assert taken == [f" p{number} is a paragraph" for number in (1, 3, 5, 7, 9)]
    assert len(prompts(paragraphs(10), weights, limit=10, n_tokens=4)) == 10
    # Without paragraphs they begin anywhere.
    text = " ".join(str(number) for number in range(21))
    taken = prompts(text, weights, limit=2, n_tokens=5)
    assert taken == [" 5 6 7 8 9", " 15 16 17 18 19"]
    with pytest.raises(InvalidValueError, match="has 9 tokens, too few for 3"):
        prompts("a b c d e f g h i", weights, limit=3, n_tokens=4)
