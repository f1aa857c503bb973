"""Answers of one batch, written at once: order, failures, and no thread left."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import RaLMSpecLLM, RapidChain
from langchain_ralmspec.base.local import PreparedAnswer
from langchain_ralmspec.base.together import (
    THREADS,
    as_done,
    awaited_in_order,
    exhausted,
    in_order,
)

PATIENCE = 30.0  # seconds; only a broken loop waits so long
USAGE: Any = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
LABEL = contextvars.ContextVar("LABEL", default="")


def writers() -> list[str]:
    names = (thread.name for thread in threading.enumerate())
    return [name for name in names if name.startswith(THREADS)]


def test_works_are_done_at_once_and_given_in_order() -> None:
    meeting = threading.Barrier(3)

    def work(number: int) -> int:
        meeting.wait(PATIENCE)  # all three, or none
        return number

    assert in_order([partial(work, n) for n in range(3)], 3) == [0, 1, 2]
    assert writers() == []


def until_closed(closed: list[Any], number: Any) -> Generator[str, None, None]:
    """Pieces without an end, unless nobody closes them."""
    until = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < until:
            yield "a"
    except GeneratorExit:
        closed.append(number)
        raise


def endless(begun: threading.Event, closed: list[int], number: int) -> Any:
    begun.set()
    return exhausted(until_closed(closed, number))


def test_the_first_failure_by_order_is_raised_and_those_behind_are_left() -> None:
    begun, failed, closed = threading.Event(), threading.Event(), list[int]()

    def first() -> Any:
        assert failed.wait(PATIENCE)  # later than the second, and yet the first
        raise KeyError("first")

    def second() -> Any:
        assert begun.wait(PATIENCE)
        failed.set()
        raise ValueError("second")

    never: list[int] = []
    works: list[Callable[[], Any]] = [
        first,
        second,
        partial(endless, begun, closed, 2),
        partial(never.append, 1),
    ]
    with pytest.raises(KeyError):
        in_order(works, 3)
    assert closed == [2]
    assert writers() == []


def test_what_is_done_first_is_given_first_and_who_leaves_ends_the_others() -> None:
    begun, closed = threading.Event(), list[int]()

    def quick() -> str:
        assert begun.wait(PATIENCE)
        return "there"

    works: list[Callable[[], Any]] = [partial(endless, begun, closed, 0), quick]
    done = as_done(works, 2)
    assert next(done) == (1, "there")
    done.close()
    assert closed == [0]
    assert writers() == []


async def test_awaited_works_fail_by_order_too() -> None:
    left, cancelled = asyncio.Event(), list[str]()

    async def first() -> None:
        await asyncio.wait_for(left.wait(), PATIENCE)
        raise KeyError("first")

    async def second() -> None:
        raise ValueError("second")

    async def third() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            cancelled.append("third")
            left.set()

    with pytest.raises(KeyError):
        await awaited_in_order([first, third, second, third], 4)
    assert cancelled == ["third", "third"]


class Heard(BaseCallbackHandler):
    """What each run was told, by what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[Any, str] = {}
        self.said: dict[str, str] = {}
        self.ended: list[str] = []

    def on_llm_start(self, *given: Any, run_id: Any, **_: Any) -> None:
        self.asked[run_id] = given[1][0]

    def on_llm_new_token(self, token: Any, *, run_id: Any, **_: Any) -> None:
        prompt = self.asked[run_id]
        self.said[prompt] = self.said.get(prompt, "") + token

    def on_llm_end(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.ended.append(self.asked[run_id])


def fake_llm(
    monkeypatch: pytest.MonkeyPatch, pieces: Callable[[str], Any], n_together: int
) -> RaLMSpecLLM:
    def answer(_: Any, asked: str, *__: Any) -> PreparedAnswer:
        return PreparedAnswer(pieces(asked), dict, lambda: USAGE)

    engine = SimpleNamespace(
        path=Path("m.gguf"), n_together=lambda n: min(n, n_together)
    )
    monkeypatch.setattr(RaLMSpecLLM, "_answer", answer)
    monkeypatch.setattr(RaLMSpecLLM, "engine", engine)
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    return RaLMSpecLLM(model_path="m.gguf", retriever=store, streaming=True)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("way", ["generate", "batch", "whatever fails"])
def test_prompts_of_one_call_are_written_at_once(
    monkeypatch: pytest.MonkeyPatch, way: str, is_async: bool
) -> None:
    meeting = threading.Barrier(3)

    def pieces(asked: str) -> Generator[str]:
        yield asked
        meeting.wait(PATIENCE)
        yield LABEL.get()

    llm, heard = fake_llm(monkeypatch, pieces, 3), Heard()
    LABEL.set("!")
    prompts, config = ["one", "two", "three"], {"callbacks": [heard]}
    words: Any = {"return_exceptions": True} if way == "whatever fails" else {}
    if way == "generate":
        if is_async:
            result = asyncio.run(llm.agenerate(prompts, callbacks=[heard]))
        else:
            result = llm.generate(prompts, callbacks=[heard])
        texts = [each[0].text for each in result.generations]
        assert (result.llm_output or {})["token_usage"]["total_tokens"] == 6
    elif is_async:
        texts = asyncio.run(llm.abatch(prompts, config, **words))  # type: ignore[arg-type]
    else:
        texts = llm.batch(prompts, config, **words)  # type: ignore[arg-type]
    assert texts == ["one!", "two!", "three!"]
    assert heard.said == {prompt: f"{prompt}!" for prompt in prompts}
    assert sorted(heard.ended) == sorted(prompts)
    assert writers() == []


@pytest.mark.parametrize("words", [{}, {"return_exceptions": True}])
def test_no_more_at_once_than_the_config_says(
    monkeypatch: pytest.MonkeyPatch, words: Any
) -> None:
    running, most, guard = set[str](), 0, threading.Lock()

    def pieces(asked: str) -> Generator[str]:
        nonlocal most
        with guard:
            running.add(asked)
            most = max(most, len(running))
        yield asked
        with guard:
            running.remove(asked)

    llm = fake_llm(monkeypatch, pieces, 16)
    prompts: list[Any] = list("abcdefgh")
    assert llm.batch(prompts, {"max_concurrency": 2}, **words) == prompts
    assert most <= 2


async def test_a_cancelled_batch_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, closed = threading.Barrier(4), list[str]()

    def pieces(asked: str) -> Generator[str]:
        yield asked
        begun.wait(PATIENCE)
        yield from until_closed(closed, asked)

    llm = fake_llm(monkeypatch, pieces, 3)
    task = asyncio.create_task(llm.abatch(["one", "two", "three"]))
    await asyncio.to_thread(begun.wait, PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.get_running_loop().shutdown_default_executor()
    assert sorted(closed) == ["one", "three", "two"]
    assert writers() == []


class Chain(RapidChain):
    """Answers with its question, once as many ask as it is told."""

    def stream(self, input: Any, config: Any = None, **_: Any) -> Any:  # noqa: A002
        question = input["question"]
        if question == "fails":
            raise ConnectionError("the store is gone")
        meeting.wait(PATIENCE)
        yield {"answer": question}


meeting = threading.Barrier(3)


@pytest.mark.parametrize("way", ["batch", "abatch", "completed", "acompleted"])
def test_questions_of_a_chain_are_answered_at_once(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    engine = SimpleNamespace(n_together=lambda n: n)
    monkeypatch.setattr(Chain, "engine", engine)
    chain = Chain(model_path="m.gguf")
    asked = [{"question": each} for each in ("one", "fails", "two", "three")]

    async def acompleted() -> list[Any]:
        answers = chain.abatch_as_completed(asked, return_exceptions=True)
        return [each async for each in answers]

    if way == "batch":
        found = chain.batch(asked, return_exceptions=True)
    elif way == "abatch":
        found = asyncio.run(chain.abatch(asked, return_exceptions=True))
    else:
        done = (
            list(chain.batch_as_completed(asked, return_exceptions=True))
            if way == "completed"
            else asyncio.run(acompleted())
        )
        found = [each for _, each in sorted(done, key=lambda pair: pair[0])]
    assert isinstance(found.pop(1), ConnectionError)
    assert [each["answer"] for each in found] == ["one", "two", "three"]
    assert writers() == []
