"""Every error this package raises on purpose.

Each one quotes the value that was refused and says what to do about it. Each
also derives from the built-in (or langchain-core) exception that a caller
would expect, so existing ``except`` clauses keep working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from langchain_core.exceptions import ContextOverflowError as CoreContextOverflowError


def stops_a_graph(error: BaseException) -> bool:
    """Whether it is no failure, but how LangGraph's ``interrupt()`` pauses a graph.

    Told by its name: LangGraph may not be installed.
    """
    return any(kind.__name__ == "GraphBubbleUp" for kind in type(error).__mro__)


class RaLMSpecError(Exception):
    """Base class of all errors of this package.

    Attributes:
        partial: the text of the answer that the error ended, as far as it was final, so
            just what a stream had given; empty where none had begun.
    """

    partial: str = ""


class InvalidValueError(RaLMSpecError, ValueError):
    """An argument has a value that cannot be served."""


class SetupError(InvalidValueError):
    """What an application has set up cannot be served, whatever is asked.

    A metadata filter, say, a ``document_prompt``, or a document of the store. A server
    does not quote it to who asks.
    """


class UnknownArgumentError(RaLMSpecError, TypeError):
    """A constructor or call was given an argument that does not exist."""

    @classmethod
    def of(cls, owner: str, given: str, known: Iterable[str]) -> UnknownArgumentError:
        """Build the error, naming the known argument nearest to ``given``."""
        return cls(f"{owner} has no argument {given!r}; {hint(given, sorted(known))}")


class MissingExtraError(RaLMSpecError, ImportError):
    """A part of the package needs an optional dependency that is not installed."""

    @classmethod
    def of(cls, module: str, extra: str) -> MissingExtraError:
        """Build the error that names the extra which brings ``module``."""
        return cls(
            f"the module {module!r} is not installed; "
            f"run: pip install 'langchain-ralmspec[{extra}]' "
            f"(in a clone: pip install '.[{extra}]')"
        )


class ModelFileError(RaLMSpecError, OSError):
    """A model file is missing, unreadable or not a GGUF."""


class ChatTemplateError(RaLMSpecError, ValueError):
    """Chat was asked of a model without a usable chat template."""


class GrammarError(RaLMSpecError, ValueError):
    """A grammar, or a schema that one is made of, cannot constrain an answer."""


class ContextOverflowError(RaLMSpecError, CoreContextOverflowError):
    """Prompt, documents and answer together do not fit the context."""


class DecodeError(RaLMSpecError, RuntimeError):
    """llama.cpp refused to decode a batch."""


class QueueFullError(RaLMSpecError, RuntimeError):
    """As many requests as may do so wait already for a model that is answering."""

    @classmethod
    def of(cls, n_writing: int, n_waiting: int, max_queue: int) -> QueueFullError:
        """Build the error that tells how many are answered, and how many wait."""
        return cls(
            f"{n_writing} requests are being answered by this model and {n_waiting} "
            f"wait, and max_queue={max_queue} lets no more wait; ask again once one "
            "has ended, raise max_queue, or let more processes answer (ralmspec serve)"
        )


class EmptyStoreError(RaLMSpecError, LookupError):
    """A search that generation depends on found no document at all."""


class DimensionMismatchError(RaLMSpecError, ValueError):
    """Query embeddings and stored vectors have different dimensions."""


class StoreError(RaLMSpecError, RuntimeError):
    """The store, or the query encoder in front of it, raised; the cause is chained."""


class StoreTimeoutError(StoreError, TimeoutError):
    """The store, or the query encoder in front of it, did not answer in time."""

    @classmethod
    def of(cls, store: str, seconds: float) -> StoreTimeoutError:
        """Build the error that names the store, and how long it was waited for."""
        return cls(
            f"{store} did not answer within {seconds:g} s (store_timeout), embedding "
            "included; see that the store and the embeddings are up, or give more "
            "seconds: store_timeout= of the model, and of its RaLMSpecRetriever; the "
            "next request asks anew"
        )


class DatastoreError(RaLMSpecError, RuntimeError):
    """A kNN datastore is missing, truncated, or was made by another model."""


def hint(given: object, known: Iterable[str]) -> str:
    """What may have been meant: the known name nearest to a wrong one, else all."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(given).lower(), names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {names[near[0]]!r}?"
    return f"known: {', '.join(names.values())}"
