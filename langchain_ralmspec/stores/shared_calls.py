"""One call of a store for the queries of all requests that wait for it.

A call of a server takes about as long for many queries as for one. So while a call is
out, queries of other requests gather, and go together once it returns.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_ralmspec.registry import Registry, renewed_in_children

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_ralmspec.stores.base import Found, Query, Store

    Search = Callable[[Sequence[Query]], list[Found]]

PATIENCE = 5.0
"""Seconds after which a call that is out keeps nobody waiting: it may hang."""


@dataclass(eq=False, slots=True)
class _Asked:
    """Queries of one request, and what became of them."""

    owner: object
    queries: Sequence[Query]
    call: _Call | None = None  # that they are in
    found: list[Found] | None = None


@dataclass(eq=False, slots=True)
class _Call:
    """A call that is out."""

    asked: Sequence[_Asked]
    has_returned: bool = False

    def is_for_others(self, owner: object) -> bool:
        """Whether queries of another owner are in it."""
        return any(each.owner is not owner for each in self.asked)


class SharedCalls:
    """Calls of one store, each for the queries of all who wait.

    One store under one filter is one object, so no call mixes filters.
    """

    def __init__(self) -> None:
        self.renew_locks()
        renewed_in_children(self)

    def renew_locks(self) -> None:
        """Start with nobody waiting: in a forked process no call returns."""
        self._changed = threading.Condition()
        self._waiting: dict[object, list[_Asked]] = {}  # by kind
        self._out: dict[object, list[_Call]] = {}

    def ask(
        self, queries: Sequence[Query], search: Search, *, owner: object, kind: object
    ) -> tuple[list[Found], int]:
        """Have a store asked, and be told what is found for each query.

        Queries wait until one returns of the calls that are out for others; one owner
        may have several calls out.

        Args:
            queries: of one request.
            search: asks the store, in one call; that of any of those who share it.
            owner: whose queries they are.
            kind: what calls have in common that may be one.

        Returns:
            What was found, and how many calls this thread made.

        Raises:
            Exception: what the search for these queries alone raises.
        """
        asked = _Asked(owner, queries)
        call = self._begin(asked, kind)
        if call is None:
            if asked.found is not None:
                return asked.found, 0
            return search(queries), 1  # for all it failed, so each asks alone
        try:
            found = search([query for each in call.asked for query in each.queries])
            rest = iter(found)
            for each in call.asked:
                each.found = [next(rest) for _ in each.queries]
        except Exception:
            if len(call.asked) == 1:
                raise
        finally:
            self._end(call, kind)
        return (search(queries), 2) if asked.found is None else (asked.found, 1)

    def _begin(self, asked: _Asked, kind: object) -> _Call | None:
        """Wait, and begin the call if nobody else does; else None, once it returned."""
        with self._changed:
            waiting = self._waiting.setdefault(kind, [])
            out = self._out.setdefault(kind, [])
            before = [call for call in out if call.is_for_others(asked.owner)]
            waiting.append(asked)
            try:
                self._changed.wait_for(
                    lambda: asked.call or not before or not set(before) <= set(out),
                    PATIENCE,
                )
            except BaseException:  # Ctrl-C
                if asked in waiting:
                    waiting.remove(asked)
                raise
            if (joined := asked.call) is not None:
                self._changed.wait_for(lambda: joined.has_returned)
                return None
            if set(before) <= set(out):  # they hang: nobody waits for them any more
                out[:] = [call for call in out if call not in before]
            call = _Call([*waiting])
            waiting.clear()
            for each in call.asked:
                each.call = call
            out.append(call)
            self._changed.notify_all()
            return call

    def _end(self, call: _Call, kind: object) -> None:
        """Tell everybody that a call has returned."""
        with self._changed:
            call.has_returned = True
            out = self._out.get(kind, [])
            if call in out:
                out.remove(call)
            self._changed.notify_all()


_shared = Registry(SharedCalls)


def shared_calls_of(store: Store) -> SharedCalls | None:
    """What the calls of a store are shared by; None where each request asks alone.

    A store in this process has no way to go that one call would spare, and its searches
    run side by side. And only stores that say so share: others may search by what is in
    the caller's context, such as a tenant.
    """
    return _shared.of(store) if getattr(store, "shares_calls", False) else None
