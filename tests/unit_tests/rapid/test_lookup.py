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


TEXT = tuple(range(100, 150))
ASKED = (*TEXT, 1, *TEXT[:6])  # the question has six words of the text
ASKED_MORE = (*TEXT, 1, *TEXT[:24])
WORDS = (1, 2, 3, 4, 7, 8, 5, 1, 2, 3, 4)  # the last one was written
QUOTED_TWICE = (*range(10, 20), 1, 17, 18, 19, 5, 6, 2, *range(10, 16), 3, 17, 18, 19)


@pytest.mark.parametrize(
    ("prefix", "n_prompt", "tokens", "evidence"),
    [
        # Nothing is proposed where nothing matches; three tokens are a match.
        *((tokens, 0, (), 0) for tokens in ((), (1,), (1, 2, 3), (1, 2, 1, 2))),
        *((tokens, 0, (), 0) for tokens in ((1, 2, 3, 4, 5, 6), (1, 2, 3, 9, 2, 3))),
        ((9, 1, 2, 3, 7, 8, 1, 2, 3), 0, (7, 8, 1), 3),
        # It may reach to the end: the latest of those of five tokens.
        ((5,) * 6, 0, (5,), 5),
        # A longer match is no surer.
        ((*TEXT, 1, 2, *TEXT), 0, (1, 2), 32),
        # A few words of the question are no evidence, many are.
        (WORDS, 0, (7, 8, 5), 4),
        (WORDS, 10, (7, 8, 5), 1),
        (WORDS, 11, (7, 8, 5), 0),
        ((*TEXT[:20], 7, 8, *TEXT[:20]), 0, (7, 8), 20),
        ((*TEXT[:20], 7, 8, *TEXT[:20]), 42, (7, 8), 12),
        # So it is where the model replaces a token, and goes on.
        ((*ASKED, 7, *TEXT[7:10]), 0, TEXT[10:12], 6 - 2 + 3),
        ((*ASKED, 7, *TEXT[7:10]), len(ASKED), TEXT[10:12], 3),
        ((*ASKED, 7, *TEXT[7:10]), len(ASKED) - 3, TEXT[10:12], 4),
        ((*ASKED_MORE, 7, *TEXT[25:28]), len(ASKED_MORE), TEXT[28:30], 24 - 2 + 3 - 8),
        ((*TEXT, 1, *TEXT[:8], 7, *TEXT[9:13]), 0, TEXT[13:15], 8 - 2 + 4),
        # Two in the place of one end a match, and so do too many that differ.
        ((*TEXT, 1, *TEXT[:8], 7, 7, *TEXT[9:12]), 0, TEXT[12:14], 3),
        ((*TEXT, 1, *TEXT[:4], 7, 7, 7, *TEXT[7:11]), 0, TEXT[11:13], 4),
        # Of two places, the one that was being quoted is continued.
        (QUOTED_TWICE, 0, (1, 17), 7),
    ],
)
def test_examples(
    prefix: tuple[int, ...], n_prompt: int, tokens: tuple[int, ...], evidence: int
) -> None:
    drafter = PromptLookupDrafter(n_prompt)
    expected = Draft(tokens, evidence=tuple(evidence + i for i in range(len(tokens))))
    assert drafter.propose(prefix, len(tokens) or 5) == expected
