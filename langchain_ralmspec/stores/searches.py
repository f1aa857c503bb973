"""Which search of a LangChain vector store is its own, and which words it takes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from inspect import Parameter, iscoroutinefunction, signature
from typing import Any

from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever

from langchain_ralmspec.errors import (
    InvalidValueError,
    SetupError,
    UnknownArgumentError,
)
from langchain_ralmspec.stores.held import PACKAGES, runnables_within

SEARCHES = (
    "similarity_search",
    "similarity_search_by_vector",
    "similarity_search_with_score",
    "similarity_search_with_score_by_vector",
)
"""Methods that answer for one another: a store overrides one, another calls it."""

_BY_TEXT, _BY_VECTOR = SEARCHES[:2]

# By the libraries' sources: they embed a text, and then do what they do by its vector.
# Hybrid stores are searched by its words as well, and some embed it in several ways.
_EMBEDDING_FIRST = ("Chroma", "FAISS", "InMemoryVectorStore", "PGVector")
_EMBEDDED_BY = ("_embed_query", "embeddings", "__getattribute__")

# By the libraries' sources: words that their searches take among others, and heed.
# OpenSearch heeds other filters than this one in some searches alone.
_HEEDED = {
    "Dingo": {"score_threshold"},
    "FAISS": {"score_threshold"},
    "MomentoVectorIndex": {"filter_expression"},
    "OpenSearchVectorSearch": {
        "filter",
        "index_name",
        "metadata_field",
        "text_field",
        "vector_field",
    },
    "ScaNN": {"score_threshold"},
}
# Searches that as_retriever(search_type=…) may call besides; one is LangChain's own.
_BY_SCORE = "similarity_search_with_relevance_scores"
_BY_RETRIEVERS = ("max_marginal_relevance_search", _BY_SCORE)
_OVER_A_STORE = ("vectorstore", "search_kwargs")  # fields of what searches one
_OF_RETRIEVERS = {"k", "score_threshold", "fetch_k", "lambda_mult"}


def definitions(owner: object) -> list[Mapping[str, Any]]:
    """Names that an object defines itself, then those of its classes, nearest first."""
    return [getattr(owner, "__dict__", {}), *map(vars, type(owner).__mro__)]


def is_plain(store: object, base: str, methods: Iterable[str], *packages: str) -> bool:
    """Whether a store is LangChain's class, or one that searches as that does.

    A subclass that overrides a search, to add a tenant's filter, say, must be asked by
    its own method. So must an object whose method was replaced.

    Args:
        store: any object.
        base: name of LangChain's class; its package need not be installed.
        methods: what must be that class's own, attributes that it searches included.
        packages: that the class may be of; any of LangChain's where none is named.
    """
    for place, owner in enumerate(type(store).__mro__):
        package, _, _ = owner.__module__.partition(".")
        if owner.__name__ == base and package in (packages or PACKAGES):
            itself, *nearer = definitions(store)[: place + 1]
            searches = (*SEARCHES, *(f"a{name}" for name in SEARCHES))
            return not any(name in itself for name in searches) and not any(
                name in owned for owned in nearer for name in (*searches, *methods)
            )
    return False


def refuse_async_alone(store: VectorStore) -> None:
    """Refuse a store one of whose searches is overridden for ``await`` alone.

    It would be passed by: only the other kind of search is called here.

    Raises:
        InvalidValueError: it is such a store.
    """
    if not issubclass(type(store), VectorStore):
        msg = f"a {type(store).__name__} stands for a vector store; give that itself"
        raise InvalidValueError(msg)
    lowest = 1 + type(store).__mro__.index(VectorStore)  # where no search is one yet
    for name in (*SEARCHES, *_BY_RETRIEVERS):
        is_search = depth_of(store, name) < lowest or name == _BY_SCORE
        if is_search and depth_of(store, f"a{name}") < depth_of(store, name):
            raise _async_alone(store, f"a{name}", name)


def refuse_awaited_alone(retriever: Runnable[Any, Any]) -> None:
    """Refuse a retriever that searches otherwise where it is awaited.

    As with :func:`refuse_async_alone`. Looks into retrievers of retrievers, pipes, what
    words or a config are bound to, and the stores that these search.

    Raises:
        InvalidValueError: it is such a retriever, or holds one.
    """
    for part in runnables_within(retriever):
        if part is not retriever and not isinstance(part, BaseRetriever):
            continue
        for awaited, name in (
            ("ainvoke", "invoke"),
            ("_aget_relevant_documents", "_get_relevant_documents"),
        ):
            if depth_of(part, awaited) < depth_of(part, name):
                raise _async_alone(part, awaited, name)
        store: Any = getattr(part, "vectorstore", None)
        if issubclass(type(store), VectorStore):
            refuse_async_alone(store)


def refuse_swallowed_words(retriever: Runnable[Any, Any]) -> None:
    """Refuse a retriever over a store whose searches would swallow its words.

    A filter among them would keep nothing back. Looks into retrievers of retrievers,
    pipes, and what ``bind()`` gives words to.

    Raises:
        InvalidValueError: no search of a store names the ``filter`` of a retriever, or
            it can only be awaited.
        UnknownArgumentError: none names another of its words, or a word was bound to
            a retriever that takes none.
    """
    for part in runnables_within(retriever):
        inner, given = inmost(part)
        # LangChain's own note of whether it leaves them out.
        takes_words = getattr(inner, "_expects_other_args", True)
        if isinstance(inner, BaseRetriever) and not takes_words:
            for word in given:
                raise _dropped(inner, word)
        store, words = (getattr(inner, name, None) for name in _OVER_A_STORE)
        if isinstance(store, VectorStore) and isinstance(words, Mapping):
            words = {**words, **given}
            require_filter(words.get("filter"))
            names = [name for name in dir(type(store)) if "search" in name]
            known = {word for name in names for word in _words(store, name)[0]}
            for word in words.keys() - known - _OF_RETRIEVERS:
                raise _unknown(store, word, known)


def require_filter(filter: Any) -> None:  # noqa: A002  (LangChain's name)
    """Refuse what is no filter, whatever the store.

    To some stores False is none, and all may be found; what is to be waited for is true
    of every document.

    Raises:
        SetupError: it is a truth value, or a function to be awaited.
    """
    if isinstance(filter, bool):
        msg = (
            f"a filter says which documents may be found, got {filter!r}; to find any, "
            "give None"
        )
        raise SetupError(msg)
    called = getattr(filter, "__call__", None)  # noqa: B004  of an object, its method
    if iscoroutinefunction(filter) or iscoroutinefunction(called):
        msg = (
            f"a filter is called without await, got {filter!r}; give one without async"
        )
        raise SetupError(msg)


def filter_of(retriever: Runnable[Any, Any]) -> Any:
    """The filter of what ``as_retriever()`` gives, bound to it or its own; or None.

    What comes back is to be tested against it: a search may name it, and ignore it.
    """
    inner, given = unbound(retriever)
    if isinstance(inner, VectorStoreRetriever):
        return {**inner.search_kwargs, **given}.get("filter")
    return None


def unbound(retriever: Any) -> tuple[Any, dict[str, Any]]:
    """A retriever without what binds words to it, and these; the outer ones count."""
    given: dict[str, Any] = {}
    while isinstance(retriever, RunnableBindingBase):
        given = {**retriever.kwargs, **given}
        retriever = retriever.bound
    return retriever, given


def inmost(retriever: Any) -> tuple[Any, dict[str, Any]]:
    """What bindings and configurations lead to, and what words are bound to it."""
    given, config = dict[str, Any](), RunnableConfig()
    while isinstance(retriever, RunnableBindingBase | DynamicRunnable):
        if isinstance(retriever, DynamicRunnable):
            retriever, config = retriever.prepare(config)
        else:
            given = {**retriever.kwargs, **given}
            config = merge_configs(retriever.config, config)
            retriever = retriever.bound
    return retriever, given


def searched_by(retriever: Runnable[Any, Any]) -> VectorStore | None:
    """The store that an ``as_retriever()`` searches, and does nothing else."""
    inner, _ = unbound(retriever)
    return inner.vectorstore if isinstance(inner, VectorStoreRetriever) else None


def _async_alone(owner: object, awaited: str, name: str) -> InvalidValueError:
    return InvalidValueError(
        f"{type(owner).__name__} overrides {awaited} but not {name}, which is what is "
        f"called here, in threads; override {name} as well"
    )


def search_for(store: object, words: Collection[str], *, may_embed: bool) -> str:
    """The public method to search with: by vector where that is known to be the same.

    Else a store is asked by text, which is what LangChain's retrievers do: it may heed
    more than one vector, and a subclass may override one of the searches alone.

    Args:
        store: a LangChain vector store.
        words: arguments to be given, such as ``filter``.
        may_embed: whether the store shows its embeddings.

    Raises:
        InvalidValueError: no search of the store names ``filter``. One that takes any
            words would swallow it, and give documents that it was to keep back.
        UnknownArgumentError: no search of the store names another of the words.
    """
    named = {name: _words(store, name) for name in SEARCHES}
    known = {word for words_, _ in named.values() for word in words_}
    usable = [_BY_TEXT]
    if may_embed and any(is_plain(store, k, _EMBEDDED_BY) for k in _EMBEDDING_FIRST):
        usable.insert(0, _BY_VECTOR)
    usable = [name for name in usable if named[name][1] or named[name][0] >= {*words}]
    for word in words:
        if word not in known or not usable:
            raise _unknown(store, word, known)
    return max(usable, key=lambda name: len(named[name][0].intersection(words)))


def _unknown(
    store: object, word: str, known: Iterable[str]
) -> InvalidValueError | UnknownArgumentError:
    owner = f"{type(store).__name__}.similarity_search()"
    if word == "filter":
        others = sorted(known)
        hint = f"give one of its own words in search_kwargs: {', '.join(others)}"
        return SetupError(
            f"{owner} has no argument 'filter', and would find documents that the "
            f"filter was to keep back; {hint if others else 'take another store'}"
        )
    return UnknownArgumentError.of(owner, word, {*known, "k"})


def _dropped(retriever: object, word: str) -> UnknownArgumentError:
    return UnknownArgumentError(
        f"{type(retriever).__name__}.invoke() has no argument {word!r}, and LangChain "
        "would leave it out; give it to the store's own as_retriever(search_kwargs=…)"
    )


def depth_of(store: object, name: str) -> int:
    """How far from the object a name is defined; 0 is the object itself."""
    layers = definitions(store)
    return next((n for n, names in enumerate(layers) if name in names), len(layers))


def _words(store: object, name: str) -> tuple[set[str], bool]:
    """The words that a search names, and whether it takes any others."""
    try:
        parameters = signature(getattr(store, name)).parameters.values()
    except (AttributeError, TypeError, ValueError):
        return set(), False
    is_open = any(each.kind is Parameter.VAR_KEYWORD for each in parameters)
    by_name = {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}
    words = {each.name for each in parameters if each.kind in by_name}
    if is_open:
        heeding = (kind for kind in _HEEDED if is_plain(store, kind, ()))
        words = words.union(*(_HEEDED[kind] for kind in heeding))
    return words - {"query", "embedding", "k"}, is_open
