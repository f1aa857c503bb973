"""What the replicas of the test serve; imported by each."""

import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_ralmspec import ChatRaLMSpec
from langchain_ralmspec.assets.corpus import stdlib_passages
from langchain_ralmspec.assets.models import model_path

WRITTEN = "RALMSPEC_TEST_WRITTEN"
"""Names a file that gets a line for each stream: its pieces, as it was left."""

LONG = 600
"""Tokens of an answer that nobody waits for."""


class Noting(ChatRaLMSpec):
    """Notes how far a stream went."""

    def _stream(self, *args: Any, **kwargs: Any) -> Generator[Any]:
        n = 0
        try:
            for chunk in super()._stream(*args, **kwargs):
                n += 1
                yield chunk
        finally:
            if path := os.environ.get(WRITTEN):
                with Path(path).open("a") as file:
                    file.write(f"{n}\n")


def make() -> ChatRaLMSpec:
    documents = [
        Document(
            page_content=passage.text,
            id=passage.id,
            metadata={"tenant": "red" if at % 2 else "blue"},
        )
        for at, passage in enumerate(stdlib_passages()[:400])
    ]
    store = FAISS.from_documents(documents, DeterministicFakeEmbedding(size=64))
    return Noting(
        model_path=str(model_path("smollm2-135m")),
        retriever=store,
        max_tokens=16,
        n_threads=1,
    )


def tenant_of(headers: Mapping[str, str]) -> dict[str, str] | None:
    tenant = headers.get("x-tenant", "red")
    return None if tenant == "nobody" else {"tenant": tenant}
