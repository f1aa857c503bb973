import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.errors import ContextOverflowError, InvalidValueError
from langchain_ralmspec.rapid import Draft, Drafter
from langchain_ralmspec.rapid.model_drafters import (
    RagDrafter,
    TextDrafter,
    require_same_vocabulary,
)
from langchain_ralmspec.speculation.acceptance import draw, softmax
from tests.unit_tests.rapid.fakes import (
    ENDS,
    N_VOCAB,
    OTHER_PIECES,
    PIECES,
    FakeModel,
    FakeWeights,
    model_drafter,
)

PROMPT = (2, 3, 4)  # of the drafter
TARGET_PROMPT = (9, 9, 9, 9, 9)
OTHER = FakeWeights(OTHER_PIECES, (0,), Path("other.gguf"))
TARGET: Any = FakeWeights()
PADDED = FakeWeights((*PIECES, *[b"x"] * 6), ENDS, Path("padded.gguf"))

seeds = st.integers(0, 10_000)
answers = st.lists(st.integers(2, N_VOCAB - 1), min_size=1, max_size=8)
lengths = st.integers(1, 6)
limits = st.sampled_from([0.0, 0.05, 0.3, 1.0])


def unsure(limit: float) -> Callable[[Sequence[float]], bool]:
    """Enough, once the product of the confidences is below a limit."""
    return lambda confidences: float(np.prod(confidences)) < limit


def drafter_of(kind: Any, model: Any, limit: float = 0.0, **more: Any) -> Any:
    usual: dict[str, Any] = {"n_prompt": len(TARGET_PROMPT), "is_enough": unsure(limit)}
    return model_drafter(kind, model=model, **usual | more)


rag: Any = partial(drafter_of, RagDrafter)
text: Any = partial(drafter_of, TextDrafter)


def model_for(make: Any, **settings: Any) -> FakeModel:
    """A model whose drafts ``rag`` or ``text`` can use."""
    return FakeModel(weights=OTHER if make is text else FakeWeights(), **settings)


def behind(answer: Sequence[int]) -> list[int]:
    return [*TARGET_PROMPT, *answer]


def grown(drafter: Drafter, seed: int, n_rounds: int, n: int) -> list[int]:
    """An answer that accepted some of each of a drafter's drafts, and other tokens."""
    chance, answer = random.Random(seed), [2]  # noqa: S311  not a secret
    for _ in range(n_rounds):
        draft = drafter.propose(behind(answer), n)
        right = draft.tokens[: chance.randint(0, len(draft.tokens))]
        answer += [token for token in right if token not in ENDS]
        answer.append(chance.randrange(2, N_VOCAB))
    return answer


def same(one: Draft, other: Draft) -> bool:
    if (one.probabilities is None) != (other.probabilities is None):
        return False
    if one.probabilities is not None and other.probabilities is not None:
        assert np.array_equal(one.probabilities, other.probabilities)
    return (one.tokens, one.evidence) == (other.tokens, other.evidence)


@settings(max_examples=300)
@given(
    st.sampled_from([rag, text]),
    seeds,
    st.tuples(st.integers(0, 6), lengths),
    limits,
    st.sampled_from([None, 0.0, 0.9]),
)
def test_a_drafter_catches_up_with_whatever_was_kept_of_its_drafts(
    make: Any, seed: int, sizes: tuple[int, int], limit: float, heat: float | None
) -> None:
    n_rounds, n = sizes

    def fresh() -> Any:
        if make is text:
            return text(FakeModel(seed, weights=OTHER), limit)
        sampler = None if heat is None else Sampler(heat, seed=seed)
        return rag(FakeModel(seed, weights=PADDED), limit, sampler=sampler)

    drafter = fresh()
    answer = grown(drafter, seed, n_rounds, n)
    draft = drafter.propose(behind(answer), n)
    assert same(draft, fresh().propose(behind(answer), n))


@settings(max_examples=200)
@given(seeds, answers, lengths, limits)
def test_rag_writes_the_most_probable_tokens(
    seed: int, answer: list[int], n: int, limit: float
) -> None:
    model = FakeModel(seed, weights=PADDED)

    draft = rag(model, limit).propose(behind(answer), n)

    tokens, confidences = list[int](), list[float]()
    while len(tokens) < n and not unsure(limit)(confidences or [1.0]):
        logits = model.logits([*PROMPT, *answer, *tokens])
        token = int(logits.argmax())
        if token >= N_VOCAB:
            break
        tokens.append(token)
        confidences.append(float(softmax(logits).max()))
        if token in ENDS:
            break
    assert draft == Draft(tuple(tokens), evidence=tuple(confidences))


@settings(max_examples=150)
@given(seeds, answers, lengths, st.sampled_from([0.0, 0.8]))
def test_for_transfer_rag_draws_from_the_distributions_it_gives(
    seed: int, answer: list[int], n: int, temperature: float
) -> None:
    sampler = Sampler(temperature, top_k=6, repeat_penalty=1.5, seed=seed)
    model = FakeModel(seed)

    draft = rag(model, sampler=sampler).propose(behind(answer), n)

    assert draft.probabilities is not None
    written = [*answer]
    for token, row, sure in zip(
        draft.tokens, draft.probabilities, draft.evidence, strict=True
    ):
        logits = model.logits([*PROMPT, *written])
        if temperature:
            assert row == pytest.approx(sampler.probabilities(logits, written))
            # The target's acceptance uses the first two.
            assert token == draw(row, sampler.uniforms(len(written), 3)[2])
        else:  # repetition is penalised as the target does
            logits = sampler.penalized(logits, written)
            assert row == pytest.approx(softmax(logits))
            assert token == logits.argmax()
        assert sure == pytest.approx(row.max())
        written.append(token)


def test_a_penalty_changes_what_greedy_transfer_drafts() -> None:
    def drafted(seed: int, penalty: float) -> Any:
        drafter = rag(FakeModel(seed), sampler=Sampler(repeat_penalty=penalty))
        return drafter.propose(behind([2, 3, 4, 5]), 6)

    assert any(drafted(n, 1.0).tokens != drafted(n, 3.0).tokens for n in range(20))


def test_rag_stops_behind_an_end_token() -> None:
    model = FakeModel(end_bias=99)
    draft = rag(model).propose(behind([2]), 6)
    assert len(draft.tokens) == 1
    assert draft.tokens[0] in ENDS


def test_rag_is_asked_what_is_enough_behind_every_token() -> None:
    heard: list[int] = []

    def is_enough(confidences: Sequence[float]) -> bool:
        heard.append(len(confidences))
        return len(confidences) == 3

    drafter = rag(FakeModel(end_bias=-99), is_enough=is_enough)
    assert len(drafter.propose(behind([2]), 6).tokens) == 3
    assert heard == [1, 2, 3]


class Padding(FakeModel):
    """Writes a token of the padding behind an ``a``."""

    def logits(self, tokens: Sequence[int]) -> Any:
        row = np.zeros(self.weights.n_vocab, np.float32)
        row[N_VOCAB + 1 if tokens[-1] == 2 else 2] = 5
        return row


def test_padding_is_never_proposed() -> None:
    drafter = rag(Padding(weights=PADDED))
    assert drafter.propose(behind([3]), 6).tokens == (2,)
    assert drafter.propose(behind([3, 2]), 6) == Draft()
    assert drafter.propose(behind([3, 2, 4]), 6).tokens == (2,)


def test_a_smaller_vocabulary_has_no_probability_for_the_rest() -> None:
    small = FakeModel(weights=FakeWeights(PIECES[:8]))
    draft = rag(small, sampler=Sampler()).propose(behind([2]), 4)
    assert draft.probabilities is not None
    assert draft.probabilities.shape == (len(draft.tokens), N_VOCAB)
    assert not draft.probabilities[:, 8:].any()


@pytest.mark.parametrize("make", [rag, text])
def test_the_prompt_is_made_once_when_it_is_needed_and_its_kv_not_kept(
    make: Any,
) -> None:
    model = model_for(make)
    drafter = make(model)
    assert not model.paths

    for answer in ([2], [2, 3], [4]):
        drafter.propose(behind(answer), 3)

    assert len(model.paths) == 1
    assert not model.kept


@pytest.mark.parametrize("make", [rag, text])
def test_no_more_is_decoded_than_is_needed(make: Any) -> None:
    sizes: list[int] = []

    def cost(size: int) -> float:
        sizes.append(size)
        return 0.0

    weights = FakeWeights(OTHER_PIECES[:7], (0,)) if make is text else FakeWeights()
    model = FakeModel(weights=weights, cost=cost, end_bias=-99)
    drafter = make(model)

    drafter.propose(behind([2, 3]), 4)

    # The prompt, the answer, and all drafted tokens but the last.
    assert sizes == [3, 2, 1, 1, 1]


@pytest.mark.parametrize("make", [rag, text])
def test_a_full_context_is_said(make: Any) -> None:
    with pytest.raises(ContextOverflowError):
        make(model_for(make, n_ctx=5)).propose(behind([2, 3, 4]), 3)


@settings(max_examples=400)
@given(seeds, answers, lengths, limits)
def test_text_is_tokenized_for_the_target_with_the_least_confidence(
    seed: int, answer: list[int], n: int, limit: float
) -> None:
    model = FakeModel(seed, weights=OTHER)

    draft = text(model, limit).propose(behind(answer), n)

    said = b"".join(map(TARGET.piece, answer))
    own = OTHER.tokenize(said.decode("utf-8", "ignore"))
    if not own or is_unfinished(said):
        assert draft == Draft()
        return
    data, confidences, sure = b"", list[float](), list[float]()  # sure: of each byte
    while len(confidences) < n and not unsure(limit)(confidences or [1.0]):
        logits = model.logits([*PROMPT, *own])
        token = int(logits.argmax())
        if token == 0:
            break
        own.append(token)
        confidences.append(float(softmax(logits)[token]))
        data += OTHER.piece(token)
        sure += [confidences[-1]] * len(OTHER.piece(token))
    # What is no text, or not yet, is left out, and what is behind it.
    whole = max(size for size in range(len(data) + 1) if is_text(data[:size]))
    expected = TARGET.tokenize(data[:whole].decode())[:n]
    assert draft.tokens == tuple(expected)
    evidence, start = [], 0
    for token in expected:
        end = start + len(TARGET.piece(token))
        evidence.append(min(sure[start:end]))
        start = end
    assert draft.evidence == tuple(evidence)
    assert draft.probabilities is None


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_unfinished(data: bytes) -> bool:
    return data.endswith(b"\xc3")


class Script(FakeModel):
    """Writes given tokens behind its prompt, and those alone."""

    script: tuple[int, ...] = ()

    def logits(self, tokens: Sequence[int]) -> Any:
        at = len(tokens) - len(PROMPT)
        row = np.zeros(self.weights.n_vocab, np.float32)
        row[self.script[at] if at < len(self.script) else 0] = 5
        return row


def scripted(*script: int) -> Any:
    model = Script(weights=OTHER)
    model.script = script
    return text(model)


@pytest.mark.parametrize(
    ("script", "n", "tokens"),
    [
        # "a" is said; then "é" and "€", whose bytes the two vocabularies cut otherwise.
        ((1, 10, 8, 9, 2), 9, (8, 9, 10, 3)),
        # A character that is only begun is left out.
        ((1, 2, 8), 9, (3,)),
        ((1, 2, 8, 9), 2, (3,)),
        ((1, 8), 9, ()),
        # It stops at an end token.
        ((1, 0, 2, 2), 9, ()),
        ((1, 2, 0, 2), 9, (3,)),
        # "bc" is one token there and two here: no more than were asked for.
        ((1, 4, 4, 4), 3, (3, 4, 3)),
    ],
)
def test_a_text_is_cut_anew_for_the_target(
    script: tuple[int, ...], n: int, tokens: tuple[int, ...]
) -> None:
    draft = scripted(*script).propose(behind([2]), n)
    assert draft.tokens == tokens
    assert len(draft.evidence) == len(tokens)


def test_behind_an_unfinished_character_or_no_text_nothing_is_drafted() -> None:
    drafter = text(FakeModel(weights=OTHER, end_bias=-99))
    assert drafter.propose(behind([2]), 3).tokens
    assert drafter.propose(behind([2, 8]), 3) == Draft()
    assert drafter.propose(behind([2, 8, 9]), 3).tokens
    assert text(FakeModel(weights=OTHER)).propose(behind([11]), 3) == Draft()


def test_vocabularies_may_differ_in_padding_only() -> None:
    padded: Any = PADDED
    require_same_vocabulary(TARGET, padded)
    require_same_vocabulary(padded, TARGET)
    same_file: Any = FakeWeights(OTHER_PIECES)
    require_same_vocabulary(TARGET, same_file)


def test_another_vocabulary_is_refused_with_a_way_out() -> None:
    other: Any = FakeWeights((*PIECES[:5], b"ba", *PIECES[6:]), ENDS, Path("b.gguf"))
    with pytest.raises(InvalidValueError) as refused:
        require_same_vocabulary(TARGET, other)
    said = str(refused.value)
    assert "token 5 is 'ba' there and 'ab' here" in said
    assert "drafter='text:b.gguf'" in said
    assert "'target.gguf'" in said
