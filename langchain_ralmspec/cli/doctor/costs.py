"""What a stack's parts cost, measured for a few seconds."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar

from langchain_ralmspec.cli.doctor.target import Target
from langchain_ralmspec.engine import Model
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.ralm import Session
from langchain_ralmspec.ralm.run import RetrievalRun
from langchain_ralmspec.speculation import GUESS_POLICIES, NEEDS_VECTOR
from langchain_ralmspec.speculation.measured import busy_share
from langchain_ralmspec.stores import Query

_T = TypeVar("_T")

BATCH = 8
"""Queries of the larger call that is measured."""

_PROMPT_TOKENS = 128  # as a document has
_ANSWER_TOKENS = 32
_STEP_TOKENS = 4
_QUERY_WORDS = 20
_STRIDE = 2  # guesses are judged up to the first wrong one: few at a time
_REPEATS = 5
_PATIENCE = 0.8  # seconds, after which no part is repeated once more
_ANSWER_PATIENCE = 4.0  # seconds, after which no further step is waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of the store.

    Attributes:
        with_vectors: whether its answer fills the cache that guesses look into.
        seconds: of the whole call.
        embedding: of these, seconds in the query encoder.
        waiting: seconds in the store in which the asking thread had nothing to do.
        embedding_waiting: likewise in the query encoder.
    """

    n_queries: int
    with_vectors: bool
    seconds: float
    embedding: float
    waiting: float
    embedding_waiting: float = 0.0

    @property
    def searching(self) -> float:
        """Seconds in the store."""
        return self.seconds - self.embedding


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """How many of ``n`` guesses were right, and how many of these were proven."""

    right: int
    n: int
    proven: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds, and how good guesses were.

    Attributes:
        prefill_rate: tokens of a prompt that are read in a second.
        decode: seconds of one token.
        step: *a*, seconds of a step, its share of new documents included.
        writing: of these, seconds in which the step's tokens are decoded.
        unchanged: seconds of a step under the documents of the step before.
        changed: seconds of one under others.
        calls: one and ``BATCH`` queries, without and with vectors.
        overlap: how many times as long writing takes while a call is out, for each
            policy: one that has looked its queries up has embedded them.
        guesses: of each policy that suits the store, in a short answer.
        can_prove: whether the store's answers to look-ups may be proven.
        fills_freely: whether look-ups have a cache whoever guesses.
    """

    prefill_rate: float
    decode: float
    step: float
    writing: float
    unchanged: float
    changed: float
    calls: tuple[Call, ...]
    overlap: dict[str, float]
    guesses: dict[str, Judged]
    can_prove: bool = False
    fills_freely: bool = False

    def call(self, n_queries: int, *, with_vectors: bool = False) -> Call:
        """The call of that kind."""
        wanted = (n_queries, with_vectors)
        return next(c for c in self.calls if (c.n_queries, c.with_vectors) == wanted)

    @property
    def retrieval(self) -> float:
        """*b(1)*."""
        return self.call(1).seconds

    @property
    def parts(self) -> dict[str, float]:
        """Where the seconds of a step of the sequential loop go."""
        call = self.call(1)
        embedding = call.embedding * _idle(call.embedding_waiting, call.embedding)
        searching = call.searching * _idle(call.waiting, call.searching)
        return {
            "waiting for embeddings": embedding,
            "waiting for the store": searching,
            "computing embeddings": call.embedding - embedding,
            "computing the search": call.searching - searching,
            "reading documents": self.step - self.writing,
            "writing": self.writing,
        }


def _idle(waiting: float, seconds: float) -> float:
    """Share of a call in which nothing computes here, as the scheduler sees it."""
    return 1 - busy_share(waiting / seconds) if seconds else 0.0


def measure(target: Target, question: str) -> Costs:
    """Measure a stack; loads what is not loaded yet, and that is not timed.

    Raises:
        InvalidValueError: the answer ended before its first step.
    """
    short = target.model_copy(
        update={"max_tokens": _ANSWER_TOKENS, "speculation": False}
    )
    _answer(short.model_copy(update={"max_tokens": 1}), question)  # loads everything
    run = _answer(short, question)
    if not run.tokens:
        raise InvalidValueError(
            f"the answer to {question!r} is empty, so no step can be measured; ask "
            "something else with --question"
        )
    # One for every call that is measured: a session embeds no query twice.
    new_session = partial(
        target.retriever.new_session,
        k=target.n_documents,
        prefetch_k=target.prefetch_k,
    )
    session = new_session()
    session.prepare()
    policies = session.usable(tuple(GUESS_POLICIES))
    texts = _queries(run, question)
    prompt = _tokens(target.engine, min(_PROMPT_TOKENS, target.engine.n_ctx // 2))

    def prefill() -> None:
        target.engine.open(prompt, keep=False)  # or it would be read from a folder

    write = _writer(target.engine, prompt)
    alone = _median(write)
    queries = target.retriever.store.encode(texts)
    beside = {}
    for policy, embedded in (("lookup", queries), ("same", list(map(Query, texts)))):
        with _asking(new_session, embedded):
            beside[policy] = _median(write)
    step = _usual_step(run)
    unchanged, changed = _by_documents(run, step)
    decode = alone / _STEP_TOKENS
    guesses = {"same": _repeated(run)}
    if any(NEEDS_VECTOR[policy] for policy in policies):  # a replica's is one as well
        guesses = {"lookup": _looked_up(short, question), **guesses}
    return Costs(
        prefill_rate=len(prompt) / _median(prefill),
        decode=decode,
        step=step,
        writing=min(step, decode * len(run.tokens) / run.stats.steps),
        unchanged=unchanged,
        changed=changed,
        calls=tuple(
            _measure_call(new_session, texts[:n], with_vectors=with_vectors)
            for n in (1, BATCH)
            for with_vectors in (False, True)
        ),
        # Less than 1 is noise.
        overlap={policy: max(1.0, s / alone) for policy, s in beside.items()},
        guesses=guesses,
        can_prove=session.measure(),
        fills_freely=session.fills_freely,
    )


def _answer(target: Target, question: str) -> RetrievalRun:
    """Answer as if it were the first question: no document's KV is there yet.

    A slow answer is broken off, so that a sick stack takes no minutes.
    """
    target.engine.forget_prefixes()
    run = target.start(question)
    start = time.perf_counter()
    for _ in run:
        if time.perf_counter() - start > _ANSWER_PATIENCE:
            break
    return run


def _looked_up(target: Target, question: str) -> Judged:
    """How often the best document in the cache was the right one."""
    settings = {"guess_policy": "lookup", "speculation_stride": _STRIDE}
    switches = {"speculation": True, "asynchronous": False}
    run = _answer(target.model_copy(update={**settings, **switches}), question)
    stats = run.stats
    return Judged(
        right=stats.right_guesses, n=stats.guesses, proven=stats.proven_guesses
    )


def _repeated(run: RetrievalRun) -> Judged:
    """How often a step had the documents of the one before it."""
    stayed = _stayed(run)
    return Judged(right=sum(stayed), n=len(stayed))


def _usual_step(run: RetrievalRun) -> float:
    """Seconds of a step without the first, which reads the whole prompt.

    Of all where there is no other, as in an answer from one retrieval.
    """
    written = [step.written for step in run.steps[1:] if step.written]
    if not written:
        return run.stats.seconds_generating / run.stats.steps
    return statistics.fmean(end - start for start, end in written)


def _by_documents(run: RetrievalRun, usual: float) -> tuple[float, float]:
    """Seconds of a step under the documents of the one before, and under others.

    Without the first, which reads the whole prompt; ``usual`` where none was of a kind.
    """
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for stayed, step in zip(_stayed(run), run.steps[1:], strict=True):
        if step.written:
            start, end = step.written
            seconds[stayed].append(end - start)
    unchanged = statistics.fmean(seconds[True] or [usual])
    return unchanged, max(unchanged, statistics.fmean(seconds[False] or [usual]))


def _stayed(run: RetrievalRun) -> list[bool]:
    """Whether each step but the first had the documents of the one before it."""
    documents = [[hit.id for hit in step.hits] for step in run.steps]
    return [one == other for one, other in pairwise(documents)]


def _queries(run: RetrievalRun, question: str) -> list[str]:
    """Texts as long as queries are, about what the store is about, all different."""
    words = " ".join([question, *(d.page_content for d in run.documents)]).split()
    # Round and round, where there are few words.
    padded = words * (1 + (_QUERY_WORDS + BATCH) // len(words))
    return [" ".join(padded[n : n + _QUERY_WORDS]) for n in range(BATCH)]


def _tokens(model: Model, n: int) -> list[int]:
    """Tokens of any kind: all take as long."""
    return [number % model.weights.n_vocab for number in range(n)]


def _writer(model: Model, prompt: list[int]) -> Callable[[], None]:
    """A function that decodes the tokens of a step, one by one."""
    sequence = model.open(prompt, keep=False)
    tokens = _tokens(model, _STEP_TOKENS)

    def write() -> None:
        for token in tokens:
            sequence.extend([token])
        sequence.truncate(len(prompt))

    return write


def _measure_call(
    new_session: Callable[[], Session], texts: list[str], *, with_vectors: bool
) -> Call:
    def ask() -> Call:
        queries = list(map(Query, texts))
        answer = new_session().ask(queries, with_vectors=with_vectors)
        return Call(
            n_queries=len(texts),
            with_vectors=with_vectors,
            seconds=answer.seconds,
            embedding=answer.embedding.seconds,
            waiting=answer.searching.waiting,
            embedding_waiting=answer.embedding.waiting,
        )

    calls = sorted(_repeat(ask), key=lambda call: call.seconds)
    return calls[(len(calls) - 1) // 2]


@contextmanager
def _asking(
    new_session: Callable[[], Session], queries: Sequence[Query]
) -> Iterator[None]:
    """Have a thread ask the store without a pause, until the block ends."""
    is_over = threading.Event()
    failures: list[Exception] = []

    def ask() -> None:
        try:
            while not is_over.is_set():
                new_session().ask(queries, with_vectors=True)
        except Exception as error:  # noqa: BLE001  raised again below
            failures.append(error)

    thread = threading.Thread(target=ask, name="ralmspec-doctor")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    if failures:  # else something was measured beside nothing
        raise failures[0]


def _median(work: Callable[[], None]) -> float:
    """Median of the seconds that something takes."""

    def timed() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return statistics.median(_repeat(timed))


def _repeat(work: Callable[[], _T]) -> list[_T]:
    """Do something some times, but not much longer than we have patience for."""
    results: list[_T] = []
    start = time.perf_counter()
    while len(results) < _REPEATS:
        results.append(work())
        if time.perf_counter() - start > _PATIENCE:
            break
    return results
