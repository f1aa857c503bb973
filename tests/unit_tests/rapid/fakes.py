"""Tiny models that are harsh about their KV, and drafters good, bad and broken.

A token's logits depend on all that the KV holds, in order, so that a KV with a
rejected token in it, or with one twice, gives another answer. They depend most on the
last tokens, so that a look-up in the prompt is often right.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.answer.transcript import Transcript
from langchain_ralmspec.errors import (
    ContextOverflowError,
    DecodeError,
    InvalidValueError,
)
from langchain_ralmspec.rapid import Draft, Drafter, LongRequest
from langchain_ralmspec.rapid.model_drafters import RagDrafter
from langchain_ralmspec.speculation import (
    Acceptance,
    Calibration,
    Cost,
    Estimates,
    Scheduler,
    Source,
    chance_of_probability,
)

ENDS = (0, 1)
PIECES = (
    *(b"", b"<end>", b"a", b"b", b"c", b"ab", b" ", b"."),
    *(b"\xc3", b"\xa9", "€".encode(), b""),  # é in halves, a whole one, a control
)
N_VOCAB = len(PIECES)
OTHER_PIECES = (
    *(b"</s>", b"a", b"b", b"c", b"bc", b"a ", b".", b" "),
    *(b"\xe2\x82", b"\xac", "é".encode()),  # € in halves here
)


@lru_cache(maxsize=200_000)
def _noise(*parts: int) -> NDArray[np.float32]:
    seed = hash(parts) % 2**64
    return np.random.default_rng(seed).normal(size=parts[0]).astype(np.float32)


@dataclass
class Clock:
    """Stands in for the module ``time``."""

    now: float = 0.0

    def perf_counter(self) -> float:
        return self.now


@dataclass(frozen=True)
class FakeWeights:
    pieces: tuple[bytes, ...] = PIECES
    ends: tuple[int, ...] = ENDS
    path: Path = Path("target.gguf")
    stamp: tuple[int, int] = (0, 0)

    @property
    def n_vocab(self) -> int:
        return len(self.pieces)

    def piece(self, token: int) -> bytes:
        return b"" if token in self.ends else self.pieces[token]

    def is_end(self, token: int) -> bool:
        return token in self.ends

    def token_text(self, token: int) -> str:
        return self.pieces[token].decode("latin-1")

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """The longest piece first; a byte that no piece begins with is dropped."""
        data, tokens = text.encode(), list[int]()
        known = {p: t for t, p in enumerate(self.pieces) if p and t not in self.ends}
        while data:
            found = [piece for piece in known if data.startswith(piece)]
            longest = max(found, key=len, default=data[:1])
            tokens += [known[longest]] if found else []
            data = data[len(longest) :]
        return tokens


@dataclass
class FakeModel:
    """A model whose paths are lists of tokens.

    ``own`` is the seed of what all of the KV says, ``common`` of what the last tokens
    say: models that share the latter often agree.
    """

    own: int = 0
    common: int = 0
    weights: FakeWeights = field(default_factory=FakeWeights)
    n_ctx: int = 10_000
    n_batch: int = 512
    end_bias: float = -1.0
    clock: Clock = field(default_factory=Clock)
    cost: Callable[[int], float] = float
    is_recurrent: bool = False  # nothing can be taken back
    paths: list[FakePath] = field(default_factory=list)
    kept: set[tuple[int, ...]] = field(default_factory=set)

    def open(self, prefix: Sequence[int], *, keep: bool = True) -> FakePath:
        return self.find_or_open(prefix, keep=keep)[0]

    def find_or_open(
        self,
        prefix: Sequence[int],
        *,
        keep: bool = True,
        namespace: str | None = None,
    ) -> tuple[FakePath, int]:
        was_kept = tuple(prefix) in self.kept
        path = FakePath(self, list(prefix) if was_kept else [])
        self.paths.append(path)
        if not was_kept:
            path.prefill(prefix)
            if keep:
                self.kept.add(tuple(prefix))
        return path, len(prefix) * was_kept

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        n, last = self.weights.n_vocab, tuple(tokens[-2:])
        row = 2 * _noise(n, self.common, *last) + _noise(n, ~self.own, *tokens)
        row[list(self.weights.ends)] += self.end_bias
        return row


@dataclass
class FakePath:
    model: FakeModel
    tokens: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.tokens)

    def _decode(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        if self.length + len(tokens) > self.model.n_ctx:
            raise ContextOverflowError("the context is full")
        self.model.clock.now += self.model.cost(len(tokens))
        rows = []
        for token in tokens:
            self.model.weights.piece(operator.index(token))  # an IndexError, perhaps
            self.tokens.append(token)
            rows.append(self.model.logits(self.tokens))
        return np.stack(rows)

    def prefill(self, tokens: Sequence[int]) -> None:
        if tokens:
            self._decode(tokens)

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        if not tokens:
            raise InvalidValueError("extend() without tokens")
        row: NDArray[np.float32] = self._decode(tokens)[-1]
        return row

    def score(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        if not 0 < len(tokens) <= self.model.n_batch:
            raise InvalidValueError(f"score() of {len(tokens)} tokens")
        return self._decode(tokens)

    def truncate(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise InvalidValueError(f"truncate {self.length} tokens to {length}")
        if self.model.is_recurrent:
            raise DecodeError("the memory cannot be rolled back")
        del self.tokens[length:]


class GivenCosts(Cost):
    """On lines between what it was made with, whatever is measured."""

    def __init__(self, points: dict[int, float]) -> None:
        super().__init__()
        self._points = sorted(points.items())

    def add(self, n: int, spent: Any) -> None:
        """Learn nothing."""

    def knows(self, n: int) -> bool:
        return True

    def __call__(self, n: float, once: float | None = None) -> float:
        sizes, values = zip(*self._points, strict=True)
        if n <= sizes[-1] or len(sizes) == 1:
            return float(np.interp(n, sizes, values))
        slope = (values[-1] - values[-2]) / (sizes[-1] - sizes[-2])
        return float(max(values[-2], values[-1] + slope * (n - sizes[-1])))


def drafter(prior: Callable[[float], float] = chance_of_probability) -> Source:
    """A drafter of which nothing was measured."""
    return Source(right=Calibration(prior))


def draft_scheduler(
    drafters: dict[str, Source] | None = None,
    passes: Cost | None = None,
    length: int | None = None,
) -> Scheduler:
    """A scheduler of drafts, with what is known of drafters and of passes."""
    estimates = Estimates(sources=drafters or {}, passes=passes or Cost())
    return Scheduler(estimates, stride=length)


@dataclass
class Oracle:
    """Knows the answer, and tells it with some mistakes.

    ``shape`` is what comes with the tokens, or how the draft is broken from call
    ``fails_at`` on.
    """

    answer: Sequence[int]
    n_prompt: int
    name: str = "oracle"
    accuracy: float = 0.8
    length: int = 5
    shape: str = "bare"
    fails_at: int = 0
    seed: int = 0
    n_vocab: int = N_VOCAB
    clock: Clock = field(default_factory=Clock)
    step: float = 0.0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311  not a secret
        self._calls = 0

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        assert n >= 1
        coming = self.answer[len(prefix) - self.n_prompt :][: min(n, self.length)]
        tokens = tuple(
            token
            if self._random.random() < self.accuracy
            else self._random.randrange(self.n_vocab)
            for token in coming
        )
        self.clock.now += self.step * len(tokens)
        self._calls += 1
        if self.shape in BROKEN and self._calls > self.fails_at:
            return self._broken(tokens, n)
        evidence = tuple(self._random.random() for _ in tokens)
        if self.shape == "evidence":
            return Draft(tokens, evidence=evidence)
        if self.shape == "probabilities":
            rows = [
                [self._random.random() for _ in range(self.n_vocab)] for _ in tokens
            ]
            q = np.array(rows).reshape(len(tokens), self.n_vocab)
            return Draft(tokens, q / q.sum(axis=1, keepdims=True), evidence)
        return Draft(tokens)

    def _broken(self, tokens: tuple[int, ...], n: int) -> Draft:
        some: Any = (*tokens, 2)
        drafts: dict[str, Any] = {
            "too many": Draft((2,) * (n + 1)),
            "negative": Draft((-1,)),
            "beyond": Draft((self.n_vocab,)),
            "fraction": Draft((2.5,)),  # type: ignore[arg-type]
            "text": Draft(("a",)),  # type: ignore[arg-type]
            "short evidence": Draft((2,), evidence=(0.5, 0.5)),
            "odd evidence": Draft((2,), evidence=("sure",)),  # type: ignore[arg-type]
            "narrow": Draft((2,), np.ones((1, self.n_vocab - 1))),
            "flat": Draft((2,), np.ones(self.n_vocab)),
            "no draft": None,
            "list": list(some),
        }
        if self.shape == "raises":
            raise RuntimeError("out of ideas")
        draft: Draft = drafts[self.shape]
        return draft


BROKEN = (
    *("too many", "negative", "beyond", "fraction", "text", "short evidence"),
    *("odd evidence", "narrow", "flat", "no draft", "list", "raises"),
)


class Watched:
    """Remembers what a drafter proposed, and whether it was asked when it had failed.

    A drafter has failed here when its draft is broken or when it raises.
    """

    def __init__(self, drafter: Drafter) -> None:
        self.name = drafter.name
        self.drafter = drafter
        self.proposed: dict[int, tuple[int, ...]] = {}
        self.failed = False
        self.asked_again = False

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        self.asked_again |= self.failed
        try:
            draft = self.drafter.propose(prefix, n)
        except Exception:
            self.failed = True
            raise
        drafter = self.drafter
        if isinstance(drafter, Oracle) and drafter.shape in BROKEN:
            self.failed = drafter._calls > drafter.fails_at
        if not self.failed:
            self.proposed[len(prefix)] = draft.tokens
        return draft


def make_request(
    target: FakeModel,
    *,
    document: Sequence[int] = (2, 3, 4, 2, 3),
    tail: Sequence[int] = (6,),
    stops: Sequence[str] = (),
    sampler: Sampler | None = None,
    acceptance: Acceptance | None = None,
    scheduler: Scheduler | None = None,
    length: int | None = 4,
    drafters: Sequence[Drafter] = (),
    max_tokens: int = 24,
    longest_draft: int | None = None,
) -> LongRequest:
    """A request over the fakes; fresh at every call."""
    scheduler = scheduler or draft_scheduler(length=length)
    for each in drafters:
        scheduler.estimates.sources.setdefault(each.name, drafter())
    model: Any = target
    return LongRequest(
        target=model,
        document=tuple(document),
        tail=tuple(tail),
        transcript=Transcript(target.weights, max_tokens=max_tokens, stops=stops),
        sampler=sampler or Sampler(),
        acceptance=acceptance or Acceptance(),
        scheduler=scheduler,
        drafters=tuple(drafters),
        longest_draft=longest_draft,
    )


def model_drafter(kind: Any = RagDrafter, *, name: str = "self", **given: Any) -> Any:
    """A drafter that is a model, of the target's vocabulary if nothing else is said.

    Without ``is_enough`` a ``scheduler`` says when a draft is long enough.
    """
    if scheduler := given.pop("scheduler", None):
        given["is_enough"] = partial(scheduler.is_enough, name)
    usual = {"prompt": lambda: (2, 3, 4), "target": FakeWeights(), "n_prompt": 6}
    return kind(name=name, **usual | given)
