from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_ralmspec.rapid import Draft, PromptLookupDrafter, lookup
from tests.unit_tests.rapid.matches import agreement, place_of

# Few different tokens, so that matches are long and many; left to itself,
# hypothesis seldom makes a long list.
prefixes = st.tuples(st.integers(1, 3), st.integers(0, 120)).flatmap(
    lambda drawn: st.lists(
        st.integers(0, drawn[0]), min_size=drawn[1], max_size=drawn[1]
    )
)
lengths = st.integers(1, 12)


def searched(prefix: Sequence[int], n: int, places: int = 128) -> Draft:
    """What stands behind that place, of which all was written."""
    place = place_of(prefix, n, places)
    if place is None:
        return Draft()
    tokens, sure = tuple(prefix[place : place + n]), agreement(prefix, place)
    return Draft(tokens, evidence=tuple(sure + i for i in range(len(tokens))))


@settings(max_examples=500)
@given(prefixes, lengths)
def test_the_best_match_with_most_behind_it_is_continued_the_latest_of_equals(
    prefix: list[int], n: int
) -> None:
    assert PromptLookupDrafter().propose(prefix, n) == searched(prefix, n)


@given(prefixes, lengths)
def test_of_too_many_places_the_latest_are_looked_at(prefix: list[int], n: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "_MAX_PLACES", 4)
        assert PromptLookupDrafter().propose(prefix, n) == searched(prefix, n, 4)


@given(prefixes, st.lists(st.integers(0, 120), max_size=8), lengths)
def test_a_prefix_that_grows_is_as_good_as_a_new_one(
    prefix: list[int], calls: list[int], n: int
) -> None:
    drafter = PromptLookupDrafter()
    for length in sorted({*calls, len(prefix)} & {*range(len(prefix) + 1)}):
        grown = prefix[:length]
        draft = drafter.propose(grown, n)
        assert draft == PromptLookupDrafter().propose(grown, n)
        assert grown == prefix[:length], "it must not be changed"


@given(prefixes, st.lists(st.integers(0, 3), max_size=20), lengths)
def test_asking_in_between_tells_nothing_of_what_comes(
    prefix: list[int], later: list[int], n: int
) -> None:
    asked, fresh = PromptLookupDrafter(), PromptLookupDrafter()
    growing = [*prefix]
    for token in later:
        asked.propose(growing, n)
        growing.append(token)
    assert asked.propose(growing, n) == fresh.propose(growing, n)


@pytest.mark.parametrize(
    "prefix",
    [(), (1,), (1, 2, 3), (1, 2, 1, 2), (1, 2, 3, 4, 5, 6), (1, 2, 3, 9, 2, 3)],
)
def test_nothing_is_proposed_where_nothing_matches(prefix: tuple[int, ...]) -> None:
    assert PromptLookupDrafter().propose(prefix, 5) == Draft()


@given(prefixes, st.integers(0, 130), lengths)
def test_evidence_is_what_was_written_of_the_match_or_that_it_is_long(
    prefix: list[int], n_prompt: int, n: int
) -> None:
    every = PromptLookupDrafter().propose(prefix, n)
    n_prompt = min(n_prompt, len(prefix))
    draft = PromptLookupDrafter(n_prompt).propose(prefix, n)

    assert draft.tokens == every.tokens, "where it looks has nothing to do with it"
    place = place_of(prefix, n)
    if place is not None:
        written = agreement(prefix, place, min(32, len(prefix) - n_prompt))
        first = max(written, agreement(prefix, place) - 8)
        assert draft.evidence == tuple(first + i for i in range(len(every.tokens)))


def test_behind_a_replaced_token_a_few_words_of_the_question_are_no_evidence() -> None:
    text = tuple(range(100, 120))
    prompt = (*text, 1, *text[:6])
    # The question has six words of the text; the model replaces one, and goes on.
    prefix = (*prompt, 7, *text[7:10])
    assert PromptLookupDrafter().propose(prefix, 1).evidence == (6 - 2 + 3,)
    assert PromptLookupDrafter(len(prompt)).propose(prefix, 1).evidence == (3,)
    assert PromptLookupDrafter(len(prompt) - 3).propose(prefix, 1).evidence == (4,)


def test_behind_a_replaced_token_many_words_of_the_question_are() -> None:
    text = tuple(range(100, 140))
    prompt = (*text, 1, *text[:24])
    prefix = (*prompt, 7, *text[25:28])
    draft = PromptLookupDrafter(len(prompt)).propose(prefix, 1)
    assert draft.evidence == (24 - 2 + 3 - 8,)


def test_a_token_replaced_by_two_ends_a_match() -> None:
    text = tuple(range(100, 120))
    draft = PromptLookupDrafter().propose((*text, 1, *text[:8], 7, 7, *text[9:12]), 1)
    assert draft.evidence == (3,)


def test_a_quotation_goes_on_behind_tokens_that_were_replaced() -> None:
    text = tuple(range(100, 120))
    written = (*text[:8], 7, *text[9:13])
    draft = PromptLookupDrafter().propose((*text, 1, *written), 2)
    assert draft == Draft(text[13:15], evidence=(8 - 2 + 4, 8 - 2 + 5))
    # Not at any price: these four agree, those before them do not enough.
    far = (*text[:4], 7, 7, 7, *text[7:11])
    draft = PromptLookupDrafter().propose((*text, 1, *far), 2)
    assert draft == Draft(text[11:13], evidence=(4, 5))


def test_of_two_places_the_one_that_was_being_quoted_is_continued() -> None:
    prefix = (*range(10, 20), 1, 17, 18, 19, 5, 6, 2, *range(10, 16), 3, 17, 18, 19)
    assert PromptLookupDrafter().propose(prefix, 1).tokens == (1,)


def test_a_few_words_of_the_question_are_no_evidence() -> None:
    prefix = (1, 2, 3, 4, 7, 8, 5, 1, 2, 3, 4)  # the last one was written
    assert PromptLookupDrafter().propose(prefix, 3).evidence == (4, 5, 6)
    assert PromptLookupDrafter(10).propose(prefix, 3).evidence == (1, 2, 3)
    assert PromptLookupDrafter(11).propose(prefix, 3).evidence == (0, 1, 2)


def test_many_words_of_the_question_are() -> None:
    quoted = tuple(range(100, 120))
    prefix = (*quoted, 7, 8, *quoted)
    assert PromptLookupDrafter().propose(prefix, 2).evidence == (20, 21)
    assert PromptLookupDrafter(len(prefix)).propose(prefix, 2).evidence == (12, 13)


def test_three_tokens_are_a_match() -> None:
    draft = PromptLookupDrafter().propose((9, 1, 2, 3, 7, 8, 1, 2, 3), 3)
    assert draft.tokens == (7, 8, 1)
    assert draft.evidence == (3, 4, 5)


def test_a_match_may_reach_to_the_end() -> None:
    draft = PromptLookupDrafter().propose((5,) * 6, 9)
    assert draft == Draft((5,), evidence=(5,)), "the latest of those of five tokens"


def test_a_longer_match_is_no_surer() -> None:
    text = tuple(range(100, 150))
    draft = PromptLookupDrafter().propose((*text, 1, 2, *text), 2)
    assert draft == Draft((1, 2), evidence=(32, 33))
