"""BM25 weights of a corpus, computed by bm25s, and the text analysis before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_ralmspec.arguments import require_text, several
from langchain_ralmspec.errors import InvalidValueError, MissingExtraError
from langchain_ralmspec.stores.failures import reported_as_store_error
from langchain_ralmspec.stores.words import (
    lone_capitals_kept,
    spelt_alike,
    with_turkish_i,
    words_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tokenizer = Callable[[str], Iterable[str]]
_SHORT = 3  # letters of names in capitals that look like stop words: IT, OR, AND


@dataclass(frozen=True, slots=True)
class Analyzer:
    """Turns text into tokens: its words in small letters, stemmed.

    Attributes:
        stopwords: words left out; the name of one of bm25s's lists, or the words.
        stemmer: name of a Snowball algorithm; None leaves the words as they are.
        tokenizer: what gives the tokens of a text in place of all that.

    Raises:
        MissingExtraError: bm25s, or the stemmer's package, is not installed.
        InvalidValueError: there is no such list or algorithm, or the tokenizer cannot
            be called.
    """

    stopwords: str | Sequence[str] | None
    stemmer: str | None
    tokenizer: Tokenizer | None = None
    # Stop words as words of texts are spelt; and those of them that look like names.
    _left_out: frozenset[str] = field(init=False, default=frozenset())
    _short: frozenset[str] = field(init=False, default=frozenset())

    def __post_init__(self) -> None:
        if not isinstance(self.stopwords, str | None):  # the caller's own may change
            words = tuple(several("stopwords", self.stopwords, "words"))
            for word in words:
                require_text("each of stopwords", word)
            object.__setattr__(self, "stopwords", words)
        if self.tokenizer is not None and not callable(self.tokenizer):
            raise InvalidValueError(
                "tokenizer must be a function from a text to its tokens, "
                f"got {self.tokenizer!r}"
            )
        try:
            if self.tokenizer is None:
                left_out = self._stopwords()
                short = frozenset(each for each in left_out if len(each) <= _SHORT)
                object.__setattr__(self, "_left_out", left_out)
                object.__setattr__(self, "_short", short)
            self._tokens_of(ascii_lowercase)  # or the stemmer is none
        except (AttributeError, KeyError, TypeError, ValueError) as cause:
            raise InvalidValueError(
                f"stopwords={self.stopwords!r} with stemmer={self.stemmer!r} cannot "
                f"be used: {cause}; give names such as 'english' and 'porter', or None"
            ) from cause

    def tokenize(
        self, texts: Sequence[str], *, singly: bool = False
    ) -> tuple[list[list[int]], list[str]]:
        """Cut texts into tokens; :func:`words_of` says what ``singly`` adds.

        Returns:
            For every text its tokens, as places in the list that comes second: all
            tokens of all the texts, sorted, each once.

        Raises:
            InvalidValueError: the tokenizer gives something else than strings.
            StoreError: it raises.
        """
        split = [self._words(text, singly=singly) for text in texts]
        token_of = self._tokens_of({word for words in split for word in words})
        # Sorted: scores are added up in the order of these numbers.
        tokens = sorted(set(token_of.values()))
        number_of = {token: number for number, token in enumerate(tokens)}
        place_of = {word: number_of[token] for word, token in token_of.items()}
        ids = [[place_of[w] for w in words if w in place_of] for words in split]
        return ids, tokens

    def _words(self, text: str, *, singly: bool) -> list[str]:
        if self.tokenizer is None:
            if self.stemmer == "turkish":
                text = with_turkish_i(text)
            elif self.stemmer != "arabic":
                text = spelt_alike(text)
            return words_of(lone_capitals_kept(text, self._short), singly=singly)
        with reported_as_store_error("the tokenizer", f"cut up {text[:40]!r}"):
            made = self.tokenizer(text)
            if isinstance(made, str):  # a list of its letters, if one likes
                raise InvalidValueError(
                    f"tokenizer must give a list of strings, got {made[:40]!r} for "
                    f"{text[:40]!r}"
                )
            words = list(made)
        for word in words:
            if not isinstance(word, str):
                raise InvalidValueError(
                    f"tokenizer must give strings, got {word!r} for {text[:40]!r}"
                )
        return words

    def _tokens_of(self, words: Iterable[str]) -> dict[str, str]:
        """What words are indexed as; stop words are left out."""
        words = sorted(words)
        if self.tokenizer is not None:
            return dict(zip(words, words, strict=True))
        kept = [word for word in words if spelt_alike(word) not in self._left_out]
        stems = kept if self.stemmer is None else _stemmer(self.stemmer).stemWords(kept)
        return dict(zip(kept, map(spelt_alike, stems), strict=True))

    def _stopwords(self) -> frozenset[str]:
        """Stop words, spelt as words of texts are."""
        given, listed = self.stopwords, isinstance(self.stopwords, str)
        if listed:
            given = _bm25s().tokenization.Tokenizer(stopwords=given).stopwords
        found = [words_of(each) for each in given or ()]
        if listed:  # what is no one word here is not left out in parts
            found = [words for words in found if len(words) == 1]
        return frozenset(spelt_alike(word) for words in found for word in words)


class BM25Index:
    """The weight of every token in every document.

    A score is the sum of the weights of a query's tokens in float32, added in the
    order of the token ids, a token that comes twice added twice. As nothing else
    enters into it, it is the same in every batch.

    Args:
        model: a ``bm25s.BM25`` that holds an index.
        analyzer: how documents and queries become tokens.
    """

    def __init__(self, model: Any, analyzer: Analyzer) -> None:
        self._model = model
        self.analyzer = analyzer
        self._token_ids: dict[str, int] = model.vocab_dict

    @classmethod
    def build(
        cls, texts: Sequence[str], analyzer: Analyzer, *, k1: float, b: float
    ) -> BM25Index:
        """Weigh the tokens of at least one text.

        Raises:
            InvalidValueError: the texts have no token at all.
        """
        ids, tokens = analyzer.tokenize(texts, singly=True)
        if not tokens:
            raise InvalidValueError(
                f"none of the {len(texts)} documents, such as {texts[0][:40]!r}, has a "
                "word to search by; give documents with text, or fewer stopwords"
            )
        vocabulary = {token: number for number, token in enumerate(tokens)}
        model = _bm25s().BM25(k1=k1, b=b, method="lucene")
        model.index((ids, vocabulary), create_empty_token=False, show_progress=False)
        return cls(model, analyzer)

    @classmethod
    def load(cls, folder: Path, analyzer: Analyzer, *, n_documents: int) -> BM25Index:
        """Read what :meth:`save` wrote of so many documents, without pickle.

        Raises:
            ValueError: a file is another one.
        """
        for file in folder.glob("*.npy"):  # a header may ask for any memory
            np.load(file, mmap_mode="r", allow_pickle=False)
        # Whatever the file says: Numba's code looks at no bounds.
        model = _bm25s().BM25.load(folder, backend="numpy")
        if (n := model.scores["num_docs"]) != n_documents:
            raise ValueError(f"its weights are of {n} documents, not {n_documents}")
        return cls(model, analyzer)

    def save(self, folder: Path) -> None:
        """Write NumPy and JSON files into a folder, without pickle."""
        self._model.save(folder)

    def tokens(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of query texts, ascending, without those that no document has."""
        found, tokens = self.analyzer.tokenize(texts)
        known = [self._token_ids.get(token) for token in tokens]
        ids = ((known[place] for place in text) for text in found)
        return [
            np.array(sorted(i for i in each if i is not None), "i4") for each in ids
        ]

    def best(self, query: NDArray[np.int32], k: int) -> list[tuple[int, float]]:
        """Row and score of the ``k`` best documents, equal scores by the smaller row.

        Documents without any of the query's :meth:`tokens` score 0 and are left out.
        """
        scores: NDArray[np.float32] = self._model.get_scores_from_ids(query)
        floor = _floor(scores, k)
        rows = np.flatnonzero(scores >= floor if floor > 0 else scores)
        # Stable, and equal scores stand in the order of their rows.
        rows = rows[np.argsort(-scores[rows], kind="stable")][:k]
        return list(zip(rows.tolist(), scores[rows].tolist(), strict=True))


def _floor(scores: NDArray[np.float32], k: int) -> np.float32:
    """A score that at least ``k`` rows reach (all, if there are fewer), and few more.

    It is the ``k``-th best of the maxima of blocks: a pass over all the scores at the
    speed of memory, which a partition of them, mostly zeros, is far from.
    """
    n_blocks = max(16 * k, math.isqrt(len(scores)))
    starts = np.arange(0, len(scores), max(1, len(scores) // n_blocks))
    maxima = np.maximum.reduceat(scores, starts)
    cut = max(0, len(maxima) - k)
    floor: np.float32 = np.partition(maxima, cut)[cut]
    return floor


def _bm25s() -> ModuleType:
    try:
        import bm25s
    except ImportError as cause:
        raise MissingExtraError.of("bm25s", "bm25") from cause
    module: ModuleType = bm25s
    return module


def _stemmer(name: str) -> Any:
    """A new stemmer: PyStemmer's objects are for one thread each."""
    try:
        import Stemmer
    except ImportError as cause:
        raise MissingExtraError.of("Stemmer", "bm25") from cause
    return Stemmer.Stemmer(name)
