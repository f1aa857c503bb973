"""A document as the model reads it, or what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.prompts import PromptTemplate

from langchain_ralmspec.base.rendering import rendered
from langchain_ralmspec.errors import InvalidValueError

PROMPT = PromptTemplate.from_template("{page_content}")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"page_content": None}, "page_content must be a string, got None .*'id7'"),
        ({"page_content": b"x"}, "page_content must be a string, got b'x' .*'id7'"),
        ({"metadata": "a: b"}, "metadata must be a dict, got 'a: b' .*'id7'"),
        ({"metadata": [1]}, "metadata must be a dict, got .1. .*'id7'"),
    ],
)
def test_what_is_no_document_is_named(parts: dict[str, Any], message: str) -> None:
    whole: dict[str, Any] = {"id": "id7", "page_content": "text", "metadata": {}}
    broken = Document.model_construct(**whole | parts)
    with pytest.raises(InvalidValueError, match=message):
        rendered(broken, PROMPT)


def test_a_document_needs_no_metadata() -> None:
    parts: dict[str, Any] = {"page_content": "text", "metadata": None}
    without = Document.model_construct(**parts)
    assert rendered(without, PROMPT) == "text"


def test_a_documents_text_is_its_own_whatever_its_metadata_says() -> None:
    metadata = {"page_content": "another text", "source": "a.txt"}
    document = Document("its own text", metadata=metadata)
    assert rendered(document, PROMPT) == "its own text"
    both = PromptTemplate.from_template("{source}: {page_content}")
    assert rendered(document, both) == "a.txt: its own text"
