"""Whatever documents are, a store finds what was put into it, and nothing else."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import BM25Store, InvalidValueError, RaLMSpecRetriever
from langchain_ralmspec.text import well_formed
from tests.integration_tests.fuzz import strategies as some

EMBEDDINGS = DeterministicFakeEmbedding(size=16)


@some.examples(60)
@given(some.documents, some.texts)
def test_words_find_their_documents(documents: list[Document], query: str) -> None:
    try:
        retriever = RaLMSpecRetriever.from_documents(documents)
    except InvalidValueError:  # not one has a word
        return
    ids = {document.id for document in documents if document.id is not None}
    found = retriever.invoke(query)
    assert {d.id for d in found if d.id in ids} == {d.id for d in found} & ids
    texts = {well_formed(document.page_content) for document in documents}
    assert {document.page_content for document in found} <= texts
    assert retriever.batch([query, query]) == [found, found]
    with TemporaryDirectory() as folder:
        store = retriever.vectorstore
        try:
            store.save(Path(folder) / "store")
        except InvalidValueError:  # metadata that is not JSON
            pass
        else:
            loaded = RaLMSpecRetriever(vectorstore=BM25Store.load(f"{folder}/store"))
            assert loaded.invoke(query) == found


tenants = st.lists(st.sampled_from(["red", "blue", 1, True, None]), min_size=1)


@some.examples(60)
@given(tenants, st.sampled_from(["red", 1, None]), st.booleans(), st.booleans())
def test_a_filter_lets_nothing_else_through(
    owners: list[Any], wanted: Any, as_function: bool, local: bool
) -> None:
    documents = [
        Document(f"text {n}", id=str(n), metadata={} if o is None else {"tenant": o})
        for n, o in enumerate(owners)
    ]

    def passes(metadata: dict[str, Any]) -> bool:
        return bool(metadata.get("tenant") == wanted)

    store: Any
    condition: Any = passes if as_function else {"tenant": wanted}
    if local:
        store = FAISS.from_documents(documents, EMBEDDINGS)
        assert isinstance(store.docstore, InMemoryDocstore)
    else:
        store = InMemoryVectorStore.from_documents(documents, EMBEDDINGS)
        condition = lambda document: passes(document.metadata)  # noqa: E731
    retriever = RaLMSpecRetriever(vectorstore=store, k=len(owners), filter=condition)
    found = retriever.invoke("text")
    assert all(passes(document.metadata) for document in found)
    expected = {document.id for document in documents if passes(document.metadata)}
    assert {document.id for document in found} == expected
