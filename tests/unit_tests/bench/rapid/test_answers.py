import pytest

from langchain_ralmspec.bench.rapid.answers import (
    QUOTED_RUN,
    Score,
    normalized,
    quoted_share,
    score,
)


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
    # Words are not found inside of others, and count once.
    assert score("concatenated", ["cat"]) == Score(0.0, exact=False, contains=False)
    judged = score("cat cat cat", ["cat"])
    assert judged is not None
    assert judged.f1 == pytest.approx(0.5)


def test_an_empty_answer_is_only_right_where_one_is_asked_for() -> None:
    assert score("cat", []) is None
    assert score("", ["cat"]) == Score(0.0, exact=False, contains=False)
    assert score("the", ["an"]) == Score(1.0, exact=True, contains=False)


def test_what_stands_in_the_prompt_in_long_runs_is_quoted() -> None:
    prompt = tuple(range(100))
    run = prompt[40 : 40 + QUOTED_RUN]
    assert quoted_share(run, prompt) == 1.0
    assert quoted_share(run[1:], prompt) == 0.0  # too short to say so
    assert quoted_share((), prompt) == 0.0
    # Runs that overlap count once; what is between and behind them does not.
    longer = prompt[60 : 60 + QUOTED_RUN + 2]
    answer = (*run, -1, *longer, *prompt[:5])
    assert quoted_share(answer, prompt) == (2 * QUOTED_RUN + 2) / len(answer)
