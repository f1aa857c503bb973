"""A document as the model reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_ralmspec.errors import SetupError
from langchain_ralmspec.stores.documents import checked_document, known_as

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.prompts import BasePromptTemplate


def rendered(document: Document, prompt: BasePromptTemplate[str]) -> str:
    """A document as the model reads it.

    Raises:
        SetupError: ``prompt`` names what the document does not have, or its
            text or metadata are none.
    """
    document = checked_document(document)
    known = {**(document.metadata or {}), "page_content": document.page_content}
    name = known_as(document)
    for key in prompt.input_variables:
        if key not in known:
            msg = (
                f"document_prompt names {key!r}, but the document {name!r} has only "
                f"{sorted(map(str, known))}; add it to the document's metadata, or "
                "leave it out of document_prompt"
            )
            raise SetupError(msg)
    try:
        return prompt.format(**{key: known[key] for key in prompt.input_variables})
    except Exception as error:  # metadata, and a template of Jinja's, may do anything
        why = f"{type(error).__name__}: {error}"
        msg = f"document_prompt cannot show the document {name!r}: {why}"
        raise SetupError(msg) from error
