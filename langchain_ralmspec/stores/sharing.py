"""Searches of a vector store at once, and changes of its documents alone."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Lets in many searches at once, or one change and no search.

    A change that waits keeps new searches out, or under load it would wait for ever.
    So no search may begin inside another one.
    """

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._n_searches = 0  # that run
        self._n_changes = 0  # that run or wait
        self._is_changing = False

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Search in this block, beside others."""
        with self._turn:
            self._turn.wait_for(lambda: not self._n_changes)
            self._n_searches += 1
        try:
            yield
        finally:
            with self._turn:
                self._n_searches -= 1
                self._turn.notify_all()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change documents in this block, alone."""
        with self._turn:
            self._n_changes += 1
            try:
                self._turn.wait_for(self._is_free)
                self._is_changing = True
            except BaseException:  # the wait was interrupted
                self._n_changes -= 1
                self._turn.notify_all()
                raise
        try:
            yield
        finally:
            with self._turn:
                self._n_changes -= 1
                self._is_changing = False
                self._turn.notify_all()

    def _is_free(self) -> bool:
        return not (self._n_searches or self._is_changing)


_locks: weakref.WeakKeyDictionary[object, SharedLock] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def lock_of(vectorstore: object) -> SharedLock:
    """The one lock of a vector store, whoever asks for it.

    It is kept here, as a lock inside the store would keep it from being pickled.
    """
    with _making:
        try:
            return _locks.setdefault(vectorstore, SharedLock())
        except TypeError:  # it has no hash, or no weak references
            return SharedLock()
