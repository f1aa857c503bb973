"""Where a thought ends is told from any cut of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.engine.grammar import Thought

LETTERS = st.sampled_from([*list("<>/think \n"), "<think>", "</think>", "<tool_call>"])


@given(st.lists(LETTERS, max_size=20), st.booleans())
def test_what_is_heard_is_what_stands_behind_a_thought(
    pieces: list[str],
    is_open: bool,
) -> None:
    thought: Thought | None = Thought(b"<think>", b"</think>", is_open=is_open)
    heard = b""
    for piece in pieces:
        heard += piece.encode()
        if thought is not None:
            heard, thought = thought.read(heard)
    text = "".join(pieces)
    begun = text if is_open else text.lstrip().removeprefix("<think>")
    if is_open or text.lstrip().startswith("<think>"):
        inside, found, behind = begun.partition("</think>")
        assert (thought is None) == bool(found)
        assert not found or heard.decode() == behind
        assert found or (begun if inside else "").endswith(heard.decode())
    elif "<think>".startswith(text.lstrip()):
        assert thought is not None
        assert heard.decode() == text
    else:
        assert thought is None
        assert heard.decode() == text
