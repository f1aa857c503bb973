"""What a call may be answered from: the retriever under the filter of that call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.runnables.configurable import RunnableConfigurableFields
from pydantic import ValidationError

from langchain_ralmspec.arguments import owned
from langchain_ralmspec.errors import InvalidValueError, SetupError
from langchain_ralmspec.retrievers import adopt
from langchain_ralmspec.retrievers.snapshot import is_same
from langchain_ralmspec.stores.configuring import configuration_of, configured

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_ralmspec.retrievers import RaLMSpecRetriever

RESTRICTIONS = ("filter", "search_kwargs")
"""Arguments of a call that restrict its searches."""

_MOST = 64  # retrievers that are kept: a tenant asks again soon, or not for long


class RestrictedRetrievers:
    """The retrievers under the filters of the latest calls.

    Each has a store, and a replica, of its own: what one finds no other one is told.
    """

    def __init__(self) -> None:
        # Replaced as a whole, so that no thread sees it half changed.
        self._kept: tuple[tuple[Any, str, RaLMSpecRetriever], ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def of(
        self, retriever: RaLMSpecRetriever, overrides: dict[str, Any]
    ) -> RaLMSpecRetriever:
        """The retriever for a call, whose ``filter`` and ``search_kwargs`` are taken.

        A filter takes the place of the retriever's own, words go before its own. What
        the call's config says of the retriever is heeded as well.
        Raises as the retriever does for those that its store cannot use.
        """
        if values := owned(configuration_of(retriever.vectorstore)):
            retriever = self._configured(retriever, values)
        given = {name: overrides.pop(name, None) for name in RESTRICTIONS}
        given = {name: value for name, value in given.items() if value is not None}
        if not given:
            return retriever
        words = given.get("search_kwargs", {})
        if not isinstance(words, dict):
            msg = f"search_kwargs must be a dict, got {words!r:.60}"
            raise InvalidValueError(msg)
        own = owned((given.get("filter", retriever.filter), words))
        filter_, words = own
        words = {**retriever.search_kwargs, **words}
        update = {"filter": filter_, "search_kwargs": words}

        def made() -> RaLMSpecRetriever:
            copy = retriever.model_copy(update=update)
            copy.origin = retriever.origin  # which tells how many documents are wanted
            return copy

        return self._once(retriever, own, made)

    def _configured(
        self, retriever: RaLMSpecRetriever, values: dict[str, Any]
    ) -> RaLMSpecRetriever:
        def made() -> RaLMSpecRetriever:
            return adopt(configured(given, values))

        given = retriever.vectorstore
        # What is made of it by fields is made anew where its own have changed.
        has_fields = isinstance(given, RunnableConfigurableFields)
        own = owned((values, dict(given.default) if has_fields else None))
        known = self._once(retriever, own, made)
        chosen = adopt(known)  # as it is now: a filter that is set later is heeded
        if chosen is not known:
            pairs = ((s, key, r) for s, key, r in self._kept if r is not known)
            self._kept = ((own, retriever.key, chosen), *pairs)
        return chosen

    def _once(
        self,
        retriever: RaLMSpecRetriever,
        own: Any,
        make: Callable[[], RaLMSpecRetriever],
    ) -> RaLMSpecRetriever:
        key = retriever.key  # another one once it was opened anew
        for settings, of, restricted in self._kept:
            if of == key and is_same(settings, own):
                return restricted
        try:
            restricted = make()
        except ValidationError as error:  # of an object that the caller never made
            raise SetupError(_said_by(error)) from error
        self._kept = ((own, key, restricted), *self._kept)[:_MOST]
        return restricted


def adopted(retriever: Any) -> RaLMSpecRetriever:
    """The retriever as it is now.

    Raises:
        SetupError: its user has made it one that cannot be asked, which is not to be
            told to whoever asks.
    """
    try:
        return adopt(retriever)
    except ValueError as error:
        raise SetupError(_said_by(error)) from error


def _said_by(error: ValueError) -> str:
    """What an error says, without what pydantic says around it."""
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"].removeprefix("Value error, ")
    return str(error)
