"""Many tenants at once over one store: nobody is ever given another's document."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_community.vectorstores import FAISS
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from numpy.typing import NDArray

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.base.restricted import RestrictedRetrievers
from langchain_ralmspec.base.tracing import LookUpRuns
from langchain_ralmspec.ralm import Session, sequential, speculative
from langchain_ralmspec.speculation import REPLICA, Plan
from langchain_ralmspec.speculation.cache import Metric
from langchain_ralmspec.stores import faiss_replica
from langchain_ralmspec.stores.base import Hit
from langchain_ralmspec.stores.one_call import OneCallStore, ranked
from tests.unit_tests.fakes import FakeStore, follow, make_request, wrap
from tests.unit_tests.ralm.test_identity import story

N_DOCUMENTS = 60
TENANTS = ("red", "blue", "green")
EMBEDDINGS = DeterministicFakeEmbedding(size=4)
# Neighbours are of other tenants, and all texts are alike.
DOCUMENTS = [
    Document(f"text {row}", id=f"{row:03}", metadata={"tenant": TENANTS[row % 3]})
    for row in range(N_DOCUMENTS)
]
VECTORS = np.array(
    EMBEDDINGS.embed_documents([each.page_content for each in DOCUMENTS]), np.float32
)


def owner(id_: str) -> str:
    return TENANTS[int(id_) % 3]


class Service(OneCallStore):
    """All tenants' documents behind one door; a view of it shows those of one."""

    metric: Metric = "inner_product"
    top_k_is_stable = True

    def __init__(self, tenant: str) -> None:
        super().__init__("service", EMBEDDINGS, None)
        self.rows = [row for row in range(N_DOCUMENTS) if owner(f"{row}") == tenant]

    def _ask(
        self, vectors: NDArray[np.float32], k: int, *, with_vectors: bool
    ) -> list[list[Hit]]:
        return [self._best(vector, with_vectors=with_vectors)[:k] for vector in vectors]

    def _best(self, query: NDArray[np.float32], *, with_vectors: bool) -> list[Hit]:
        return ranked(
            Hit(
                DOCUMENTS[row].id or "",
                DOCUMENTS[row],
                float((VECTORS[row] * query).sum()),
                VECTORS[row] if with_vectors else None,
            )
            for row in self.rows
        )

    def _read_dimension(self) -> int:
        return int(VECTORS.shape[1])

    def _count(self) -> int:
        return len(self.rows)


RetrieverOf = Callable[[str], RaLMSpecRetriever]


@cache
def over_faiss(*, is_function: bool) -> RetrieverOf:
    """Every call's own filter over one index, whose one replica knows all documents."""
    store = FAISS.from_documents(DOCUMENTS, EMBEDDINGS, ids=[d.id for d in DOCUMENTS])
    whole = RaLMSpecRetriever(vectorstore=store, replica="auto")
    assert whole.new_session(k=1).wait_for_replica()
    restricted = RestrictedRetrievers()

    def retriever(tenant: str) -> RaLMSpecRetriever:
        def passes(metadata: dict[str, Any]) -> bool:
            return bool(metadata["tenant"] == tenant)

        filter_ = passes if is_function else {"tenant": tenant}
        return restricted.of(whole, {"filter": filter_})

    return retriever


@cache
def over_a_service() -> RetrieverOf:
    """One view a tenant, of all sessions of that tenant."""
    replica_of = over_faiss(is_function=False)
    views = {
        tenant: RaLMSpecRetriever(
            vectorstore=Service(tenant), replica=replica_of(tenant).store
        )
        for tenant in TENANTS
    }
    return views.__getitem__


STORES: dict[str, Callable[[], RetrieverOf]] = {
    "faiss": partial(over_faiss, is_function=False),
    "faiss by a function": partial(over_faiss, is_function=True),
    "service": over_a_service,
}


class Trace(BaseCallbackHandler):
    """Ids of documents that look-ups are said to have found, or to have guessed."""

    raise_error = True

    def __init__(self) -> None:
        self.ids: set[str] = set()

    def on_retriever_start(self, *_: Any, metadata: Any = None, **__: Any) -> None:
        self.ids |= set(metadata.get("ralmspec_guessed", ()))

    def on_retriever_end(self, documents: Any, **_: Any) -> None:
        self.ids |= {each.id for each in documents}


class Watched:
    """An answer for one tenant; every document on its way is noted."""

    def __init__(self, retriever: RaLMSpecRetriever, tenant: str, asked: Any) -> None:
        self.tenant, self.read, self.trace = tenant, set[str](), Trace()
        self.guessed: set[str] = set()
        self.request = request = make_request(FakeStore(1), **asked)
        request.session = retriever.new_session(
            k=asked["depth"], prefetch_k=asked["prefetch_k"]
        )
        wrap(request.writer, "open_branch", self._open)
        memory: Any = request.session._memory
        guess = memory.guess

        def guessed(*args: Any) -> Any:
            made = guess(*args)
            self.guessed |= {hit.id for hit in (*made.hits, *made.current)}
            return made

        memory.guess = guessed
        self._runs = LookUpRuns(CallbackManager([self.trace]), retriever)

    def _open(self, hits: tuple[Hit, ...]) -> None:
        self.read |= {hit.id for hit in hits}

    def written(self, plans: list[Plan]) -> list[Any]:
        def events() -> Iterator[Any]:
            with self._runs:
                for event in speculative(self.request, follow(*plans)):
                    self._runs.take(event)
                    yield event

        return story(self.request, events())

    def require_own(self) -> None:
        memory = self.request.session._memory
        cached = {*memory.cache._rows}
        ways = [self.read, self.guessed, self.trace.ids, cached, {*memory.hits}]
        assert [{*map(owner, ids)} - {self.tenant} for ids in ways] == [set()] * 5


@pytest.fixture(autouse=True)
def _harsh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A replica however small the index is, and threads that take turns often."""
    monkeypatch.setattr(faiss_replica, "FEWEST_NUMBERS", 0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)


asked = st.fixed_dictionaries(
    {
        "question": st.lists(st.integers(1, 15), min_size=1, max_size=4),
        "retrieval": st.sampled_from(["stride", "flare", "iter-retgen"]),
        "depth": st.integers(1, 3),
        "prefetch_k": st.sampled_from([1, 5, 20]),
        "stride": st.integers(1, 4),
        "max_tokens": st.integers(8, 24),
        "end_bias": st.just(-9.0),
    }
)
plans = st.lists(
    st.builds(
        Plan,
        policy=st.sampled_from(["lookup", "same", REPLICA]),
        stride=st.integers(1, 5),
        in_flight=st.integers(0, 2),
    ),
    min_size=1,
    max_size=3,
)
answers = st.tuples(st.sampled_from(TENANTS), asked, plans)


@pytest.mark.parametrize("kind", STORES)
@settings(max_examples=25)
@given(several=st.lists(answers, min_size=3, max_size=6))
def test_answers_know_of_their_own_tenants_documents_alone(
    kind: str, several: list[tuple[str, Any, list[Plan]]]
) -> None:
    retriever_of = STORES[kind]()

    def write(tenant: str, asked: Any, plans: list[Plan]) -> tuple[Watched, Any]:
        watched = Watched(retriever_of(tenant), tenant, asked)
        return watched, watched.written(plans)

    with ThreadPoolExecutor(len(several)) as pool:
        written = [pool.submit(write, *each) for each in several]
    for (tenant, asked, _), each in zip(several, written, strict=True):
        watched, told = each.result()
        watched.require_own()
        assert watched.read
        alone = make_request(FakeStore(1), **asked)
        alone.session = Session(retriever_of(tenant).store, depth=asked["depth"])
        assert told == story(alone, sequential(alone))


queries = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=4)


@pytest.mark.parametrize("kind", STORES)
@settings(max_examples=15)
@given(
    several=st.lists(
        st.tuples(st.sampled_from(TENANTS), queries), min_size=4, max_size=8
    )
)
def test_a_retriever_gives_its_own_tenants_documents_alone(
    kind: str, several: list[tuple[str, list[str]]]
) -> None:
    retriever_of = STORES[kind]()

    def search(tenant: str, texts: list[str]) -> list[Document]:
        retriever = retriever_of(tenant)
        session = retriever.session(k=2)
        found = [each for text in texts for each in session.speculate(text)]
        found += [each for hits in session.verify(texts) for each in hits]
        found += [each for text in texts for each in session.speculate(text)]
        found += [each for hits in retriever.batch(texts) for each in hits]
        return found

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: search(*each), several))
    for (tenant, _), documents in zip(several, found, strict=True):
        assert {each.metadata["tenant"] for each in documents} == {tenant}
