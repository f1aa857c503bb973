"""Thoughts are parted from what an answer says, wherever its text is cut."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.base.thoughts import Thought, ThoughtReader, is_open_in


def parted(pieces: list[str], *, is_open: bool = False) -> list[tuple[bool, str]]:
    reader = ThoughtReader(is_open=is_open)
    told = [part for piece in pieces for part in reader.read(piece)]
    told += reader.finish()
    groups = groupby(told, key=lambda part: isinstance(part, Thought))
    return [(is_thought, "".join(parts)) for is_thought, parts in groups]


CASES = [
    ("So.", False, [(False, "So.")]),
    (" \n So. ", False, [(False, " \n So. ")]),
    ("<think>\nhm\n</think>\n\nSo.\n", False, [(True, "hm"), (False, "So.\n")]),
    (" \n<think>hm</think>So.", False, [(True, "hm"), (False, "So.")]),
    ("<think>\n\n</think>\n\nSo.", False, [(False, "So.")]),
    ("<think>hm, 1 < 2 </th", False, [(True, "hm, 1 < 2 </th")]),
    ("<think> a  b \n", False, [(True, "a  b \n")]),
    ("\nhm\n</think>\n\nSo.", True, [(True, "hm"), (False, "So.")]),
    ("hm", True, [(True, "hm")]),
    ("", True, []),
    ("", False, []),
    ("<thi", False, [(False, "<thi")]),
    (" \n", False, [(False, " \n")]),
    ("So. <think>hm</think>", False, [(False, "So. <think>hm</think>")]),
    (
        "<think>a</think>b</think><think>c",
        False,
        [(True, "a"), (False, "b</think><think>c")],
    ),
]


@pytest.mark.parametrize(("text", "is_open", "expected"), CASES)
@given(data=st.data())
def test_thoughts_are_parted_however_the_text_comes(
    text: str, is_open: bool, expected: list[tuple[bool, str]], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [
        text[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)
    ]
    for given_ in (pieces, list(text), [text]):
        assert parted(given_, is_open=is_open) == expected


TAGS = ["<think>", "</think>", "a", " ", "\n", "<", "/th"]


@given(st.lists(st.sampled_from(TAGS)).map("".join), st.booleans())
def test_nothing_but_tags_and_blanks_is_lost(text: str, is_open: bool) -> None:
    told = "".join(text for _, text in parted(list(text), is_open=is_open))
    kept = [
        text.replace("<think>", "", n).replace("</think>", "", m)
        for n in (0, 1)
        for m in (0, 1)
    ]
    assert "".join(told.split()) in {"".join(each.split()) for each in kept}


@pytest.mark.parametrize(
    ("begun", "is_open"),
    [
        *(("So", False), ("<think>hm", True), ("<think>hm</think>So", False)),
        *(("", False), ("The tag <think> opens a thought. In", False)),
    ],
)
def test_an_answer_may_be_continued_inside_a_thought(begun: str, is_open: bool) -> None:
    assert is_open_in(begun) == is_open
