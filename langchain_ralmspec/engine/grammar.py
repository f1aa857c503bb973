"""Grammars: which tokens may follow an answer, as llama.cpp's grammar sampler says."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence as Tokens
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_ralmspec.arguments import Live
from langchain_ralmspec.engine.binding import library
from langchain_ralmspec.engine.grammar_limits import require_bounded
from langchain_ralmspec.errors import GrammarError
from langchain_ralmspec.text import well_formed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from langchain_ralmspec.engine.weights import Weights

_CANDIDATE = np.dtype([("id", "i4"), ("logit", "f4"), ("p", "f4")])
"""``llama_token_data``."""

_WIDTHS = (256, 4096)
"""Most probable tokens that are looked at before all are. Inside a JSON string, where
nearly all 49,000 tokens of SmolLM2 may follow, looking at all takes 55 ms, at 256 of
them 0.2 ms, and hardly ever are none of these allowed."""

_SHOWN = 300  # characters of a grammar that an error quotes


@dataclass(frozen=True, slots=True)
class Marker:
    """What a grammar is lazy for: an answer is free until it has written this.

    Attributes:
        text: the marker; the grammar describes it too, and what follows.
        at_start: whether it counts only where the answer begins with it.
        openings: with which an answer may begin in its place, whatever blanks are
            between; they are written without any, and so the grammar reads them.
    """

    text: str
    at_start: bool = False
    openings: tuple[bytes, ...] = ()

    def find(self, said: bytes) -> int:
        """Where it begins in the text so far; -1 if it is not there."""
        sought = self.text.encode()
        start = len(said) - len(said.lstrip())
        if self.opens(said):
            return start
        if not self.at_start:
            return said.find(sought)
        return start if said.startswith(sought, start) else -1

    def rest(self, said: bytes) -> bytes:
        """What of a text without it still tells whether it is there later."""
        size = len(self.text.encode())
        if self.at_start:
            return said.lstrip()[:size]
        if self.may_open(said):
            return said
        # What is no beginning is not to look like one once its own is left out.
        left_out = b"\0" if self.openings else b""
        return left_out + said[max(0, len(said) - size + 1) :]

    def opens(self, said: bytes) -> bool:
        """Whether a text begins with an opening."""
        return without_blanks(said).startswith(self.openings)

    def may_open(self, said: bytes) -> bool:
        """Whether a text may be what an opening begins with."""
        begun = without_blanks(said)
        return any(each.startswith(begun) for each in self.openings)


@dataclass(frozen=True, slots=True)
class Thought:
    """A thought that an answer may begin with, or is within.

    Attributes:
        begin: the tag that it begins with.
        end: the tag behind it.
        is_open: whether it has begun.
    """

    begin: bytes
    end: bytes
    is_open: bool

    def read(self, said: bytes) -> tuple[bytes, Thought | None]:
        """What is said behind it; what matters of it where it goes on, and it."""
        if not self.is_open:
            start = said.lstrip()
            if len(start) < len(self.begin) and self.begin.startswith(start):
                return said, self
            if not start.startswith(self.begin):
                return said, None
            return replace(self, is_open=True).read(start.removeprefix(self.begin))
        _, found, rest = said.partition(self.end)
        if found:
            return rest, None
        return said[max(0, len(said) - len(self.end) + 1) :], self


def without_blanks(text: bytes) -> bytes:
    """A text without what JSON calls blanks."""
    return text.translate(None, b" \t\r\n")


class Grammar:
    """What one answer may be: the texts of a GBNF grammar, or of one of several.

    Everything it tells is a function of the answer's tokens: it follows them, and where
    some were rolled back it reads the answer anew. So it does not matter what was tried
    in between.
    """

    def __init__(
        self,
        weights: Weights,
        *texts: str,
        root: str = "root",
        marker: Marker | None = None,
        spoken: Tokens[int] = (),
        shown: Tokens[int] = (),
    ) -> None:
        """Parse the grammars.

        Args:
            weights: have the vocabulary.
            texts: in GBNF; an answer follows one of them.
            root: the rule to begin with, where a text has it; else it is ``root``.
            marker: from where on they hold; None for the whole answer.
            spoken: control tokens that count as the text of their names. All others
                that have no text are forbidden.
            shown: others that do so where the answer is free.

        Raises:
            GrammarError: llama.cpp cannot parse one.
        """
        self._weights, self._marker = weights, marker
        self._spoken = {t: weights.token_text(t).encode() for t in spoken}
        self._shown = {t: weights.token_text(t).encode() for t in shown}
        self._thought: Thought | None = None
        self._roots = [_Matcher.parse(weights, text, root) for text in texts]
        self._first_bytes = weights.first_bytes.copy()
        for token, name in self._spoken.items():
            self._first_bytes[token] = name[0]
        self._ends = np.array(weights.ends, np.int64)
        # llama.cpp reads control tokens as their names, which no answer shows.
        self._is_shown = self._first_bytes >= 0
        self._is_shown[self._ends] = True
        self._bytes = np.array([*weights.byte_tokens], np.int64)
        self._byte_tokens = np.array([*weights.byte_tokens.values()], np.int64)
        self._begin()

    def expect_thought(self, begin: str, end: str, *, is_open: bool) -> None:
        """Let an answer begin with a thought, in which no marker counts.

        It begins and ends with these tags; where it ``is_open``, the prompt has begun
        it.
        """
        self._thought = Thought(begin.encode(), end.encode(), is_open=is_open)
        self._begin()

    def _begin(self) -> None:
        self._tokens: list[int] = []
        self._said = b""  # the end of the text, while the marker is missing
        self._thinking = self._thought
        self._open: list[_Matcher] = []
        if self._marker is None:
            self._open = [root.copy() for root in self._roots]

    def restrict(
        self, logits: NDArray[np.float32], generated: Tokens[int], n_best: int
    ) -> NDArray[np.float32]:
        """Logits with -inf for what may not follow ``generated``.

        Args:
            logits: shape ``(n_vocab,)``.
            generated: the answer so far.
            n_best: how many of the best allowed tokens are wanted, ties included:
                others may have -inf, or what they had; 0 wants all.

        Raises:
            GrammarError: no token of the vocabulary may follow.
        """
        self._follow(generated)
        if n_best:
            best = _largest(logits, np.arange(len(logits)), n_best)
            if self._allowed(best).all():
                return logits
        candidates = self._candidates()
        for width in (*_WIDTHS, len(candidates)):
            # Without n_best all are looked at, by which nothing is left out.
            if n_best or width >= len(candidates):
                tried = _largest(logits, candidates, width)
                kept = tried[self._allowed(tried)]
                if len(kept) >= max(n_best, 1) or len(tried) == len(candidates):
                    break
        if not len(kept):
            said = b"".join(map(self._weights.piece, generated))
            msg = (
                "no token of this vocabulary may follow "
                f"{said[-60:].decode('utf-8', 'replace')!r} under the grammar; it has "
                "a dead end there"
            )
            raise GrammarError(msg)
        restricted = np.full_like(logits, -np.inf)
        restricted[kept] = logits[kept]
        return restricted

    def is_complete(self, generated: Tokens[int]) -> bool:
        """Whether nothing but the end of the answer may follow."""
        self._follow(generated)
        if not self._open or (len(self._ends) and not self._allowed(self._ends).any()):
            return False
        if self._allowed(self._byte_tokens).any():
            return False
        # Where a byte has no token of its own, longer ones may begin with it.
        return not self._allowed(np.flatnonzero(self._first_bytes >= 0)).any()

    def _candidates(self) -> NDArray[np.int64]:
        """All tokens but those whose first byte alone is forbidden already."""
        first = self._first_bytes
        if not self._open:
            return np.arange(len(first))
        may_begin = np.ones(256, bool)
        may_begin[self._bytes] = self._allowed(self._byte_tokens)
        is_candidate = self._is_shown & may_begin[first]
        is_candidate[self._ends] = True
        return np.flatnonzero(is_candidate)

    def _allowed(self, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some tokens may follow."""
        if self._open:
            allowed = np.zeros(len(tokens), bool)
            for each in self._open:
                allowed |= each.allows(tokens)
            return allowed & self._is_shown[tokens]
        allowed = np.ones(len(tokens), bool)  # the answer is free …
        few = len(tokens) <= _WIDTHS[0]
        asked = np.arange(len(tokens)) if few else np.flatnonzero(self._closes[tokens])
        for at in asked:  # … but for a marker that the grammar would not go on from
            allowed[at] = self._begun_by(int(tokens[at])) != []
        return allowed

    @cached_property
    def _closes(self) -> NDArray[np.bool_]:
        """Which tokens have a last letter of the marker, so that it may end in them."""
        assert self._marker is not None  # noqa: S101  the answer is free
        every = (self._marker.text.encode(), *self._marker.openings)
        letters = {text[-1] for text in every}
        spelt = map(self._spelt, range(self._weights.n_vocab))
        return np.array([not letters.isdisjoint(text) for text in spelt], bool)

    def _begun_by(self, token: int) -> list[_Matcher] | None:
        """The grammars that are open behind a token with which the marker is there.

        None while it is not.
        """
        assert self._marker is not None  # noqa: S101  the answer is free
        said, thinking = self._heard(token)
        at = -1 if thinking else self._marker.find(said)
        if at < 0:
            return None
        open_ = [root.copy() for root in self._roots]
        is_opened = not said.startswith(self._marker.text.encode(), at)
        for byte in without_blanks(said) if is_opened else said[at:]:
            single = self._weights.byte_tokens.get(byte)
            open_ = [] if single is None else _after(open_, single)
        return open_

    def _heard(self, token: int) -> tuple[bytes, Thought | None]:
        """The text behind a thought with one more token, or the thought if it goes on.

        Of the former the end, as far as it matters.
        """
        said = self._said + self._spelt(token)
        return self._thinking.read(said) if self._thinking else (said, None)

    def _spelt(self, token: int) -> bytes:
        name = self._spoken.get(token) or self._shown.get(token)
        return name or self._weights.piece(token)

    def _follow(self, generated: Tokens[int]) -> None:
        """Read on to the end of an answer; from its start if some was rolled back."""
        n_known = len(self._tokens)
        if list(generated[:n_known]) != self._tokens:
            self._begin()
            n_known = 0
        for token in generated[n_known:]:
            self._accept(token)
            self._tokens.append(token)

    def _accept(self, token: int) -> None:
        if self._open:
            self._open = _after(self._open, token)
        elif (begun := self._begun_by(token)) is not None:
            self._open = begun
        else:
            assert self._marker is not None  # noqa: S101  the answer is free
            said, self._thinking = self._heard(token)
            self._said = said if self._thinking else self._marker.rest(said)
            return
        if not self._open:
            shown = self._spelt(token)
            msg = f"the token {token} ({shown!r}) is none that the grammar allows there"
            raise GrammarError(msg)


class _Matcher(Live):
    """A grammar sampler of llama.cpp, behind some tokens."""

    def __init__(self, weights: Weights, handle: Any) -> None:
        self._weights, self._handle = weights, handle  # the vocabulary must live on
        self._pid = os.getpid()

    @classmethod
    def parse(cls, weights: Weights, text: str, root: str) -> _Matcher:
        """Parse a grammar.

        Raises:
            GrammarError: llama.cpp cannot.
        """
        text = well_formed(text)
        require_bounded(text)
        begin = root if f"{root} ::=" in text else "root"
        handle = None
        if text.strip() and "\0" not in text:  # what is empty would allow everything
            handle = library().llama_sampler_init_grammar(
                weights.vocabulary, text.encode(), begin.encode()
            )
        if not handle:
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
            msg = (
                f"llama.cpp cannot parse the grammar {shown!r}; write GBNF that has a "
                "rule 'root ::= …', defines every rule it names, and never begins a "
                "rule with itself"
            )
            raise GrammarError(msg)
        return cls(weights, handle)

    def copy(self) -> _Matcher:
        return _Matcher(self._weights, library().llama_sampler_clone(self._handle))

    def allows(self, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some tokens may come next."""
        lib = library()
        candidates = np.zeros(len(tokens), _CANDIDATE)
        candidates["id"] = tokens
        data = candidates.ctypes.data_as(lib.llama_token_data_p)
        array = lib.llama_token_data_array(data, len(tokens), -1)
        lib.llama_sampler_apply(self._handle, ctypes.byref(array))
        allowed: NDArray[np.bool_] = candidates["logit"] == 0
        return allowed

    def accept(self, token: int) -> bool:
        """Go on behind a token, if it may come next; else llama.cpp would abort."""
        if not self.allows(np.array([token])).all():
            return False
        library().llama_sampler_accept(self._handle, token)
        return True

    def __del__(self) -> None:
        with suppress(Exception):  # the interpreter may be going down
            if self._pid == os.getpid():
                library().llama_sampler_free(self._handle)


def _after(matchers: list[_Matcher], token: int) -> list[_Matcher]:
    """The matchers that a token leaves open, behind it."""
    return [each for each in matchers if each.accept(token)]


def _largest(
    logits: NDArray[np.float32], tokens: NDArray[np.int64], n: int
) -> NDArray[np.int64]:
    """The ``n`` tokens with the largest logits, and all that are tied with the last."""
    if n >= len(tokens):
        return tokens
    if n == 1 and len(tokens) == len(logits):
        return np.array([logits.argmax()])  # the one that greedy sampling would take
    rows = logits[tokens]
    largest: NDArray[np.int64] = tokens[rows >= np.partition(rows, -n)[-n]]
    return largest
