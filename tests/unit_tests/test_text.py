from __future__ import annotations

import math
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AnyUrl

from langchain_ralmspec.text import (
    LONGEST_RUN,
    MOST_DIGITS,
    cuts_of_long_numbers,
    cuts_of_long_runs,
    is_blank,
    part_at_first_blank_line,
    part_at_last_blank_line,
    told_in,
    well_formed,
    well_formed_json,
)
from tests.unit_tests.fakes import NOT_AVAILABLE


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("plain, naïve, 😀", "plain, naïve, 😀"),
        ("\ud83d\ude00", "😀"),
        ("\ud83d", "\ufffd"),
        ("a\ude00\ud83db", "a\ufffd\ufffdb"),
        ("\ufeff\ud83d\ud83d\ude00", "\ufeff\ufffd😀"),
    ],
)
def test_halves_of_characters_are_joined_or_replaced(given: str, expected: str) -> None:
    assert well_formed(given) == expected


@given(st.text(st.characters(), max_size=20))
def test_every_string_becomes_text(given: str) -> None:
    assert well_formed(well_formed(given).encode().decode()) == well_formed(given)


def cut(text: str) -> list[str]:
    places = [0, *cuts_of_long_runs(text), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


@pytest.mark.parametrize("letter", ["A", "é", "中", "9", "!", " ", "\n", "กิ", "\x1cA"])
def test_long_runs_are_cut(letter: str) -> None:
    text = letter * (4 * LONGEST_RUN // len(letter))
    parts = cut(f"one two {text} three")
    assert "".join(parts) == f"one two {text} three"
    assert all(len(part) <= LONGEST_RUN + len("one two ") for part in parts)


@pytest.mark.parametrize(
    "text",
    ["", "A" * LONGEST_RUN, "some words and more of them. " * 9999, "one\n\n" * 9999],
)
def test_ordinary_text_is_not_cut(text: str) -> None:
    assert cut(text) == [text]


def test_a_text_without_spaces_is_cut_before_punctuation() -> None:
    parts = cut("我们读一本书。" * 9999)
    assert all(part.startswith("。") for part in parts[1:])


def test_digits_are_cut_from_the_last() -> None:
    digits = "1" * (2 * MOST_DIGITS + 5)
    text = f"No. {digits}, {digits}!"
    places = sorted({0, *cuts_of_long_numbers(text), len(text)})
    lengths = [9, MOST_DIGITS, MOST_DIGITS + 7, MOST_DIGITS, MOST_DIGITS + 1]
    assert [end - start for start, end in pairwise(places)] == lengths
    short = f"{'1' * MOST_DIGITS} {'2' * MOST_DIGITS}"
    assert [*cuts_of_long_numbers(short)] == []


def test_what_is_not_seen_stands_on_no_side_of_a_blank_line() -> None:
    assert part_at_last_blank_line("text\n\nquestion?\n\n\u200b") == (
        "text",
        "question?",
    )
    parts = part_at_first_blank_line("\ufeff\n\nWhat?\n\ntext")
    assert parts[0] == "What?"


def test_names_that_would_become_one_are_refused() -> None:
    whole = well_formed_json({"\ud83d\ude00": ["\ud800"]})
    assert whole == {"\U0001f600": ["\ufffd"]}
    with pytest.raises(ValueError, match="two would become one"):
        well_formed_json([dict.fromkeys(["\ud800", "\udc00"])])


def test_looking_for_runs_takes_one_pass() -> None:
    """Runs that are just short enough took quadratic time once."""
    text = ("A" * (LONGEST_RUN - 1) + " ") * 300
    assert cut(text) == [text]


@pytest.mark.parametrize(
    "mark", "\u200d\u200e\u200f\u061c\u180e\u202a\u2066\u115f\u1160\u3164\uffa0\u2800"
)
def test_a_line_of_what_is_not_seen_is_blank(mark: str) -> None:
    assert is_blank(f" {mark}\n")
    assert part_at_last_blank_line(f"a\n{mark} \r\nb") == ("a", "b")
    assert part_at_first_blank_line(f"a\n \n{mark}b") == ("a", f"{mark}b")
    assert part_at_last_blank_line("a\nb \u2764\ufe0f") == ("", "a\nb \u2764\ufe0f")


class Kind(str, Enum):  # noqa: UP042  whose own words are others
    ONE = "one"


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        (None, []),
        ({}, []),
        ({"title": "Heaps", "source": "a.txt"}, ["Heaps", "a.txt"]),
        ({"title": " \u200b", "source": Path("a.txt")}, ["a.txt"]),
        ({"title": 7, "source": 0}, ["7", "0"]),
        ({"title": NOT_AVAILABLE, "source": math.nan}, []),
        ({"title": np.array(["a", "b"]), "source": ["a"]}, []),
        ({"title": False, "source": True}, []),
        ({"title": Kind.ONE, "source": np.int64(1984)}, ["one", "1984"]),
        ({"source": AnyUrl("https://x.org/a")}, ["https://x.org/a"]),
        ({"title": 10**5000, "source": "nan"}, ["nan"]),
        ({"title": "a\ud83d", "source": object()}, ["a\ufffd"]),
    ],
)
def test_what_metadata_says_in_words(metadata: Any, told: list[str]) -> None:
    assert [*told_in(metadata, ("title", "source"))] == told
