"""Things that belong to other objects, kept outside them for as long as these live."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class HasLocks(Protocol):
    """What must not take over, in a forked process, locks that a thread held."""

    def renew_locks(self) -> None:
        """Put free locks in place of the object's own."""


_renewed: weakref.WeakSet[HasLocks] = weakref.WeakSet()


def renewed_in_children(owner: HasLocks) -> None:
    """Have an object's locks renewed in every forked process: no thread frees them."""
    _renewed.add(owner)


def _renew() -> None:
    for owner in list(_renewed):
        owner.renew_locks()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_renew)


class Registry(Generic[T]):
    """One thing for each object, made when it is asked for first.

    Objects are told apart by identity. Python uses the ``id()`` of a freed object
    again, so what is kept is compared with the object itself. What takes no weak
    references gets a new thing each time.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        """Start empty; ``make`` makes the thing of an object."""
        self._make = make
        self._kept: dict[int, tuple[weakref.ref[object], T]] = {}
        self.renew_locks()
        renewed_in_children(self)

    def renew_locks(self) -> None:
        """Have a free lock, re-entrant: what is collected meanwhile comes back here."""
        self._lock = threading.RLock()

    def of(self, owner: object) -> T:
        """The thing that belongs to ``owner``."""
        key = id(owner)
        with self._lock:
            reference, thing = self._kept.get(key, (None, None))
            if reference is not None and thing is not None and reference() is owner:
                return thing
            made = self._make()
            with contextlib.suppress(TypeError):
                self._kept[key] = (
                    weakref.ref(owner, lambda ref: self._drop(key, ref)),
                    made,
                )
            return made

    def _drop(self, key: int, reference: weakref.ref[object]) -> None:
        with self._lock:
            if key in self._kept and self._kept[key][0] is reference:
                del self._kept[key]
