"""kNN-LM decoding, sequential and speculative (RaLMSpec section 5.4).

The sequential loop searches the datastore before every token. The speculative one
guesses a stride of tokens with neighbours that are had cheaply, by probing a part of
the datastore, then searches for all of them in one batch: the hidden states that it met
are the queries. Tokens are compared, not neighbours. At the first wrong one the right
token follows from logits that are there already, and what was decoded behind it is
rolled back.

Both loops decode token by token, in calls of one shape, and choose by one function,
so that a kept token is the sequential loop's to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.answer.token_loop import TokenLoop
from langchain_ralmspec.knnlm.mixture import Neighbours
from langchain_ralmspec.speculation import Plan
from langchain_ralmspec.speculation.costs import Spent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from langchain_ralmspec.answer.events import Committed
    from langchain_ralmspec.answer.sampling import Sampler
    from langchain_ralmspec.answer.token_loop import Verdict
    from langchain_ralmspec.answer.transcript import Transcript
    from langchain_ralmspec.engine import Sequence as Path
    from langchain_ralmspec.knnlm.datastore import KNNDatastore
    from langchain_ralmspec.knnlm.mixture import Mixture
    from langchain_ralmspec.speculation import Scheduler

_POLICY = "lookup"


@dataclass(frozen=True, slots=True)
class NeighbourRequest:
    """One text to be continued.

    Attributes:
        prompt: tokens, at least one.
        open_path: opens a sequence of the engine that holds the given tokens.
        datastore: finds the neighbours.
        k: number of neighbours that vote.
        mixture: mixes their votes with the model's probabilities.
        transcript: receives the text.
        sampler: draws tokens; by position, so that a second draw is the first.
        stats: counts and seconds.
    """

    prompt: tuple[int, ...]
    open_path: Callable[[tuple[int, ...]], Path]
    datastore: KNNDatastore
    k: int
    mixture: Mixture
    transcript: Transcript
    sampler: Sampler
    stats: SpeculationStats = field(default_factory=SpeculationStats)


@dataclass(frozen=True, slots=True)
class _State:
    """What the model knows before a token: its logits, and the query (hidden)."""

    logits: NDArray[np.float32]
    hidden: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Guesses:
    """Tokens that were guessed, to be verified by one search.

    Attributes:
        states: the model's before each token; without a guess, before the next one.
        tokens: ids, in order.
    """

    states: tuple[_State, ...]
    tokens: tuple[int, ...] = ()
    source: ClassVar[str] = _POLICY


_Found: TypeAlias = tuple[_State, Neighbours]


def generate(
    request: NeighbourRequest, scheduler: Scheduler | None
) -> Generator[Committed, None, None]:
    """Write the text; token by token if nothing schedules guesses or gives them."""
    yield from NeighbourLoop(request, scheduler).run()


class NeighbourLoop(TokenLoop[_Guesses, _Found]):
    """A text being written, always at a verified point between two rounds."""

    def __init__(self, request: NeighbourRequest, scheduler: Scheduler | None) -> None:
        """Read the prompt."""
        super().__init__(request.transcript)
        self._request, self._scheduler = request, scheduler
        # Without probing there is nothing to guess from.
        self._can_guess = request.datastore.can_probe
        self._plan = Plan()
        self._search_start = 0.0
        # The prompt is read before any loop; it counts in the seconds of all.
        self._path = request.open_path(request.prompt[:-1])
        self._state = self._decode(request.prompt[-1])

    def propose(self) -> _Guesses:
        """Guess as many tokens as the scheduler plans."""
        if self._scheduler is not None:
            self._plan = self._scheduler.plan() if self._can_guess else Plan()
            plans, label = self._request.stats.plans, self._plan.label
            plans[label] = plans.get(label, 0) + 1
        if self._plan.policy is None:
            return _Guesses((self._state,))
        # What is made once is not what a guess or a verification costs: it would put
        # the scheduler off both.
        self._request.datastore.prepare()
        return self._guess(self._plan.stride)

    def _guess(self, stride: int) -> _Guesses:
        """Write on with probed neighbours; the transcript is as before then."""
        request, transcript = self._request, self.transcript
        assert self._scheduler is not None  # noqa: S101  only then there are guesses
        n_before, states, guesses = len(transcript), [self._state], list[int]()
        while True:
            start = time.perf_counter()
            near = request.datastore.probe(states[-1].hidden, request.k)
            token = self._draw(states[-1], near)
            seconds = time.perf_counter() - start
            request.stats.spend(seconds, "guessing")
            self._scheduler.estimates.guessed(_POLICY, seconds)
            guesses.append(token)
            is_last = transcript.append(token) is not None
            if is_last or len(guesses) == stride:
                break
            with request.stats.timing("generating"):
                states.append(self._decode(token))
        transcript.truncate(n_before)
        return _Guesses(tuple(states), tuple(guesses))

    def verify(self, proposal: _Guesses) -> Sequence[_Found]:
        """Search for the neighbours of all states at once."""
        request, stats = self._request, self._request.stats
        self._search_start = time.perf_counter()
        queries = np.stack([state.hidden for state in proposal.states])
        with stats.timing("searching"):
            found = request.datastore.search(queries, request.k)
        stats.store_calls += 1
        stats.queries += len(queries)
        return list(zip(proposal.states, found, strict=True))

    def choose(self, truth: _Found, proposal: _Guesses, number: int) -> int:
        """Choose by the neighbours that the search has found."""
        return self._draw(*truth)

    def _draw(self, state: _State, near: Neighbours) -> int:
        """The one place where a token is chosen, for guesses and for good."""
        sampler, generated = self._request.sampler, self.transcript.tokens
        logits = sampler.penalized(state.logits, generated)
        log_p = self._request.mixture.log_probabilities(logits, near)
        permitted = sampler.permitted(log_p, generated)
        if np.isneginf(permitted).all():  # no neighbour's vote may follow
            permitted = sampler.permitted(logits, generated)
        return sampler.draw(permitted, len(generated))

    def settle(self, proposal: _Guesses, verdict: Verdict) -> None:
        """Bring the path behind the text, and keep what the round tells about costs."""
        stats, committed = self._request.stats, verdict.committed
        seconds = time.perf_counter() - self._search_start
        stats.spend(seconds, "waiting")
        stats.steps += verdict.num_chosen_tokens
        stats.tokens_kept += len(committed.tokens)
        self._learn_from_search(proposal, verdict, seconds)
        with stats.timing("generating"):
            self._move_behind(verdict)
        if self._scheduler is not None and committed.tokens and not proposal.tokens:
            self._scheduler.estimates.decay()

    def _move_behind(self, verdict: Verdict) -> None:
        """Roll the path back to the chosen tokens but the last, and decode that."""
        n_before = len(self.transcript) - len(verdict.committed.tokens)
        length = len(self._request.prompt) + n_before + verdict.num_chosen_tokens - 1
        if self._path.length > length:
            self._request.stats.tokens_rolled_back += self._path.length - length
            self._path.truncate(length)
        if self.transcript.finish_reason is None:
            self._state = self._decode(verdict.committed.tokens[-1])

    def _decode(self, token: int) -> _State:
        start = time.perf_counter()
        logits, hidden = self._path.observe([token])
        if self._scheduler is not None:
            self._scheduler.estimates.generated(
                time.perf_counter() - start, changed=False, overlapped=False
            )
        return _State(logits[-1], hidden[-1])

    def _learn_from_search(
        self, proposal: _Guesses, verdict: Verdict, seconds: float
    ) -> None:
        """Learn what the search cost, and which guesses were right."""
        stats, num_guesses = self._request.stats, len(proposal.tokens)
        if self._scheduler is None:
            return
        estimates = self._scheduler.estimates
        if not num_guesses:
            estimates.retrieved(Spent(), Spent(seconds))
            return
        stats.verifications.append((num_guesses, seconds))
        stats.rounds += 1
        # Guesses behind a wrong one were made for a text that never was.
        stats.guesses += verdict.num_chosen_tokens
        stats.right_guesses += verdict.num_accepted_tokens
        estimates.verified(_POLICY, num_guesses, seconds, overlapped=False)
        for number in range(verdict.num_chosen_tokens):
            right = number < verdict.num_accepted_tokens
            estimates.judged(_POLICY, right=right)
