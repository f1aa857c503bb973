"""What a model takes for its retriever, and that it follows what this becomes."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any, cast

import pytest
from langchain_classic.retrievers import (
    MultiVectorRetriever,
    TimeWeightedVectorStoreRetriever,
)
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import (
    ConfigurableField,
    RunnableConfig,
    RunnableLambda,
)
from langchain_core.stores import InMemoryStore
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever
from pydantic import BaseModel, ValidationError

from langchain_ralmspec import ChatRaLMSpec, RaLMSpecRetriever
from langchain_ralmspec.arguments import owned
from langchain_ralmspec.errors import (
    InvalidValueError,
    SetupError,
    UnknownArgumentError,
)
from langchain_ralmspec.retrievers import adopt, documents_wanted
from langchain_ralmspec.retrievers.snapshot import is_same
from langchain_ralmspec.serve.protocol import failure_of
from langchain_ralmspec.stores import FaissStore, GenericStore, RetrieverStore
from langchain_ralmspec.stores.configuring import configured_by
from tests.unit_tests.fakes import wrap
from tests.unit_tests.stores.faiss_toys import langchain_faiss

N_ROWS = 12


def store_of(*texts: str) -> InMemoryVectorStore:
    documents = [Document(text, metadata={"tenant": text}) for text in texts]
    embeddings = DeterministicFakeEmbedding(size=8)
    return InMemoryVectorStore.from_documents(documents, embeddings)


def chat_over(retriever: Any, **settings: Any) -> ChatRaLMSpec:
    return ChatRaLMSpec(model_path="x.gguf", retriever=retriever, **settings)


def found_by(chat: ChatRaLMSpec, **words: Any) -> list[str]:
    return [d.page_content for d in chat._current_retriever.invoke("v0", **words)]


def own(base: Any, name: str) -> Any:
    kind = type("Own", (base,), {name: lambda *_, **__: [Document("mine")]})
    return kind(vectorstore=langchain_faiss(n_rows=N_ROWS))


def kinds(store: Any) -> list[Any]:
    threshold = {"score_threshold": 0.0}
    plain = store.as_retriever()
    return [
        (store, FaissStore),
        (plain, FaissStore),
        (store.as_retriever(search_kwargs={"fetch_k": 9}), GenericStore),
        (RaLMSpecRetriever(vectorstore=store), FaissStore),
        (store.as_retriever(search_type="mmr"), RetrieverStore),
        (
            store.as_retriever(
                search_type="similarity_score_threshold", search_kwargs=threshold
            ),
            RetrieverStore,
        ),
        (plain.with_config(tags=["t"]), RetrieverStore),
        (plain | RunnableLambda(lambda found: found[::-1]), RetrieverStore),
        (RetrieverStore(plain, max_concurrency=2), RetrieverStore),
        (RunnableLambda(lambda _: [Document("x")]), RetrieverStore),
    ]


@pytest.mark.parametrize("number", range(10))
def test_what_is_searched_by_similarity_is_asked_in_batches(number: int) -> None:
    given, kind = kinds(langchain_faiss(n_rows=N_ROWS))[number]
    chat = chat_over(given)
    assert type(chat.retriever.store) is kind
    assert chat._current_retriever is chat.retriever, "nothing has changed"
    assert chat.model_copy().retriever is chat.retriever
    if kind is RetrieverStore:
        assert chat.cache is False, "what it finds may depend on anything"


@pytest.mark.parametrize("base", [VectorStoreRetriever, RaLMSpecRetriever])
@pytest.mark.parametrize("name", ["_get_relevant_documents", "invoke"])
def test_a_retriever_that_searches_by_itself_is_asked_itself(
    base: Any, name: str
) -> None:
    assert found_by(chat_over(own(base, name))) == ["mine"]
    patched = langchain_faiss(n_rows=N_ROWS).as_retriever()
    object.__setattr__(patched, "invoke", lambda *_, **__: [Document("mine")])
    assert found_by(chat_over(patched)) == ["mine"]


@pytest.mark.parametrize("base", [VectorStoreRetriever, RaLMSpecRetriever])
@pytest.mark.parametrize("name", ["_aget_relevant_documents", "ainvoke"])
def test_one_that_does_so_for_await_alone_is_refused(base: Any, name: str) -> None:
    with pytest.raises(ValidationError, match=f"Own overrides {name} but not"):
        chat_over(own(base, name))


@pytest.mark.parametrize("wrong", [None, 7, "store", lambda _: [], [Document("x")]])
def test_what_is_no_retriever_is_told_what_is(wrong: Any) -> None:
    kind = type(wrong).__name__
    told = f"{kind} is no vector store and no retriever; .*Runnable.*RunnableLambda"
    with pytest.raises(ValidationError, match=told):
        chat_over(wrong)


@pytest.mark.parametrize("search_type", ["similarity", "mmr"])
def test_arguments_of_the_retriever_are_sent_there(search_type: str) -> None:
    store = langchain_faiss(n_rows=N_ROWS)
    with pytest.raises(UnknownArgumentError, match=r"RaLMSpecRetriever.*replica=…"):
        chat_over(store.as_retriever(search_type=search_type), replica="auto")


@pytest.mark.parametrize("search_type", ["similarity", "mmr"])
def test_its_k_is_heeded(search_type: str) -> None:
    store = langchain_faiss(n_rows=N_ROWS)

    def wanted(**words: Any) -> int:
        given = store.as_retriever(search_type=search_type, search_kwargs=words)
        for retriever in (given, given.with_config(tags=["t"])):
            chat = chat_over(retriever)
            assert chat.documents_per_step is None
            shown = chat._identifying_params["documents_per_step"]
            assert shown == chat.n_documents
        return chat.n_documents

    assert [wanted(), wanted(k=3)] == [1, 3]
    for k in (0, True, 1.0):
        with pytest.raises(
            ValidationError, match=f"k must be a whole number .*got {k}"
        ):
            wanted(k=k)
    given = store.as_retriever(search_kwargs={"k": 3})
    chat = chat_over(given, documents_per_step=2)
    assert chat._identifying_params["documents_per_step"] == 2
    assert documents_wanted(chat_over(store).retriever) is None
    own = RaLMSpecRetriever(vectorstore=store, k=3)
    assert documents_wanted(own) is None
    assert chat_over(own).n_documents == 1
    assert chat_over(own, retrieval_policy="once").n_documents == 3
    assert chat_over(store, retrieval_policy="once").n_documents == 4


def test_what_counts_candidates_or_chunks_names_no_number_of_documents() -> None:
    store = store_of("red", "blue")
    recent = TimeWeightedVectorStoreRetriever(vectorstore=store)
    assert recent.search_kwargs == {"k": 100}, "LangChain's default"
    parents = MultiVectorRetriever(
        vectorstore=store, docstore=InMemoryStore(), search_kwargs={"k": 20}
    )
    for given in (recent, parents, parents.with_config(tags=["t"])):
        chat = chat_over(given)
        assert documents_wanted(chat.retriever) is None
        assert chat.n_documents == 1
    plain = store.as_retriever(search_kwargs={"k": 3})
    field = ConfigurableField(id="words")
    for wrapped in (
        plain.with_config(tags=["t"]),
        plain.configurable_fields(search_kwargs=field),
        plain.configurable_fields(search_kwargs=field).with_config(tags=["t"]),
    ):
        assert chat_over(wrapped).n_documents == 3


@pytest.mark.parametrize("search_type", ["similarity", "mmr"])
def test_copies_and_pickles_know_its_k_and_follow_it(search_type: str) -> None:
    store = store_of("red", "blue")
    given = store.as_retriever(search_type=search_type, search_kwargs={"k": 2})
    chat = chat_over(given)
    read = pickle.loads(pickle.dumps(chat))  # noqa: S301  our own
    assert [each.n_documents for each in (chat.model_copy(), read)] == [2, 2]
    read._current_retriever.origin.retriever.search_kwargs["k"] = 1
    assert read.n_documents == 1


@pytest.mark.parametrize("search_type", ["similarity", "mmr"])
def test_what_changes_afterwards_counts_from_the_next_request_on(
    search_type: str,
) -> None:
    words: dict[str, Any] = {"filter": lambda d: d.metadata["tenant"] == "red", "k": 2}
    retriever = store_of("red", "blue").as_retriever(
        search_type=search_type, search_kwargs=words
    )
    chat = chat_over(retriever)
    copy, key = chat.model_copy(), chat._identifying_params
    begun = chat._current_retriever
    assert found_by(chat) == ["red"]
    retriever.search_kwargs["filter"] = lambda d: d.metadata["tenant"] == "blue"
    assert found_by(chat) == found_by(copy) == ["blue"]
    assert [d.page_content for d in begun.invoke("v0")] == ["red"]
    assert chat._identifying_params != key
    del retriever.search_kwargs["filter"]
    retriever.search_kwargs["k"] = 1
    assert documents_wanted(chat._current_retriever) == 1
    retriever.vectorstore = store_of("green")
    assert found_by(chat) == found_by(copy) == ["green"]


@pytest.mark.parametrize("given", [{"filter": {"group": 1}}, {"search_kwargs": {}}])
def test_a_calls_own_filter_leaves_its_k(given: dict[str, Any]) -> None:
    store = langchain_faiss(n_rows=N_ROWS)
    chat = chat_over(store.as_retriever(search_kwargs={"k": 3}))
    restricted, _ = chat._restricted_by(given)
    assert chat._depth(restricted) == chat.n_documents == 3


def configured(chat: ChatRaLMSpec, config: RunnableConfig) -> list[str]:
    with configured_by(config):
        retriever, _ = chat._restricted_by({})
    return [document.page_content for document in retriever.invoke("v0")]


def only(tenant: str) -> Any:
    return lambda document: document.metadata["tenant"] == tenant


@pytest.mark.parametrize("number", [0, 1])
def test_what_a_config_chooses_is_followed_like_what_was_given(number: int) -> None:
    store = store_of("red", "blue")
    inner = [store.as_retriever(), store.as_retriever()]
    which = ConfigurableField(id="which")
    given, config, chosen = [
        (inner[0].configurable_alternatives(which, b=inner[1]), "b", inner[1]),
        (inner[0].configurable_fields(search_type=which), "similarity", inner[0]),
    ][number]
    chat = chat_over(given)
    call = RunnableConfig(configurable={"which": config})
    assert set(configured(chat, call)) == {"red", "blue"}
    chosen.search_kwargs["filter"] = only("red")
    assert configured(chat, call) == ["red"]
    chosen.search_kwargs["filter"] = only("blue")
    assert configured(chat, call) == ["blue"]


def test_what_a_config_says_beside_langchains_own_words_configures() -> None:
    field = ConfigurableField(id="words")
    retriever = store_of("red", "blue").as_retriever()
    given = retriever.configurable_fields(search_kwargs=field)
    chat, call = chat_over(given), cast("Any", {"words": {"filter": only("red")}})
    assert [each.page_content for each in given.invoke("v0", call)] == ["red"]
    assert configured(chat, call) == ["red"]
    assert set(configured(chat, cast("Any", {"words": None}))) == {"red", "blue"}
    bound = chat.with_config(**call)
    with pytest.raises(InvalidValueError, match="does not know of the config"):
        bound.start("who?")


def test_an_unusable_filter_is_the_applications_fault() -> None:
    store = langchain_faiss(n_rows=N_ROWS)
    wrong = {"group": {"$nope": "board"}}
    chat = chat_over(store)
    with pytest.raises(SetupError, match="board"):
        chat._restricted_by({"filter": wrong})
    retriever = store.as_retriever()
    chat = chat_over(retriever)
    for words in ({"filter": wrong}, {"k": 0}):
        retriever.search_kwargs = words
        with pytest.raises(SetupError):
            chat._current_retriever  # noqa: B018  it looks
    assert failure_of(SetupError("board"))[0] == 500


async def test_a_retriever_heeds_what_a_call_configures() -> None:
    field = ConfigurableField(id="words")
    base = (
        store_of("red", "blue").as_retriever().configurable_fields(search_kwargs=field)
    )
    red: Any = {"configurable": {"words": {"filter": only("red")}}}
    for retriever in (
        RaLMSpecRetriever(vectorstore=base),
        RaLMSpecRetriever(vectorstore=base.with_config(tags=["t"])),
    ):
        passed_on = RunnableLambda(str) | retriever
        every = [
            retriever.invoke("v0", red),
            await retriever.ainvoke("v0", red),
            *retriever.batch(["v0", "v0"], red),
            *retriever.batch(["v0"], [red], return_exceptions=True),
            *await retriever.abatch(["v0"], [red]),
            next(retriever.stream("v0", red)),
            passed_on.invoke("v0", red),
            *passed_on.batch(["v0"], red),
        ]
        assert [[d.page_content for d in found] for found in every] == [["red"]] * 9
        assert len(retriever.invoke("v0")) == 2
        one, both = retriever.batch(["v0", "v0"], [red, {}])
        assert (len(one), len(both)) == (1, 2)


@pytest.mark.parametrize("config", [{}, {"configurable": {"thread_id": "1"}}])
def test_a_batch_is_one_call_where_its_configs_say_the_same(config: Any) -> None:
    retriever = RaLMSpecRetriever(vectorstore=langchain_faiss(n_rows=N_ROWS))
    calls: list[int] = []
    wrap(
        retriever.store, "search", lambda queries, *_, **__: calls.append(len(queries))
    )
    in_a_graph: Any = RunnableLambda(lambda _: retriever.batch(["v0", "v1", "v2"]))
    found = [retriever.batch(["v0", "v1", "v2"], config), in_a_graph.invoke("", config)]
    assert calls == [3, 3]
    assert found[0] == found[1]
    others: Any = [{"configurable": {"thread_id": n}} for n in "12"]
    retriever.batch(["v0", "v1"], others)
    assert calls == [3, 3, 1, 1]


@pytest.mark.parametrize("name", ["session", "new_session"])
def test_a_session_behind_a_bound_filter_is_refused(name: str) -> None:
    retriever = RaLMSpecRetriever(vectorstore=langchain_faiss(n_rows=N_ROWS))
    red: Any = {"configurable": {"words": {"filter": only("red")}}}
    for bound in (
        retriever.bind(filter=only("red")),
        retriever.bind(filter=only("red")).with_config(tags=["t"]),
        retriever.with_config(tags=["t"]).bind(filter=only("red")),
        retriever.bind(k=3),
        retriever.with_config(red),
    ):
        with pytest.raises(InvalidValueError, match=rf"{name}\(\) does not know of"):
            getattr(bound, name)
    tagged: Any = retriever.bind().with_config(tags=["t"])
    assert tagged.session(k=2)


class Invoking(RaLMSpecRetriever):
    """Keeps other tenants' documents back."""

    def invoke(self, *args: Any, **words: Any) -> list[Document]:
        found = super().invoke(*args, **words)
        return [each for each in found if each.metadata["tenant"] == "red"]


class Searching(RaLMSpecRetriever):
    """Does so as LangChain's own retrievers are made."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: Any, **words: Any
    ) -> list[Document]:
        search: Any = super()._get_relevant_documents
        found = search(query, run_manager=run_manager, **words)
        return [each for each in found if each.metadata["tenant"] == "red"]


class Awaiting(RaLMSpecRetriever):
    """Does so where it is awaited alone."""

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: Any, **words: Any
    ) -> list[Document]:
        search: Any = super()._aget_relevant_documents
        found = await search(query, run_manager=run_manager, **words)
        return [each for each in found if each.metadata["tenant"] == "red"]


class Both(Searching, Awaiting):
    """Does so in either way."""


@pytest.mark.parametrize("own", [Invoking, Searching, Both])
async def test_a_subclass_that_searches_otherwise_does_so_in_batches(own: Any) -> None:
    retriever = own(vectorstore=store_of("red", "blue"))
    found = [*retriever.batch(["v0", "v1"]), retriever.invoke("v0")]
    found += await retriever.abatch(["v0", "v1"])
    if own is not Invoking:  # of which LangChain's ainvoke() does not ask that
        found.append(await retriever.ainvoke("v0"))
    assert {d.page_content for each in found for d in each} == {"red"}
    with pytest.raises(InvalidValueError, match="searches by itself"):
        retriever.session()


async def test_what_searches_otherwise_where_it_is_awaited_does_so_in_abatch() -> None:
    retriever = Awaiting(vectorstore=store_of("red", "blue"))
    found = [*await retriever.abatch(["v0", "v1"]), await retriever.ainvoke("v0")]
    assert [[d.page_content for d in each] for each in found] == [["red"]] * 3


@pytest.mark.parametrize("given", [True, False])
def test_a_truth_value_is_no_filter(given: bool) -> None:
    store = langchain_faiss(n_rows=N_ROWS)
    with pytest.raises(InvalidValueError, match=f"got {given}; to find any, give None"):
        chat_over(store)._restricted_by({"filter": given})


def test_a_filter_changed_in_place_and_another_search_type_count_too() -> None:
    condition = {"group": 1}
    retriever = langchain_faiss(n_rows=N_ROWS).as_retriever(
        search_kwargs={"filter": condition}
    )
    chat = chat_over(retriever)
    begun = chat._current_retriever
    assert set(found_by(chat)) <= {"v1", "v4", "v7", "v10"}
    condition["group"] = 2
    assert set(found_by(chat)) <= {"v2", "v5", "v8", "v11"}
    assert {d.metadata["group"] for d in begun.invoke("v0")} == {1}
    retriever.search_type = "mmr"
    assert isinstance(chat._current_retriever.store, RetrieverStore)
    retriever.search_kwargs["fetchk"] = 9
    retriever.search_type = "similarity"
    with pytest.raises(UnknownArgumentError, match="did you mean 'fetch_k'"):
        chat._current_retriever  # noqa: B018  it looks


def test_words_changed_in_place_count_for_our_own_retriever_too() -> None:
    condition = {"group": 1}
    retriever = RaLMSpecRetriever(
        vectorstore=langchain_faiss(n_rows=N_ROWS), search_kwargs={"fetch_k": 9}
    )
    key = retriever.key
    retriever.search_kwargs["fetch_k"] = 8
    assert retriever.key != key
    assert retriever.store._options == {"fetch_k": 8}  # type: ignore[attr-defined]
    filtered = RaLMSpecRetriever(vectorstore=retriever.vectorstore, filter=condition)
    condition["group"] = 2  # a copy of which it has
    assert {d.metadata["group"] for d in filtered.invoke("v0")} == {1}


def test_one_that_is_assigned_is_adopted_when_a_request_begins() -> None:
    chat = chat_over(store_of("red"))
    chat.retriever = store_of("blue").as_retriever()
    assert found_by(chat) == ["blue"]


def test_a_pickled_one_searches_as_before() -> None:
    retriever = langchain_faiss(n_rows=N_ROWS).as_retriever(search_type="mmr")
    chat = chat_over(retriever)
    again: ChatRaLMSpec = pickle.loads(pickle.dumps(chat))  # noqa: S301  our own
    assert found_by(again) == found_by(chat)
    assert adopt(again.retriever) is again.retriever


def test_a_filter_that_cannot_be_searched_by_is_refused_again_and_again() -> None:
    store = langchain_faiss(n_rows=N_ROWS)
    retriever = RaLMSpecRetriever(vectorstore=store, filter={"group": 1})
    key = retriever.key
    retriever.filter["group"] = 2
    assert {d.metadata["group"] for d in retriever.invoke("v0")} == {2}
    assert retriever.key != key
    retriever.filter["group"] = {"$wrong": 1}
    for _ in range(2):
        with pytest.raises(InvalidValueError, match="wrong"):
            retriever.invoke("v0")


def test_a_filter_of_a_class_of_its_own_is_the_same_as_long_as_it_is() -> None:
    words = {"filter": OrderedDict(group=1)}
    given = langchain_faiss(n_rows=N_ROWS).as_retriever(search_kwargs=words)
    adopted = adopt(given)
    assert adopt(adopted) is adopted
    assert adopted.store is adopted.store
    words["filter"]["group"] = 2
    assert adopt(adopted) is not adopted


class Match(BaseModel):
    value: list[str]


class Where(BaseModel, extra="allow"):
    """As filters of Qdrant's are: a model of data, and of models."""

    must: list[Match]


class Asked(Where):
    def search(self) -> None: ...


def test_a_filter_that_is_a_model_is_compared_by_what_it_says() -> None:
    other: Any = {"should": [Match(value=["blue"])]}
    given: Any = Where(must=[Match(value=["red"])], **other)
    for condition in (given.must[0], given.should[0]):
        settings = owned({"filter": given})
        assert is_same(settings, {"filter": given.model_copy(deep=True)})
        condition.value[0] = "green"
        assert not is_same(settings, {"filter": given})
    assert not is_same(given, Asked(**dict(given)))


@pytest.mark.parametrize(
    "model",
    [
        Document("x"),
        DeterministicFakeEmbedding(size=8),
        RunnableLambda(str).bind(),
        Asked(must=[]),
    ],
)
def test_a_model_that_can_do_something_is_what_it_is(model: Any) -> None:
    assert owned([model])[0] is model
    assert not is_same(model, model.model_copy())


def chosen(base: Any) -> Any:
    field = ConfigurableField("words")
    dynamic = base.configurable_fields(search_kwargs=field)
    return dynamic.with_config(configurable={"words": {"k": 6}})


@pytest.mark.parametrize(
    "wrapped", [lambda base: base.bind(k=6), chosen, lambda base: chosen(base).bind()]
)
def test_a_bound_number_of_documents_counts(wrapped: Any) -> None:
    base = langchain_faiss(n_rows=N_ROWS).as_retriever(search_kwargs={"k": 2})
    retriever = wrapped(base)
    assert len(retriever.invoke("v0")) == 6
    assert documents_wanted(adopt(retriever)) == 6
    assert chat_over(retriever, retrieval_policy="once").n_documents == 6


class OverPart(RaLMSpecRetriever):
    """Searches the documents of one tenant."""

    @property
    def store(self) -> Any:
        return GenericStore(self.vectorstore, lambda d: d.metadata["tenant"] == "red")


def test_a_subclass_that_searches_another_store_is_asked_itself() -> None:
    retriever = OverPart(vectorstore=store_of("red", "blue"), k=2)
    assert [d.page_content for d in retriever.invoke("v0")] == ["red"]
    assert found_by(chat_over(retriever)) == ["red"]
    with pytest.raises(InvalidValueError, match="searches by itself"):
        retriever.session()
