"""Knowledge transfer: what comes out of the loop is what the formulas say."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.rapid import Draft, Drafter, DraftStats, generate
from langchain_ralmspec.speculation import Acceptance
from langchain_ralmspec.speculation.acceptance import Transfer, draw, softmax
from tests.unit_tests.rapid.fakes import (
    ENDS,
    N_VOCAB,
    FakeModel,
    FakeWeights,
    GivenCosts,
    Oracle,
    draft_scheduler,
    drafter,
    make_request,
    model_drafter,
)

Array = NDArray[np.float64]

P = np.array([0.5, 0.3, 0.2])
Q = np.array([0.2, 0.1, 0.7])
LETTERS = FakeWeights((b"a", b"b", b"c"), ())
N_POINTS = 3000


@dataclass(frozen=True)
class Given(Sampler):
    """Draws the second token with given numbers; all tokens, at temperature 1."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    numbers: tuple[float, ...] = ()

    def uniforms(self, position: int, n: int) -> Array:
        numbers = self.numbers if position == 1 else (0.3, 0.6, 0.8)
        return np.array(numbers[:n])


@dataclass
class Fixed(FakeModel):
    """Says the same whatever it has read, but for what ``after`` a token is given."""

    probabilities: Array = field(default_factory=lambda: P)
    after: dict[int, Array] = field(default_factory=dict)

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        row = self.after.get(tokens[-1], self.probabilities)
        return np.log(row).astype(np.float32)


class Drawing:
    """Drafts one token from Q by the third random number."""

    name = "drawing"

    def __init__(self, uniform: float) -> None:
        self._token = draw(Q, uniform)

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        return Draft((self._token,), Q[np.newaxis], (float(Q[self._token]),))


def run_of(target: FakeModel, **settings: Any) -> Run[DraftStats]:
    """An answer, written to its end."""
    request = make_request(target, **settings)
    run = Run(generate(request), request)
    list(run)
    return run


def points(n: int) -> Array:
    """Spread evenly over the cube (Roberts' R3 sequence)."""
    g = 1.2207440846057596
    steps = np.array([1 / g, 1 / g**2, 1 / g**3])
    cube: Array = (0.5 + np.arange(n)[:, np.newaxis] * steps) % 1
    return cube


def enriched(p: Array, q: Array, eta: float, tail: float = 0.1) -> Array:
    p_hat = np.exp(np.log(p) + eta * (q - p))
    p_hat /= p_hat.sum()
    guarded = np.where(p_hat < tail * p_hat.max(), p, p_hat)
    normalized: Array = guarded / guarded.sum()
    return normalized


def law_of_second(acceptance: Acceptance) -> Array:
    """How often each token comes behind the first, with a draft of one token."""
    counts = np.zeros(3)
    for numbers in points(N_POINTS):
        run = run_of(
            Fixed(weights=LETTERS),
            document=(0,),
            tail=(1,),
            sampler=Given(numbers=tuple(numbers)),
            acceptance=acceptance,
            length=1,
            drafters=[Drawing(numbers[2])],
            max_tokens=3,
        )
        assert run.stats.rounds[0][1] == 1
        counts[run.tokens[1]] += 1
    return counts / N_POINTS


@pytest.mark.parametrize("eta", [1.0, 5.0, 20.0])
def test_the_paper_s_law(eta: float) -> None:
    p_hat = enriched(P, Q, eta)
    kept = np.minimum(Q, p_hat)
    residual = np.maximum(P - kept, 0)
    expected = kept + (1 - kept.sum()) * residual / residual.sum()

    seen = law_of_second(Acceptance("paper", eta))

    assert seen == pytest.approx(expected, abs=0.01)
    distance = np.abs(seen - P).sum() / 2
    assert distance == pytest.approx(np.maximum(kept - P, 0).sum(), abs=0.015)
    assert distance > 0.02, "an example in which transfer changes something"


@pytest.mark.parametrize("eta", [1.0, 5.0, 20.0])
def test_the_exact_law(eta: float) -> None:
    seen = law_of_second(Acceptance("exact", eta))
    assert seen == pytest.approx(enriched(P, Q, eta), abs=0.01)


class Recording:
    """Keeps what a drafter proposed."""

    def __init__(self, drafter: Drafter) -> None:
        self.name, self.drafter = drafter.name, drafter
        self.drafts: list[Draft] = []

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        self.drafts.append(self.drafter.propose(prefix, n))
        return self.drafts[-1]


def transferred(
    seed: int, acceptance: Acceptance, sampler: Sampler, *, shape: str = "probabilities"
) -> tuple[Run[DraftStats], list[Draft]]:
    """A run with a drafter that has distributions, and what it proposed."""
    plain = run_of(FakeModel(seed), sampler=sampler)
    oracle = Oracle([*plain.tokens, ENDS[0]], 6, seed=seed, shape=shape)
    recording = Recording(oracle)
    run = run_of(
        FakeModel(seed), sampler=sampler, acceptance=acceptance, drafters=[recording]
    )
    return run, recording.drafts


@settings(max_examples=200)
@given(
    st.integers(0, 9999), st.sampled_from([0.5, 5.0, 20.0]), st.sampled_from([1.0, 1.5])
)
def test_greedy_transfer_takes_the_best_of_the_shifted_logits(
    seed: int, eta: float, penalty: float
) -> None:
    sampler = Sampler(repeat_penalty=penalty)
    run, drafts = transferred(seed, Acceptance("exact", eta), sampler)

    model, prompt, told = FakeModel(seed), [2, 3, 4, 2, 3, 6], list[int]()

    def target() -> NDArray[np.float32]:
        return sampler.penalized(model.logits([*prompt, *told]), told)

    def over(token: int) -> bool:
        if token not in ENDS:
            told.append(token)
        return token in ENDS or len(told) == 24

    ended = over(int(target().argmax()))
    coming = iter(drafts)
    while not ended:
        # In the last round there is room for the target's own token only.
        draft = next(coming) if len(told) < 23 else Draft()
        assert draft.probabilities is not None or not draft.tokens
        for number, drafted in enumerate(draft.tokens[:4]):
            assert draft.probabilities is not None
            z, q = target(), draft.probabilities[number]
            best = int((z + eta * (q - softmax(z))).argmax())
            ended = over(best)
            if ended or best != drafted:
                break
        else:
            ended = over(int(target().argmax()))
    assert run.tokens == told


@settings(max_examples=200)
@given(st.integers(0, 9999), st.sampled_from(["off", "paper", "exact"]), st.booleans())
def test_without_strength_or_distributions_tokens_are_those_of_plain_decoding(
    seed: int, transfer: Transfer, drawn: bool
) -> None:
    sampler = Sampler(temperature=float(drawn), seed=seed)
    plain = run_of(FakeModel(seed), sampler=sampler)
    assert transferred(seed, Acceptance(transfer), sampler)[0].tokens == plain.tokens
    strong = Acceptance(transfer, 9.0)
    assert (
        transferred(seed, strong, sampler, shape="evidence")[0].tokens == plain.tokens
    )


@settings(max_examples=100)
@given(st.integers(0, 9999), st.sampled_from(["paper", "exact"]), st.booleans())
def test_a_seed_repeats_itself(seed: int, transfer: Transfer, drawn: bool) -> None:
    sampler = Sampler(temperature=float(drawn), seed=seed)
    acceptance = Acceptance(transfer, 5.0)
    first, second = (transferred(seed, acceptance, sampler)[0] for _ in range(2))
    assert first.tokens == second.tokens
    assert first.stats.rounds == second.stats.rounds


@pytest.mark.parametrize("transfer", ["paper", "exact"])
def test_transfer_changes_answers(transfer: Transfer) -> None:
    changed = 0
    for seed in range(20):
        run, _ = transferred(seed, Acceptance(transfer, 20.0), Sampler())
        changed += run.tokens != run_of(FakeModel(seed)).tokens
    assert changed > 3


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("padding", [0, 3])
def test_a_model_s_distributions_are_the_target_s_size(
    temperature: float, padding: int
) -> None:
    sampler = Sampler(temperature=temperature, top_k=0, top_p=1.0, seed=1)
    weights = FakeWeights((*FakeWeights().pieces, *[b"x"] * padding))
    drafter = Recording(
        model_drafter(
            model=FakeModel(weights=weights),
            is_enough=lambda _: False,
            sampler=sampler,
        )
    )
    run = run_of(
        FakeModel(end_bias=-9),
        sampler=sampler,
        acceptance=Acceptance("exact", 5.0),
        drafters=[drafter],
        max_tokens=60,
    )
    drafts = [draft for draft in drafter.drafts if draft.tokens]
    assert drafts
    for draft in drafts:
        q = draft.probabilities
        assert q is not None
        assert q.shape == (len(draft.tokens), N_VOCAB)
        assert q.sum(axis=1) == pytest.approx(1.0)
        assert all(q[i][token] > 0 for i, token in enumerate(draft.tokens))
    assert any(right for _, _, right in run.stats.rounds)


def test_which_drafts_are_verified_leaves_the_law_alone() -> None:
    # At next to no strength the law is the target's, and must stay it though drafts
    # are verified or not by how sure the drafter is.
    q = np.array([0.45, 0.1, 0.45])
    after = {2: np.array([0.02, 0.96, 0.02])}  # very sure behind one of the tokens
    costs = GivenCosts({1: 1.0, 2: 1.62, 3: 1.9, 4: 4.0})
    counts, lengths = np.zeros(3), set()
    for numbers in points(N_POINTS):
        source = drafter(
            lambda sure: 0.1 if sure < 0.4 else 0.5 if sure < 0.9 else 0.99
        )
        source.token.add(1, 0.0)
        scheduler = draft_scheduler({"self": source}, costs)
        sampler = Given(numbers=tuple(numbers))
        author = model_drafter(
            model=Fixed(weights=LETTERS, probabilities=q, after=after),
            prompt=lambda: (0,),
            target=LETTERS,
            n_prompt=2,
            scheduler=scheduler,
            sampler=sampler,
        )
        run = run_of(
            Fixed(weights=LETTERS),
            document=(0,),
            tail=(1,),
            sampler=sampler,
            acceptance=Acceptance("exact", 1e-9),
            scheduler=scheduler,
            drafters=[author],
            max_tokens=6,
        )
        counts[run.tokens[1]] += 1
        lengths.add(run.stats.rounds[0][1])
    assert counts / N_POINTS == pytest.approx(P, abs=0.01)
    assert lengths == {1, 2}, "an example in which it makes a difference"
