"""A cancelled answer stops: nothing is written behind the piece that is under way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import ChatRaLMSpec, RaLMSpecLLM, RapidChain
from langchain_ralmspec.base.local import PreparedAnswer
from langchain_ralmspec.base.threads import from_threads
from langchain_ralmspec.engine import Sequence
from langchain_ralmspec.engine.slots import Slots
from tests.unit_tests.engine.test_slots import FakeContext

STORE = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
USAGE: Any = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
PATIENCE = 30.0  # seconds; only a broken loop waits so long


class Writing:
    """Writes nine pieces; waits in the third one for a gate to open."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.is_closed = False
        self.reached, self.gate = threading.Event(), threading.Event()
        self.stats = SimpleNamespace(as_dict=dict)
        self.request = SimpleNamespace(target=SimpleNamespace(path=SimpleNamespace()))
        self.finish_reason = "stop"

    def __iter__(self) -> Iterator[str]:
        try:
            for number in range(9):
                self.made.append(number)
                if number == 2:
                    self.reached.set()
                    assert self.gate.wait(PATIENCE)
                yield "a"
        finally:
            self.is_closed = True


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> Writing:
    writing = Writing()
    answer = PreparedAnswer(writing, dict, lambda: USAGE)
    sources = SimpleNamespace(are_known=True, documents=list)
    for kind in (RaLMSpecLLM, ChatRaLMSpec):
        monkeypatch.setattr(kind, "_answer", lambda *_: answer)
    monkeypatch.setattr(RapidChain, "_prepare", lambda *_, **__: (writing, sources))
    return writing


def faces() -> list[Any]:
    own: dict[str, Any] = {"model_path": "m.gguf", "retriever": STORE}
    chain = RapidChain(model_path="m.gguf")
    asked = {"question": "Why?", "context": "A text."}
    return [
        pytest.param(face, question, id=type(face).__name__)
        for face, question in (
            (RaLMSpecLLM(**own), "Why?"),
            (ChatRaLMSpec(**own), "Why?"),
            (chain, asked),
        )
    ]


async def read(stream: Any) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize("way", ["ainvoke", "abatch", "astream"])
@pytest.mark.parametrize(("face", "question"), faces())
async def test_a_cancelled_answer_stops(
    face: Any, question: Any, way: str, writing: Writing
) -> None:
    given = [question] if way == "abatch" else question
    asking = getattr(face, way)(given)
    task = asyncio.create_task(read(asking) if way == "astream" else asking)
    await asyncio.to_thread(writing.reached.wait, PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):  # without the piece that hangs
        await task
    assert not writing.is_closed
    writing.gate.set()
    await asyncio.get_running_loop().shutdown_default_executor()  # waits for threads
    assert writing.made == [0, 1, 2]
    assert writing.is_closed


@pytest.mark.parametrize(("face", "question"), faces())
async def test_a_stream_that_is_left_is_closed(
    face: Any, question: Any, writing: Writing
) -> None:
    stream = face.astream(question)
    await anext(stream)
    await anext(stream)
    await stream.aclose()
    await asyncio.sleep(0)  # LangChain leaves the inner one to the loop
    await asyncio.get_running_loop().shutdown_default_executor()
    assert writing.made in ([0], [0, 1])
    assert writing.is_closed


async def test_a_long_text_is_read_no_further_for_who_has_left() -> None:
    context = FakeContext()
    loop, cancelled = asyncio.get_running_loop(), threading.Event()

    def cancel() -> None:
        if len(context.decoded) == 2:
            loop.call_soon_threadsafe(task.cancel)
            assert cancelled.wait(PATIENCE)

    context.on_decode = cancel
    ended: list[str] = []

    def answer() -> Generator[str]:
        try:
            Sequence(Slots(context)).prefill(range(40))  # type: ignore[arg-type]
            yield "a"
        finally:
            ended.append("closed")

    task = asyncio.create_task(read(from_threads(answer())))
    with pytest.raises(asyncio.CancelledError):
        await task
    cancelled.set()
    await loop.shutdown_default_executor()
    assert len(context.decoded) == 2
    assert ended == ["closed"]
