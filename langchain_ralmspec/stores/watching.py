"""Stores that embed texts by themselves, with an eye on what their encoder gives."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableSerializable
from langchain_core.vectorstores import VectorStore

from langchain_ralmspec.stores.embedding import as_vectors, document_vectors, lengths_of
from langchain_ralmspec.stores.encoding import embed_documents
from langchain_ralmspec.stores.held import PACKAGES
from langchain_ralmspec.stores.sharing import SAME_AS, SharedLock, lock_of, original

# Where LangChain's FAISS has its encoder, that may still be a function of one text.
_FUNCTION = "embedding_function"
# How far retrievers hold one another, and how many: more is data.
_DEEPEST, _MOST_HELD = 20, 100


class WatchedEmbeddings(Embeddings):
    """Embeddings that refuse what no search can compare.

    Args:
        embeddings: are asked; any attribute is theirs.
        lock: of the store that embeds by them.
    """

    def __init__(self, embeddings: Embeddings, lock: SharedLock) -> None:
        self._watched, self._lock = embeddings, lock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watched, name)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents; StoreError where a vector is not finite, or too long."""
        vectors: list[list[float]] = embed_documents(self._watched, texts, "documents")
        if texts:
            document_vectors(vectors, texts, type(self._watched).__name__)
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Embed a query; StoreError where it has no direction."""
        name = type(self._watched).__name__
        with self._lock.embedding():
            vector = self._watched.embed_query(text)
        lengths_of(as_vectors([vector], [text], name, "query texts"), [text], name)
        return vector


@cache
def _named_as(name: str) -> type[WatchedEmbeddings]:
    """The class under another name, which traces show."""
    return type(name, (WatchedEmbeddings,), {})


def _embedded(function: Callable[[str], Any], lock: SharedLock, text: str) -> Any:
    """What a function makes of a text, which may be empty, or a document's."""
    name = getattr(function, "__name__", "a function")
    with lock.embedding():
        vector = function(text)
    document_vectors([vector], [text], name, "texts")
    return vector


class _Encoder:
    """An attribute of a store, watched: what holds its embeddings at the time."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, store: Any, _: type[Any] | None = None) -> Any:
        held = vars(store)[self._name]
        if isinstance(held, Embeddings):
            return _named_as(type(held).__name__)(held, lock_of(store))
        is_function = self._name == _FUNCTION
        return partial(_embedded, held, lock_of(store)) if is_function else held

    def __set__(self, store: Any, value: Any) -> None:
        vars(store)[self._name] = value


def watched(store: VectorStore) -> VectorStore:
    """The same store, that raises a StoreError where its encoder gives no direction.

    It is a second object of a class that differs in the encoder alone; all else is
    shared, and what happens to the one happens to the other. Where such an object may
    not be, as for a store that shows no encoder, it is the store itself.
    """
    kind, embeddings = type(store), getattr(store, "embeddings", None)
    held = getattr(store, "__dict__", {})
    names = [name for name, value in held.items() if value is embeddings is not None]
    if embeddings is None and callable(held.get(_FUNCTION)):
        names = [_FUNCTION]
    if type(kind) is not ABCMeta or any(map(_is_special, kind.__mro__)) or not names:
        return store
    differs: dict[str, Any] = {name: _Encoder(name) for name in names}
    differs["__reduce__"] = lambda _: (watched, (store,))
    differs[SAME_AS] = original(store)
    own: Any = ABCMeta(kind.__name__, (kind,), differs)
    other: VectorStore = object.__new__(own)
    object.__setattr__(other, "__dict__", held)
    return other


def watched_within(value: Any, depth: int = _DEEPEST) -> Any:
    """The same retriever, whose stores raise as those that are :func:`watched` do.

    What LangChain's own retrievers, pipes and bindings hold is looked at. Others are
    kept as they are: what they note of a call would be noted in a copy.
    """
    if isinstance(value, VectorStore):
        return watched(value)
    package = type(value).__module__.partition(".")[0]
    held: dict[Any, Any]
    if type(value) in {list, tuple}:
        held = dict(enumerate(value))
    elif type(value) is dict:
        held = {**value}
    elif isinstance(value, RunnableSerializable) and package in PACKAGES:
        held = {**vars(value)}
    else:
        return value
    if not depth or len(held) > _MOST_HELD:
        return value
    inner = {name: watched_within(old, depth - 1) for name, old in held.items()}
    changed = {name: new for name, new in inner.items() if new is not held[name]}
    if not changed:
        return value
    if type(value) in {list, tuple}:
        return type(value)(inner.values())
    return inner if type(value) is dict else value.model_copy(update=changed)


def _is_special(kind: type[Any]) -> bool:
    """Whether a class minds how many subclasses or objects there are of it.

    It may close what its last object had, keep values elsewhere than other classes, or
    keep a list of its subclasses.
    """
    own = vars(kind)
    counts = "__del__" in own or bool(own.get("__slots__"))
    is_asked = "__init_subclass__" in own and kind.__module__ not in {"abc", "typing"}
    return counts or (is_asked and kind is not object)
