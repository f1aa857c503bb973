"""The last word of a text, as the pattern of it has it."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.engine.templates import _size_of_last_word

PATTERN = re.compile(r"(?:\w+|[^\w\s]+)?\s*$")


@given(st.text(alphabet="ab_1é!?. \n\tÄ中", max_size=20))
def test_it_is_what_the_pattern_finds(text: str) -> None:
    found = PATTERN.search(text)
    assert found is not None
    assert _size_of_last_word(text) == len(found[0])
