from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.rapid import Chunk, GivenContext, Sources
from langchain_ralmspec.rapid.context import LongContext
from langchain_ralmspec.rapid.sources import places_of, quoted

PAGES = [
    Document("  The whale was white.\n", id="a", metadata={"page": 1, "source": "m"}),
    Document("Ahab wrote that\nünïcödé log.", metadata={"page": 2, "start_index": 9}),
]


def read(given: GivenContext, size: int = 3, *, first: bytes = b"") -> LongContext:
    """A text of which every few bytes are a token."""
    data = first + given.text.encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    tokens = tuple(int.from_bytes(piece, "big") for piece in pieces)
    return LongContext(tokens, places_of(pieces, given.text), 0, None)


def a_chunk(start: int, end: int) -> Chunk:
    return Chunk(start, (0,) * (end - start), (b"",) * (end - start))


@pytest.mark.parametrize(
    ("context", "text"),
    [
        (" as it is\n", " as it is\n"),
        (Document("red"), "red"),
        (["red", Document("green"), "blue"], "red\n\ngreen\n\nblue"),
        ((Document("red"),), "red"),
        (["\ud83d", Document("\ud83d\ude00")], "\ufffd\n\n😀"),
    ],
)
def test_the_text_of_a_context(context: object, text: str) -> None:
    assert GivenContext.of(context).text == text


EMPTY = "the context is empty; give"


NUMBERED: dict[str, Any] = {"id": "b", "page_content": 7}
BARE = Document.model_construct(**NUMBERED)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        *((empty, EMPTY) for empty in ("", " \n", [], [" ", ""], Document("\t"))),
        (None, "NoneType is no context"),
        (3, "int is no context"),
        (b"red", "bytes is no context"),
        ({"red": 1}, "dict is no context"),
        (["red", 3.5], "float is no context"),
        ([["red"]], "list is no context"),
        ((word for word in ["red"]), "generator is no context"),
        (BARE, "got 7 in the document 'b'"),
    ],
)
def test_what_is_no_context_is_refused(context: object, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        GivenContext.of(context)


def test_halves_of_characters_shift_no_place() -> None:
    """A pair of them is one character as it is read."""
    smiles, bare = Document("\ud83d\ude00" * 5), Document("red green", id="b")
    vars(bare)["metadata"] = None  # as some stores leave it
    given = GivenContext.of([smiles, bare])
    (found,) = given.parts((given.text.index("green"), len(given.text)))
    assert (found.id, found.page_content) == ("b", "green")
    assert found.metadata == {"start_index": 4, "end_index": 9}


def test_a_part_of_two_documents_is_a_part_of_each() -> None:
    context = GivenContext.of(PAGES)
    first, second = context.parts((6, 40))
    assert first.page_content == "whale was white."
    assert (first.id, first.metadata["page"], first.metadata["source"]) == ("a", 1, "m")
    assert (first.metadata["start_index"], first.metadata["end_index"]) == (6, 22)
    assert second.page_content == "Ahab wrote that"
    assert second.metadata == {"page": 2, "start_index": 0, "end_index": 15}
    assert "end_index" not in PAGES[0].metadata
    assert [part.metadata["page"] for part in context.parts((25, 30))] == [2]
    assert list(context.parts((22, 25))) == [], "whitespace only"


@given(
    st.lists(st.text(alphabet="aé 。\n😀", max_size=9), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(0, 30),
    st.integers(1, 30),
    st.sampled_from([b"", b" "]),
)
def test_offsets_slice_exactly(
    texts: list[str], size: int, start: int, length: int, first: bytes
) -> None:
    documents = [Document(text, metadata={"at": at}) for at, text in enumerate(texts)]
    if not any(text.strip() for text in texts):
        return
    context = GivenContext.of(documents)
    document = read(context, size, first=first)
    n = len(document.tokens)
    start = min(start, n)
    chunks = [a_chunk(0, start), a_chunk(start, min(start + length, n))]
    parts = Sources(context, document, [*chunks, a_chunk(chunks[1].end, n)]).documents()
    for part in parts:
        original = documents[part.metadata["at"]].page_content
        place = slice(part.metadata["start_index"], part.metadata["end_index"])
        assert original[place] == part.page_content != ""
    joined = "".join(part.page_content for part in parts)
    assert re.sub(r"\s", "", joined) == re.sub(r"\s", "", context.text), "none is lost"


@pytest.mark.parametrize(
    ("pieces", "places"),
    [
        ([b"red", b" ", b"blue"], (0, 3, 4, 8)),
        ([b" red", b" blue"], (0, 3, 8)),  # a space that the vocabulary puts in front
        ([b"red", b"", b"blue"], (0, 3, 3, 8)),  # no token for the space
    ],
)
def test_tokens_are_found_in_the_text(pieces: list[bytes], places: Any) -> None:
    assert places_of(pieces, "red blue") == places


def test_characters_belong_to_the_token_that_they_begin_in() -> None:
    assert places_of([b"\xe2", b"\x82\xac", b"e"], "€e") == (0, 1, 1, 2)


def test_what_a_retriever_found_is_the_source_as_far_as_it_was_read() -> None:
    context = GivenContext.of(PAGES)
    whole = read(context)
    sources = Sources(context, whole, is_found=True)
    assert sources.are_known
    assert [part.page_content for part in sources.documents()] == [
        page.page_content.strip() for page in PAGES
    ]
    cut = LongContext(whole.tokens[:5], whole.places[:6], 9, None)
    (part,) = Sources(context, cut, is_found=True).documents()
    assert part.page_content == "The whale was"


@pytest.mark.parametrize(
    ("answer", "spans"),
    [
        ("", []),
        ("abc", [(0, 3)]),
        ("ab", []),
        ("xxbcdefyy", [(1, 6)]),
        ("hij..abc", [(0, 3), (7, 10)]),  # in the text's order
        ("abcd..cdef", [(0, 6)]),  # one stretch
        ("fgh", [(5, 8)]),
        ("ghixabcdefghij", [(0, 10)]),
        ("pqrs", [(15, 19)]),  # the longest of two
        ("pqr", [(11, 14)]),  # the first of equals
    ],
)
def test_what_is_quoted(answer: str, spans: list[tuple[int, int]]) -> None:
    text = "abcdefghij-pqr-pqrs"
    assert quoted([*text.encode()], [*answer.encode()], 3) == spans


def test_without_chunks_the_quotes_are_the_sources() -> None:
    context = GivenContext.of(PAGES)
    document = read(context, 1)
    sources = Sources(context, document)
    assert not sources.are_known
    assert sources.documents() == []
    (part,) = sources.documents([0, *document.tokens[30:40]])
    assert part.page_content == context.text[30:40].strip()
    assert part.metadata["page"] == 2


def test_a_checksum_tells_of_metadata_and_of_where_documents_end() -> None:
    contexts = ["a\n\nb", ["a", "b"], [Document("a"), Document("b", metadata={"p": 1})]]
    assert len({GivenContext.of(context).sha256 for context in contexts}) == 3
    assert GivenContext.of("a").sha256 == GivenContext.of(["a"]).sha256
