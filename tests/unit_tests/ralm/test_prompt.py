from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.exceptions import ContextOverflowError as CoreContextOverflowError

from langchain_ralmspec.answer.transcript import Transcript
from langchain_ralmspec.errors import ContextOverflowError
from langchain_ralmspec.ralm import (
    DocumentLayout,
    InlineLayout,
    Prompt,
    QueryText,
    require_room,
)
from langchain_ralmspec.stores.base import Hit


class Letters:
    """Weights whose tokens are letters."""

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return [ord(letter) for letter in text]

    def piece(self, token: int) -> bytes:
        return chr(token).encode()


LETTERS: Any = Letters()
LAYOUT = DocumentLayout(lambda d: d.page_content, max_tokens=3, separator="|")


def hit(text: str) -> Hit:
    return Hit(text, Document(page_content=text), 0.0)


def test_documents_are_cut_and_separated() -> None:
    tokens = LAYOUT.laid_out(LETTERS, [hit("abcdef"), hit("xy")]).tokens
    assert "".join(map(chr, tokens)) == "abc|xy|"


def test_documents_inside_a_text_are_parted_from_one_another() -> None:
    inside = InlineLayout(lambda d: d.page_content, 3, "|", "Context: ", "\n")
    hits = [hit("abcdef"), hit("xy"), hit("")]
    told = ["Context: \n", "Context: abc\n", "Context: abc|xy\n", "Context: abc|xy|\n"]
    for n, expected in enumerate(told):
        tokens = inside.laid_out(LETTERS, hits[:n]).tokens
        assert "".join(map(chr, tokens)) == expected
        assert len(tokens) <= inside.most_tokens(LETTERS, n)


class Spaced(Letters):
    """Weights that begin a text with a space of their own."""

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return super().tokenize(f" {text}")


@pytest.mark.parametrize("text", ["abcdef", " abcdef"])
def test_a_document_that_is_cut_begins_as_it_does(text: str) -> None:
    inside = InlineLayout(lambda d: d.page_content, 5, "|", "Read:", "?")
    weights: Any = Spaced()
    tokens = inside.laid_out(weights, [hit(text)]).tokens
    (read,) = re.findall(r" Read:(.*)\?", "".join(map(chr, tokens)))
    assert len(read) > 2
    assert text.startswith(read)


def test_where_documents_end_is_told() -> None:
    hits = [hit("abcdef"), hit("xy")]
    assert LAYOUT.laid_out(LETTERS, hits).ends == [0, 4, 7]
    inside = InlineLayout(lambda d: d.page_content, 3, "|", "Read: ", "?")
    tokens, ends = inside.laid_out(LETTERS, hits)
    begun = ["".join(map(chr, tokens[:end])) for end in ends]
    assert begun == ["Read: ", "Read: abc", "Read: abc|xy"]


PAIRS = [".", ".|", ".?"]


class Pairs(Letters):
    """Weights that read a point and what stands behind it as one token."""

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        read = re.findall(r"\.[|?]|.", text)
        return [PAIRS.index(each) if each in PAIRS else ord(each) for each in read]

    def piece(self, token: int) -> bytes:
        return PAIRS[token].encode() if token < len(PAIRS) else super().piece(token)


def test_a_token_of_two_texts_is_behind_the_end_of_both() -> None:
    inside = InlineLayout(lambda d: d.page_content, 9, "|", "R.", "?")
    tokens, ends = inside.laid_out(Pairs(), [hit("ab."), hit("|c.")])  # type: ignore[arg-type]
    assert tokens == [ord("R"), 0, ord("a"), ord("b"), 1, ord("|"), ord("c"), 2]
    assert ends == [2, 4, 7]


def test_a_document_is_read_as_it_was_judged() -> None:
    judged = replace(hit("abcdef"), text="j")
    tokens = LAYOUT.laid_out(LETTERS, [judged, hit("xy")]).tokens
    assert "".join(map(chr, tokens)) == "j|xy|"


def test_a_request_that_just_fits_is_served() -> None:
    prompt = Prompt(head=(1, 2), tail=(3,), question=())
    most = LAYOUT.most_tokens(LETTERS, 2)
    needed = 2 + 1 + 2 * (3 + 1) + 5
    require_room(prompt, n_documents=most, max_tokens=5, n_ctx=needed)
    with pytest.raises(ContextOverflowError, match=rf"{needed} tokens.*n_ctx=15"):
        require_room(prompt, n_documents=most, max_tokens=5, n_ctx=needed - 1)


def test_the_error_is_langchains_too() -> None:
    assert issubclass(ContextOverflowError, CoreContextOverflowError)


@pytest.mark.parametrize(
    ("said", "query"),
    [
        ("so? why?", "why?"),
        ("so? why?\n", "hy?"),
        ("so? why?" + "\n" * 4, "why?"),
        ("so? why?" + "\n \u200b" * 9, "why?"),
        ("\n" * 9, ""),
        ("", ""),
    ],
)
def test_a_blank_end_is_not_looked_up(said: str, query: str) -> None:
    transcript = Transcript(LETTERS, max_tokens=9)
    asked = QueryText(tuple(map(ord, said)), transcript, LETTERS, window=4)
    assert asked() == query
