"""Look-ups of an answer as LangChain's callbacks see them: runs beneath the model's."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.runnables.config import (
    ensure_config,
    get_callback_manager_for_config,
)
from langchain_core.utils.uuid import uuid7

from langchain_ralmspec.ralm import Asked, Found, Verified

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_core.callbacks import (
        CallbackManagerForChainRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import RunnableConfig

    from langchain_ralmspec.ralm import Event
    from langchain_ralmspec.ralm.run import RetrievalRun
    from langchain_ralmspec.stores import Hit

VERIFICATION = "ralmspec_verification"
"""Name of the run of a call that verifies guesses."""

ModelRun: TypeAlias = CallbackManagerForLLMRun | None
"""The run of a model's answer; None where nobody listens."""

_runs: ContextVar[tuple[ModelRun, ...]] = ContextVar("runs", default=())


@contextmanager
def runs_of_answers(*runs: ModelRun) -> Iterator[None]:
    """Say of which runs the answers are that begin in a block, in their order.

    LangChain does not tell what streams a chat model's answer of its run, and what
    completes several prompts of the first one's alone.
    """
    before = _runs.set(runs)
    try:
        yield
    finally:
        _runs.reset(before)


def run_begun(number: int = 0) -> ModelRun:
    """The run of an answer that begins now."""
    runs = _runs.get()
    return runs[number] if number < len(runs) else None


def in_sync(
    run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None,
) -> ModelRun:
    """The run as threads tell it."""
    return run.get_sync() if isinstance(run, AsyncCallbackManagerForLLMRun) else run


def listeners_of(run: ModelRun) -> CallbackManager | None:
    """Who is told of runs beneath a model's run; None where nobody listens."""
    if run is None or not run.inheritable_handlers:
        return None
    handlers, tags = [*run.inheritable_handlers], [*run.inheritable_tags]
    # What LangSmith is told of the model is not so of its look-ups.
    told = run.inheritable_metadata.items()
    metadata = {name: each for name, each in told if not name.startswith("ls_")}
    return CallbackManager(
        handlers=handlers,
        inheritable_handlers=handlers,
        parent_run_id=run.run_id,
        tags=tags,
        inheritable_tags=tags,
        metadata=metadata,
        inheritable_metadata=metadata,
    )


def identified(config: RunnableConfig | None) -> tuple[RunnableConfig, ModelRun]:
    """The config of a call, and the run that it is going to have.

    Its handlers are settled now, and so is its id.
    """
    config = ensure_config(config)
    callbacks = CallbackManager.configure(config.get("callbacks"))
    if not callbacks.inheritable_handlers:
        return config, None
    run_id = config.get("run_id") or uuid7()
    config = {**config, "callbacks": callbacks, "run_id": run_id}
    manager = get_callback_manager_for_config(config)
    run = CallbackManagerForLLMRun(
        run_id=run_id,
        handlers=manager.handlers,
        inheritable_handlers=manager.inheritable_handlers,
        parent_run_id=manager.parent_run_id,
        inheritable_tags=manager.inheritable_tags,
        inheritable_metadata=manager.inheritable_metadata,
    )
    return config, run


def trace(run: RetrievalRun, retriever: BaseRetriever, model_run: ModelRun) -> None:
    """Have callbacks told of an answer's look-ups, if anybody listens."""
    if listeners := listeners_of(model_run):
        run.observer = LookUpRuns(listeners, retriever)


@dataclass(slots=True)
class _Verification:
    """A call that verifies guesses, as a run; its queries are runs beneath."""

    run: CallbackManagerForChainRun
    n_right: int = 0
    n_due: int | None = None  # look-ups to be told of; None until it came back

    @property
    def outputs(self) -> dict[str, Any]:
        return {"is_used": self.n_due is not None, "n_right": self.n_right}


@dataclass(slots=True)
class LookUpRuns:
    """Opens and ends a run for every look-up that an answer rests on.

    They are opened in the order in which the sequential loop asks, whoever has guessed
    what; the metadata of each say what came of the guess. A call that verifies is a
    chain run around those of its queries, from the moment when it is sent. A query that
    was made behind a wrong guess is no part of the answer: it is only named there.
    """

    listeners: CallbackManager
    retriever: BaseRetriever
    _retrieval: CallbackManagerForRetrieverRun | None = None
    _verifications: deque[_Verification] = field(default_factory=deque)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        """End what is open: with the error that ended the answer, if one did."""
        retrieval, self._retrieval = self._retrieval, None
        with ExitStack() as ends:  # all of them, though one fails; the last one first
            if error is not None:  # which is not to be hidden by that of a handler
                ends.enter_context(suppress(Exception))
            while self._verifications:
                verification = self._verifications.pop()
                if error is None:
                    ends.callback(verification.run.on_chain_end, verification.outputs)
                else:
                    ends.callback(verification.run.on_chain_error, error)
            if retrieval is not None and error is not None:
                ends.callback(retrieval.on_retriever_error, error)

    def take(self, event: Event) -> None:
        """Tell the callbacks of an event, if it is of a look-up."""
        if isinstance(event, Asked):
            self._asked(event)
        elif isinstance(event, Verified):
            self._verified(event)
        elif isinstance(event, Found):
            self._found(event)

    def _asked(self, event: Asked) -> None:
        if event.verifies:
            inputs = {"queries": list(event.queries)}
            run = self.listeners.on_chain_start(None, inputs, name=VERIFICATION)
            self._verifications.append(_Verification(run))
        else:
            self._retrieval = self._start(self.listeners, *event.queries, guess="none")

    def _verified(self, event: Verified) -> None:
        current = self._verifications[0]
        current.n_right = event.n_right
        current.n_due = min(event.n_right + 1, event.n_guesses)
        while event.n_right < event.n_guesses and len(self._verifications) > 1:
            abandoned = self._verifications.pop()
            abandoned.run.on_chain_end(abandoned.outputs)

    def _found(self, event: Found) -> None:
        guess = event.guess
        if guess is None:
            run, self._retrieval = self._retrieval, None
            assert run is not None  # noqa: S101  it was asked
            run.on_retriever_end(_documents(event.hits))
            return
        verdict = "right" if event.is_right else "wrong"
        about: dict[str, Any] = {"guess_policy": guess.policy}
        if not event.is_right:
            about["guessed"] = [hit.id for hit in guess.hits]
        if guess.is_proven:
            run = self._start(self.listeners, event.query, guess="proven", **about)
            run.on_retriever_end(_documents(event.hits))
            return
        current = self._verifications[0]
        above = current.run.get_child()
        run = self._start(above, event.query, guess=verdict, **about)
        run.on_retriever_end(_documents(event.hits))
        assert current.n_due is not None  # noqa: S101  it came back
        current.n_due -= 1
        if not current.n_due:
            self._verifications.popleft()
            current.run.on_chain_end(current.outputs)

    def _start(
        self, above: CallbackManager, query: str, **about: Any
    ) -> CallbackManagerForRetrieverRun:
        manager = above.copy()
        known = self.retriever._get_ls_params()  # noqa: SLF001 (no public name)
        told = {f"ralmspec_{name}": value for name, value in about.items()}
        manager.add_metadata({**known, **told}, inherit=False)
        name = self.retriever.get_name()
        return manager.on_retriever_start(None, query, name=name)


def _documents(hits: Sequence[Hit]) -> list[Any]:
    return [hit.document for hit in hits]
