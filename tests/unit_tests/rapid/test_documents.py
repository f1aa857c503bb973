from __future__ import annotations

import re
import threading
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from langchain_ralmspec.errors import (
    DimensionMismatchError,
    InvalidValueError,
    StoreError,
)
from langchain_ralmspec.rapid.documents import (
    Chunk,
    ContextIndex,
    budget,
    chunk,
    join,
)

PIECES = [b" a", b" bc", b"", b".", b"!\n", b"\n\n", b" so?", "。".encode(), b"\xe2"]
PIECES += [b"\x82\xac", b" 3.5", b"\xff"]
ENDS = {3, 4, 5, 6, 7}

# Left to itself, hypothesis seldom makes a long list.
token_lists = st.integers(0, 80).flatmap(
    lambda n: st.lists(st.integers(0, len(PIECES) - 1), min_size=n, max_size=n)
)
sizes = st.integers(1, 20)


def split(text: str) -> list[Chunk]:
    """Chunks of a text of words, cut at ``|``; a word and its space are a token."""
    chunks: list[Chunk] = []
    for part in text.split("|"):
        pieces = tuple(word.encode() for word in re.findall(r"\s*\S+|\s+$", part))
        start = chunks[-1].end if chunks else 0
        chunks.append(Chunk(start, tuple(range(start, start + len(pieces))), pieces))
    return chunks


class Words(Embeddings):
    """Counts of known words."""

    known = ("red", "green", "blue", "noise")

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.threads: set[int] = set()

    def _vector(self, text: str) -> list[float]:
        self.threads.add(threading.get_ident())
        words = text.split()
        return [float(words.count(word)) for word in self.known]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls.append(("documents", texts))
        return [self._vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.calls.append(("query", [text]))
        return self._vector(text)


def found(text: str, question: str, max_tokens: int, floor: float = 0.3) -> list[str]:
    chunks = ContextIndex(split(text), Words()).retrieve(question, max_tokens, floor)
    return [chunk.text.strip() for chunk in chunks]


@given(token_lists, sizes)
def test_chunks_are_the_document(tokens: list[int], size: int) -> None:
    chunks = chunk(tokens, PIECES.__getitem__, size)

    assert [token for part in chunks for token in part.tokens] == tokens
    assert all(1 <= len(part.tokens) <= size for part in chunks)
    assert [part.start for part in chunks[:1]] == [0] * bool(tokens)
    assert all(part.end == after.start for part, after in pairwise(chunks))
    assert all(part.end - part.start == len(part.tokens) for part in chunks)
    assert chunk(tokens, PIECES.__getitem__, size) == chunks
    for part in chunks:
        expected = b"".join(PIECES[token] for token in part.tokens)
        assert part.text == expected.decode(errors="replace")


@given(token_lists, sizes)
def test_chunks_end_with_the_last_sentence_of_their_last_quarter(
    tokens: list[int], size: int
) -> None:
    for part in chunk(tokens, PIECES.__getitem__, size)[:-1]:
        latest = part.start + size
        ends = [
            end
            for end in range(latest - size // 4 + 1, latest + 1)
            if tokens[end - 1] in ENDS
        ]
        if ends:
            assert part.end == ends[-1]
        else:
            assert part.end > latest - max(1, size // 4)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("a b c d e f g h i j", 8),
        ("a b c d e f g. h i j", 7),
        ("a b c d e f g? h! i j", 8),
        ("a b c d e f g\n h i j", 7),
        ("a b c d e f. g h i j", 8),  # before the last quarter
        ("a b c d e f 3.5 h i j", 8),
        ("a b c d e f g。 h i j", 7),
        ("a b c d e. f g h", 8),  # all of it
    ],
)
def test_sentences_are_not_cut(text: str, first: int) -> None:
    pieces = [word.encode() for word in re.findall(r" ?\S+\n?", text)]
    chunks = chunk(range(len(pieces)), pieces.__getitem__, 8)
    assert chunks[0].end == first


def test_characters_are_not_cut() -> None:
    pieces = [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"\xe2", b"\x82\xac", b"z"]
    chunks = chunk(range(10), pieces.__getitem__, 8)
    assert [part.text for part in chunks] == ["abcdefg", "€z"]
    pieces[5:8] = [b"\xf0", b"\x9f", b"\x98"]  # begins before the last quarter
    assert [part.end for part in chunk(range(10), pieces.__getitem__, 8)] == [8, 10]


def test_a_chunk_has_a_token_at_least() -> None:
    with pytest.raises(InvalidValueError, match="size must be at least 1, got 0"):
        chunk([1], PIECES.__getitem__, 0)


@pytest.mark.parametrize(
    ("n_tokens", "arguments", "tokens"),
    [
        (100, {}, 512),
        (24_000, {}, 1000),
        (24_023, {}, 1000),
        (24_024, {}, 1001),
        (1000, {"share": 0.5}, 512),
        (1100, {"share": 0.5}, 550),
        (100, {"share": 0.0, "floor": 1}, 1),
    ],
)
def test_budget(n_tokens: int, arguments: dict[str, Any], tokens: int) -> None:
    assert budget(n_tokens, **arguments) == tokens


def test_similar_chunks_in_document_order() -> None:
    text = "red noise 1|green 2 3|noise 4 5|red 6 7|red red noise"
    assert found(text, "red", 99) == ["red noise 1", "red 6 7", "red red noise"]
    assert found(text, "red", 6) == ["red 6 7", "red red noise"]  # the best two
    assert found(text, "red", 5) == ["red 6 7"]


def test_the_floor_is_kept_itself() -> None:
    text = "red 1|red noise|red noise noise noise"
    assert found(text, "red", 99, 1.0) == ["red 1"]
    assert found(text, "red", 99, 0.7) == ["red 1", "red noise"]
    assert found(text, "red", 99, 0.3) == text.split("|")  # 0.316
    assert found(text, "red", 99, 0.32) == ["red 1", "red noise"]
    text = "red 1|green 2|noise 3"
    assert found(text, "red", 99, 0.0) == text.split("|")


@pytest.mark.parametrize("max_tokens", [99, 4])
def test_the_best_is_kept_where_none_is_similar(max_tokens: int) -> None:
    text = "blue 1|noise noise noise red|noise noise noise noise red"
    assert found(text, "red", max_tokens, 0.5) == ["noise noise noise red"]


def test_what_does_not_fit_makes_room_for_what_does() -> None:
    text = "red noise 1 2 3|red 4 5|red red noise 6"
    assert found(text, "red", 7) == ["red 4 5", "red red noise 6"]
    text = "red noise 1|red red noise 5 6|red 7 8"
    assert found(text, "red", 7) == ["red noise 1", "red 7 8"]


@pytest.mark.parametrize("max_tokens", [1, 2])
def test_an_oversized_best_chunk_is_cut(max_tokens: int) -> None:
    chunks = split("noise|red green blue|noise noise")
    (kept,) = ContextIndex(chunks, Words()).retrieve("green", max_tokens)
    assert (kept.start, kept.end) == (1, 1 + max_tokens)
    assert kept.tokens == (1, 2)[:max_tokens]
    assert kept.text == "red green"[: 3 if max_tokens == 1 else None]


def test_equals_fall_to_the_earlier() -> None:
    n = 41  # not a multiple of a block of a matrix product
    chunks = split("|".join(["same words", "something else"] * n))
    index = ContextIndex(chunks, DeterministicFakeEmbedding(size=387))
    for n_kept in range(1, n):
        kept = index.retrieve("same words", 2 * n_kept, 0.9)
        assert kept == chunks[: 2 * n_kept : 2]


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(1, 40),
    st.floats(-1, 1),
    st.integers(0, 5),
)
def test_the_budget_is_never_exceeded(
    lengths: list[int], max_tokens: int, least_similarity: float, question: int
) -> None:
    chunks = split("|".join(f"{i} x" * n for i, n in enumerate(lengths)))
    index = ContextIndex(chunks, DeterministicFakeEmbedding(size=4))
    kept = index.retrieve(f"{question}", max_tokens, least_similarity)

    assert 1 <= sum(len(part.tokens) for part in kept) <= max_tokens
    starts = [part.start for part in kept]
    assert starts == sorted(set(starts))
    if len(kept) > 1:
        assert set(kept) <= set(chunks)


def test_chunks_are_embedded_once_for_many_questions() -> None:
    embeddings = Words()
    index = ContextIndex(split("red 1|green 2"), embeddings)
    words = ["red", "green", "red"]
    texts = [index.retrieve(word, 9)[0].text for word in words]
    assert texts == ["red 1", "green 2", "red 1"]
    queries = [("query", [word]) for word in words]
    assert embeddings.calls == [("documents", ["red 1", "green 2"]), *queries]
    assert embeddings.threads == {threading.get_ident()}


def test_blank_chunks_are_left_out() -> None:
    embeddings = Words()
    chunks = split("red|  |red green")
    assert len(chunks) == 3
    index = ContextIndex(chunks, embeddings)
    assert embeddings.calls == [("documents", ["red", "red green"])]
    assert index.retrieve("green", 2) == [chunks[2]]
    assert index.retrieve("red", 9, -1) == [chunks[0], chunks[2]]


@pytest.mark.parametrize("chunks", [[], split("  "), split(" |\n\n")])
def test_a_document_without_text_is_refused(chunks: list[Chunk]) -> None:
    with pytest.raises(InvalidValueError, match=f"none of the {len(chunks)} chunks"):
        ContextIndex(chunks, Words())


class Odd(Words):
    """Gives or raises the same for whatever it is asked."""

    def __init__(self, documents: Any = None, query: Any = None) -> None:
        super().__init__()
        self.documents, self.query = documents, query

    @staticmethod
    def _answer(given: Any, usual: Any) -> Any:
        if isinstance(given, Exception):
            raise given
        return usual if given is None else given

    def embed_documents(self, texts: list[str]) -> Any:
        return self._answer(self.documents, super().embed_documents(texts))

    def embed_query(self, text: str) -> Any:
        return self._answer(self.query, super().embed_query(text))


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_vector_without_direction_is_refused(bad: float) -> None:
    chunks = split("red 1|green 2")
    with pytest.raises(StoreError, match=f"Odd gave .* length {bad} for 'green 2'"):
        ContextIndex(chunks, Odd(documents=[[1.0, 2.0], [bad, 0.0]]))
    index = ContextIndex(chunks, Odd(query=[0.0, bad, 0.0, 0.0]))
    with pytest.raises(StoreError, match=f"Odd gave .* length {bad} for 'blue'"):
        index.retrieve("blue", 9)


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_the_length_of_a_vector_does_not_matter(scale: float) -> None:
    vectors = (np.eye(4) * scale).tolist()
    chunks = split("1|2|3|4")
    index = ContextIndex(chunks, Odd(documents=vectors, query=vectors[2]))
    assert index.retrieve("red", 9, 0.9999) == [chunks[2]]


SHAPE = r"Odd gave shape .* for 2 chunks"


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1.0, 2.0]], SHAPE),
        ([1.0, 2.0], SHAPE),
        ([], SHAPE),
        ([[1.0, 2.0], [1.0]], "Odd gave 2 numbers for 'red 1', and 1 for 'green 2'"),
    ],
)
def test_wrong_shapes_are_refused(vectors: Any, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        ContextIndex(split("red 1|green 2"), Odd(documents=vectors))


def test_questions_of_another_model_are_refused() -> None:
    index = ContextIndex(split("red 1|green 2"), Odd(query=[1.0, 2.0]))
    with pytest.raises(DimensionMismatchError, match=r"2 numbers .* 4 for a chunk"):
        index.retrieve("red", 9)


def test_failing_encoder_keeps_its_cause() -> None:
    chunks = split("red 1|green 2")
    failure = ConnectionError("gone")
    with pytest.raises(StoreError, match=r"embed the chunks: .*gone") as caught:
        ContextIndex(chunks, Odd(documents=failure))
    assert caught.value.__cause__ is failure
    index = ContextIndex(chunks, Odd(query=failure))
    with pytest.raises(StoreError, match=r"Odd failed to .*gone") as caught:
        index.retrieve("red", 9)
    assert caught.value.__cause__ is failure


def test_join_parts_what_was_apart() -> None:
    pieces = [b" red\n", b"\xe2", b"\x82\xac", b"blue", b" end\n"]
    chunks = [Chunk(i, (i,), (piece,)) for i, piece in enumerate(pieces)]
    assert join([chunks[0], *chunks[1:3], chunks[4]]) == "red\n€\n\nend"
    assert join([chunks[0], chunks[3]]) == "red\n\nblue"
    assert join([]) == ""
