from __future__ import annotations

import pytest

from langchain_ralmspec.cli.answers import Score, normalized, score


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("The  Cat, sat!", "cat sat"),
        ("An a the", ""),
        ("U.S.", "us"),
        ("theatre", "theatre"),
        ("harmonic_mean()", "harmonicmean"),
    ],
)
def test_only_words_count(text: str, meant: str) -> None:
    assert normalized(text) == meant


def test_the_right_answer_that_flatters_most_counts() -> None:
    assert score("The cat.", ["a dog", "cat"]) == Score(1.0, exact=True, contains=True)
    assert score("a black cat", ["dog", "big black cat"]) == Score(
        0.8, exact=False, contains=False
    )
    assert score("It is the cat there", ["cat"]) == Score(
        0.4, exact=False, contains=True
    )


def test_words_are_not_found_inside_of_others() -> None:
    judged = score("concatenated", ["cat"])
    assert judged == Score(0.0, exact=False, contains=False)


def test_words_said_twice_count_once() -> None:
    judged = score("cat cat cat", ["cat"])
    assert judged is not None
    assert judged.f1 == pytest.approx(0.5)


def test_nothing_is_judged_where_nothing_is_known() -> None:
    assert score("cat", []) is None


def test_an_empty_answer_is_only_right_where_one_is_asked_for() -> None:
    assert score("", ["cat"]) == Score(0.0, exact=False, contains=False)
    assert score("the", ["an"]) == Score(1.0, exact=True, contains=False)
