"""kNN-LM decoding, sequential and speculative (RaLMSpec section 5.4).

The sequential loop searches the datastore before every token. The speculative one
guesses a stride of tokens with neighbours that are had cheaply, by probing a part of
the datastore or from a cache, then searches for all of them in one batch: the hidden
states that it met are the queries. Tokens are compared, not neighbours. At the first
wrong one the right token follows from logits that are there already, and what was
decoded behind it is rolled back.

Both loops decode token by token, in calls of one shape, and choose by one function,
so that a kept token is the sequential loop's to the bit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.knnlm.cache import NeighbourCache
from langchain_ralmspec.knnlm.mixture import Neighbours
from langchain_ralmspec.speculation import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from langchain_ralmspec.answer.sampling import Sampler
    from langchain_ralmspec.answer.transcript import Transcript
    from langchain_ralmspec.knnlm.mixture import Mixture
    from langchain_ralmspec.speculation import StrideScheduler

CACHED_NEIGHBOURS = 64
"""Neighbours of a verified query that enter the cache, if k is less.

An exact search finds them for next to nothing, and guesses get better by them.
"""

_LATEST = 64  # searches whose finds enter the cache
_POLICY = "lookup"


class Path(Protocol):
    """A sequence of the engine."""

    @property
    def length(self) -> int:
        """Tokens decoded so far."""
        ...

    def observe(
        self, tokens: Sequence[int], *, n_logits: int = 1
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Decode; the logits behind the last tokens, and all hidden states."""
        ...

    def truncate(self, length: int) -> None:
        """Roll back."""
        ...


class Datastore(Protocol):
    """What the loop asks of a datastore."""

    top_k_is_stable: bool
    dimension: int
    can_probe: bool

    def prepare(self) -> None:
        """Make what the first searches and probes would make."""
        ...

    def probe(self, query: NDArray[np.float32], k: int) -> Neighbours:
        """About the ``k`` nearest entries, much sooner than by a search."""
        ...

    def search(self, queries: NDArray[np.float32], k: int) -> list[Neighbours]:
        """The ``k`` nearest entries of every query."""
        ...

    def read(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Keys and tokens of rows."""
        ...

    def __len__(self) -> int:
        """Number of entries."""
        ...


@dataclass(slots=True)
class NeighbourRequest:
    """One text to be continued.

    Attributes:
        prompt: tokens, at least one.
        open_path: gives a sequence that holds some tokens.
        datastore: is searched.
        k: neighbours that vote.
        mixture: of their votes and the model's.
        transcript: receives the text.
        sampler: draws tokens; by position, so that a second draw is the first.
        stats: counts and seconds.
    """

    prompt: tuple[int, ...]
    open_path: Callable[[tuple[int, ...]], Path]
    datastore: Datastore
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


def generate(
    request: NeighbourRequest, scheduler: StrideScheduler | None
) -> Generator[Committed, None, None]:
    """Write the text; without a scheduler, token by token."""
    text = _Text(request, scheduler)
    while request.transcript.finish_reason is None:
        yield text.next()


class _Text:
    """A text being written, always at a verified point between two calls."""

    def __init__(
        self, request: NeighbourRequest, scheduler: StrideScheduler | None
    ) -> None:
        self._request, self._scheduler = request, scheduler
        datastore, n = request.datastore, len(request.datastore)
        self._width = request.k
        self._cache: NeighbourCache | None = None
        # Goes into the cache when there is something to guess, which may be never.
        self._found = deque[Neighbours](maxlen=_LATEST)
        if scheduler is not None and not datastore.can_probe:
            self._cache = NeighbourCache(datastore.read, n, datastore.dimension)
            if datastore.top_k_is_stable:  # else a wider search might find others
                self._width = max(request.k, min(CACHED_NEIGHBOURS, n))
        # The prompt is read before any loop; it counts in the seconds of all.
        self._path = request.open_path(request.prompt[:-1])
        self._state = self._decode(request.prompt[-1])
        self._n_prompt = self._path.length

    def next(self) -> Committed:
        """Write on to the next verified point."""
        plan = Plan()
        if self._scheduler is not None:
            if self._cache is None or self._found or len(self._cache):
                plan = self._scheduler.plan()
            plans = self._request.stats.plans
            plans[plan.label] = plans.get(plan.label, 0) + 1
        if plan.policy is not None:
            # What is made once, or was left over by steps without guesses, is not what
            # a guess or a verification costs: it would put the scheduler off both.
            self._request.datastore.prepare()
            self._take_in()
        start, n_before = time.perf_counter(), len(self._request.transcript)
        if plan.policy is None:
            written = self._retrieve()
        else:
            written = self._speculate(plan.stride)
        n_steps = len(self._request.transcript) - n_before
        if self._scheduler is None or not n_steps:
            return written
        if plan.policy is None:
            self._scheduler.estimates.decay()
        elif plan.rate:
            seconds = time.perf_counter() - start
            self._scheduler.estimates.followed(
                plan, n_steps=n_steps, seconds=seconds, predicted=plan.rate
            )
        return written

    def _retrieve(self) -> Committed:
        """One token as the sequential loop writes it."""
        start = time.perf_counter()
        (token,) = self._truth([self._state])
        seconds = time.perf_counter() - start
        self._request.stats.spend(seconds, "waiting")
        if self._scheduler is not None:
            self._scheduler.estimates.retrieved(seconds, 0.0, 0.0)
        return self._commit([token])

    def _speculate(self, stride: int) -> Committed:
        """Guess a stride of tokens, verify them at once, keep what is right."""
        states, guesses = self._guess(stride)
        start = time.perf_counter()
        tokens = self._truth(states, guesses)
        self._take_in()
        seconds = time.perf_counter() - start
        n_right = len(tokens) - (tokens[-1] != guesses[len(tokens) - 1])
        self._learn(len(guesses), n_right, len(tokens), seconds)
        return self._commit(tokens)

    def _guess(self, stride: int) -> tuple[list[_State], list[int]]:
        """Write on with neighbours at hand; the transcript is as before then."""
        request, transcript = self._request, self._request.transcript
        assert self._scheduler is not None  # noqa: S101  only then there are guesses
        n_before, states, guesses = len(transcript), [self._state], list[int]()
        while True:
            start = time.perf_counter()
            token = self._choose(states[-1], self._near(states[-1].hidden))
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
        return states, guesses

    def _near(self, query: NDArray[np.float32]) -> Neighbours:
        """Neighbours to guess with: by probing the datastore, else from the cache."""
        if self._cache is None:
            return self._request.datastore.probe(query, self._request.k)
        return self._cache.nearest(query, self._request.k)

    def _take_in(self) -> None:
        """Cache what searches have found since the last guess."""
        if self._cache is not None:
            self._cache.add([self._found.popleft() for _ in range(len(self._found))])

    def _truth(
        self, states: Sequence[_State], guesses: Sequence[int] | None = None
    ) -> list[int]:
        """The tokens by the datastore, up to the first that was not guessed.

        The transcript is taken to end before the first of ``states``.
        """
        request, transcript = self._request, self._request.transcript
        queries = np.stack([state.hidden for state in states])
        with request.stats.timing("searching"):
            found = request.datastore.search(queries, self._width)
        request.stats.store_calls += 1
        request.stats.queries += len(states)
        n_before, tokens = len(transcript), list[int]()
        for number, (state, near) in enumerate(zip(states, found, strict=True)):
            tokens.append(self._choose(state, near.first(request.k)))
            if guesses is None or tokens[-1] != guesses[number]:
                break
            transcript.append(tokens[-1])
        transcript.truncate(n_before)
        if self._cache is not None:
            # Behind a wrong guess the queries are for a text that is not written.
            self._found += (each for each in found[: len(tokens)] if len(each.rows))
        return tokens

    def _commit(self, tokens: Sequence[int]) -> Committed:
        """Add final tokens, and bring the path behind them."""
        transcript, stats = self._request.transcript, self._request.stats
        n_before = len(transcript)
        for token in tokens:
            transcript.append(token)
        written = tuple(transcript.tokens[n_before:])
        stats.steps += len(tokens)
        stats.tokens_kept += len(written)
        length = self._n_prompt + n_before + len(tokens) - 1
        start = time.perf_counter()
        if self._path.length > length:
            stats.tokens_rolled_back += self._path.length - length
            self._path.truncate(length)
        if transcript.finish_reason is None:
            self._state = self._decode(tokens[-1])
        stats.spend(time.perf_counter() - start, "generating")
        return Committed(written, transcript.text_bytes(n_before, len(transcript)))

    def _decode(self, token: int) -> _State:
        start = time.perf_counter()
        logits, hidden = self._path.observe([token])
        if self._scheduler is not None:
            self._scheduler.estimates.generated(
                time.perf_counter() - start, changed=False, overlapped=False
            )
        return _State(logits[-1], hidden[-1])

    def _choose(self, state: _State, near: Neighbours) -> int:
        """The one place where a token is chosen, for guesses and for good."""
        sampler, generated = self._request.sampler, self._request.transcript.tokens
        logits = sampler.penalized(state.logits, generated)
        log_p = self._request.mixture.log_probabilities(logits, near)
        return sampler.draw(log_p, len(generated))

    def _learn(
        self, n_guesses: int, n_right: int, n_tokens: int, seconds: float
    ) -> None:
        """Keep what a verification tells about costs and guesses."""
        stats, scheduler = self._request.stats, self._scheduler
        assert scheduler is not None  # noqa: S101  else nothing was guessed
        stats.spend(seconds, "waiting")
        stats.verifications.append((n_guesses, seconds))
        stats.rounds += 1
        # Guesses behind a wrong one were made for a text that never was.
        stats.guesses += n_tokens
        stats.right_guesses += n_right
        scheduler.estimates.verified(_POLICY, n_guesses, seconds, overlapped=False)
        for number in range(n_tokens):
            scheduler.estimates.judged(_POLICY, right=number < n_right)
