"""Searches of a vector store at once, and changes of its documents alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.registry import Registry, renewed_in_children
from langchain_ralmspec.stores.call_threads import Once, current_call


class SharedLock:
    """Lets in many searches at once, or one change and no search.

    A change that waits keeps new searches out, or under load it would wait for ever;
    but not those that a search makes itself, as a filter of its caller's may.
    """

    def __init__(self) -> None:
        self.renew_locks()
        renewed_in_children(self)

    def renew_locks(self) -> None:
        """Start free: no thread is inside."""
        self._turn, self._own = threading.Condition(), threading.local()
        self._n_searches = 0  # that run
        self._n_changes = 0  # that run or wait
        self._is_changing = False

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Search in this block, beside others."""
        if getattr(self._own, "searches", False):
            yield
            return
        with (turn := self._turn):
            turn.wait_for(lambda: not self._n_changes)
            self._n_searches += 1
        self._own.leave = leave = Once(partial(self._left, turn))
        self._own.searches = True
        try:
            yield
        finally:
            self._own.searches = False
            leave()

    def _left(self, turn: threading.Condition) -> None:
        with turn:
            if self._turn is turn:  # else this is a forked process
                self._n_searches -= 1
                turn.notify_all()

    @contextmanager
    def embedding(self) -> Iterator[None]:
        """Wait in this block for an encoder, in a search that embeds by itself.

        Should its call be given up meanwhile, changes do not wait for it any more.

        Raises:
            StoreError: it was: what it would search may be changing.
        """
        call = current_call()
        if call is None or not getattr(self._own, "searches", False):
            yield
            return
        give_up = Once(self._own.leave)
        call.hold(give_up)
        try:
            yield
        finally:
            is_wanted = give_up.taken_back()
        if not is_wanted:
            call.require_wanted()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change documents in this block, alone.

        Raises:
            InvalidValueError: a search of this thread is under way.
        """
        if getattr(self._own, "searches", False):
            msg = "a search cannot change the documents that it looks through"
            raise InvalidValueError(msg)
        with (turn := self._turn):
            self._n_changes += 1
            try:
                turn.wait_for(self._is_free)
                self._is_changing = True
            except BaseException:  # the wait was interrupted
                self._n_changes -= 1
                turn.notify_all()
                raise
        try:
            yield
        finally:
            with turn:
                if self._turn is turn:
                    self._n_changes -= 1
                    self._is_changing = False
                    turn.notify_all()

    def _is_free(self) -> bool:
        return not (self._n_searches or self._is_changing)


_locks = Registry(SharedLock)


SAME_AS = "_ralmspec_same_as"
"""What a class is told by that stands for a store with another encoder."""


def original(store: Any) -> Any:
    """The store that another object stands for; else the store itself."""
    return vars(type(store)).get(SAME_AS, store)


def lock_of(vectorstore: object) -> SharedLock:
    """The one lock of a store in this process's memory, whoever asks for it.

    A server looks after itself: there a call that hangs must not keep others waiting.
    """
    vectorstore = original(vectorstore)
    kinds = {base.__name__ for base in type(vectorstore).__mro__}
    memory: object = vectorstore  # that is searched and changed
    if "QdrantVectorStore" in kinds:
        memory = getattr(vectorstore, "client", None)
        is_local = type(getattr(memory, "_client", None)).__name__ == "QdrantLocal"
    else:
        is_local = isinstance(vectorstore, InMemoryVectorStore) or "FAISS" in kinds
    # Not in the store, as a lock in it would keep it from being pickled.
    return _locks.of(memory) if is_local else SharedLock()
