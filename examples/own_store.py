"""A store of your own that answers many queries in one call: here, a matrix.

Needs ``model.gguf`` and a folder ``minilm``; the start page of the docs says how to get
them.
"""

from collections.abc import Sequence

import numpy as np
from langchain_core.documents import Document

from langchain_ralmspec import ChatRaLMSpec, SentenceTransformerEmbeddings, documents_of
from langchain_ralmspec.stores import Hit, Query, encode_queries


class MatrixStore:
    """Documents and their vectors, row by row."""

    metric = "inner_product"
    top_k_is_stable = True  # the best two begin the best three

    def __init__(
        self, texts: Sequence[str], embeddings: SentenceTransformerEmbeddings
    ) -> None:
        self._documents = [Document(text, id=f"{n:09}") for n, text in enumerate(texts)]
        self._embeddings = embeddings
        self._rows = np.array(embeddings.embed_documents(list(texts)), np.float32)
        self.dimension = self._rows.shape[1]

    def encode(self, texts: Sequence[str]) -> list[Query]:
        """Embed queries in one batch, and say so: it may change their last bits."""
        vectors = encode_queries(self._embeddings, texts)
        return [
            Query(text, vector, batched=len(texts) > 1)
            for text, vector in zip(texts, vectors, strict=True)
        ]

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        """Answer all queries; each as if it were alone."""
        return [self._nearest(query, k) for query in queries]

    def _nearest(self, query: Query, k: int) -> list[Hit]:
        scores = self._rows @ query.vector
        best = np.argsort(-scores, kind="stable")[:k]  # equals by the smaller id
        found = ((self._documents[row], row) for row in best)
        return [
            Hit(document.id, document, float(scores[row]), self._rows[row])
            for document, row in found
        ]

    def count(self) -> int:
        """How many documents there are."""
        return len(self._documents)


store = MatrixStore(
    [
        "heapq.heappush() pushes an item onto a heap.",
        "heapq.nsmallest() returns the n smallest elements.",
        "bisect.insort() inserts an item into a sorted list.",
    ],
    SentenceTransformerEmbeddings("minilm"),
)
chat = ChatRaLMSpec(model_path="model.gguf", retriever=store, max_tokens=32)
message = chat.invoke("How do I keep a list sorted?")
print(message.text.strip())
print([document.page_content for document in documents_of(message)])
print(message.response_metadata["speculation"]["store_calls"], "calls to the store")
