from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.exceptions import ContextOverflowError as CoreContextOverflowError

from langchain_ralmspec.errors import ContextOverflowError
from langchain_ralmspec.ralm import DocumentLayout, Prompt, require_room
from langchain_ralmspec.stores.base import Hit


class Letters:
    """Weights whose tokens are letters."""

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return [ord(letter) for letter in text]


LETTERS: Any = Letters()
LAYOUT = DocumentLayout(lambda d: d.page_content, max_tokens=3, separator="|")


def hit(text: str) -> Hit:
    return Hit(text, Document(page_content=text), 0.0)


def test_documents_are_cut_and_separated() -> None:
    tokens = LAYOUT.tokens(LETTERS, [hit("abcdef"), hit("xy")])
    assert "".join(map(chr, tokens)) == "abc|xy|"


def test_a_document_is_read_as_it_was_judged() -> None:
    judged = replace(hit("abcdef"), text="j")
    tokens = LAYOUT.tokens(LETTERS, [judged, hit("xy")])
    assert "".join(map(chr, tokens)) == "j|xy|"


def test_a_request_that_just_fits_is_served() -> None:
    prompt = Prompt(head=(1, 2), tail=(3,), question=())
    needed = 2 + 1 + 2 * (3 + 1) + 5
    fits: dict[str, Any] = {"n_documents": 2, "max_tokens": 5}
    require_room(prompt, LAYOUT, LETTERS, **fits, n_ctx=needed)
    with pytest.raises(ContextOverflowError, match=rf"{needed} tokens.*n_ctx=15"):
        require_room(prompt, LAYOUT, LETTERS, **fits, n_ctx=needed - 1)


def test_the_error_is_langchains_too() -> None:
    assert issubclass(ContextOverflowError, CoreContextOverflowError)
