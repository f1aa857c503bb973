"""More requests than a model's context holds: they wait, or are refused."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from langchain_ralmspec import (
    ChatRaLMSpec,
    KNNDatastore,
    KNNLMSpecLLM,
    QueueFullError,
    RaLMSpecLLM,
    RapidChain,
)
from langchain_ralmspec.engine import request_queue
from tests.integration_tests.conftest import QUESTIONS, Corpus

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_ralmspec import RaLMSpecRetriever

pytestmark = pytest.mark.timeout(300)  # what hangs does so for ever

OWN: dict[str, Any] = {"n_ctx": 1088, "joint_decoding": False}  # nobody else's model


@pytest.fixture(autouse=True)
def _nothing_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a reader may be late."""
    monkeypatch.setattr(request_queue, "_PATIENCE", math.inf)


@pytest.fixture
def make(gguf: str, retriever: RaLMSpecRetriever) -> Any:
    own = {"model_path": gguf, "retriever": retriever, "max_tokens": 6, **OWN}
    return lambda kind=RaLMSpecLLM, **settings: kind(**own | settings)


def begun(face: Any, asked: Any) -> list[Any]:
    """Streams of as many answers as there are places, of which each has some text."""
    streams = [face.stream(asked) for _ in range(face.engine._slots.n_places)]
    for stream in streams:
        while not said(next(stream)):
            pass
    return streams


def said(part: Any) -> str:
    """What a part of an answer says; of a ``RapidChain`` not all do."""
    text = part.get("answer", "") if isinstance(part, dict) else part
    return str(getattr(text, "text", text))


def faces(make: Any, gguf: str, corpus: Corpus, folder: Path, name: str) -> Any:
    """A face with a queue in which nobody may wait, and what it is asked."""
    own: dict[str, Any] = {"max_queue": 0}
    if name == "rapid":
        context = "\n\n".join(corpus.texts[:4])
        chain = RapidChain(model_path=gguf, max_tokens=6, draft_length=0, **OWN, **own)
        return chain, {"question": QUESTIONS[0], "context": context}
    if name == "knn":
        texts = corpus.texts[:3]
        store = KNNDatastore.build(texts, model_path=gguf, path=folder / "store")
        kind: Any = KNNLMSpecLLM
        settings = {"datastore": store, "k": 2, "max_tokens": 6}
        return kind(model_path=gguf, n_ctx=OWN["n_ctx"], **settings, **own), "A heap is"
    return make({"llm": RaLMSpecLLM, "chat": ChatRaLMSpec}[name], **own), QUESTIONS[0]


@pytest.mark.parametrize("name", ["llm", "chat", "rapid", "knn"])
def test_one_more_than_there_are_places_is_refused_where_none_may_wait(
    make: Any, gguf: str, corpus: Corpus, tmp_path: Path, name: str
) -> None:
    face, asked = faces(make, gguf, corpus, tmp_path, name)
    lone = "".join(map(said, face.stream(asked)))
    streams = begun(face, asked)
    told = rf"^{len(streams)} requests are being answered .* 0 wait, and max_queue=0"
    with pytest.raises(QueueFullError, match=told) as caught:
        list(face.stream(asked))
    assert caught.value.partial == ""
    streams.pop().close()
    assert "".join(map(said, face.stream(asked))) == lone
    for stream in streams:
        stream.close()


def test_without_a_bound_all_are_answered_by_turns(make: Any) -> None:
    llm = make()
    lone = llm.invoke(QUESTIONS[0])
    streams = begun(llm, QUESTIONS[0])
    assert llm.invoke(QUESTIONS[0]) == lone
    for stream in streams:
        stream.close()


async def test_tasks_that_wait_take_no_thread_of_those_that_are_answered(
    make: Any,
) -> None:
    llm = make(max_queue=3)
    lone = await llm.ainvoke(QUESTIONS[0])
    streams = [llm.astream(QUESTIONS[0]) for _ in range(llm.engine._slots.n_places)]
    texts = [await anext(stream) for stream in streams]
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        loop.set_default_executor(pool)
        late = [asyncio.create_task(llm.ainvoke(QUESTIONS[0])) for _ in range(3)]
        await waiting(llm, 3)
        for number, stream in enumerate(streams):
            texts[number] += "".join([part async for part in stream])
        assert texts == [lone] * len(texts)
        assert await asyncio.gather(*late) == [lone] * 3


async def test_who_is_cancelled_while_it_waits_leaves_the_queue_at_once(
    make: Any,
) -> None:
    llm = make(max_queue=1)
    streams = [llm.astream(QUESTIONS[0]) for _ in range(llm.engine._slots.n_places)]
    for stream in streams:
        await anext(stream)
    for _ in range(3):  # each time there is room for one
        late = asyncio.create_task(llm.ainvoke(QUESTIONS[1]))
        await waiting(llm, 1)
        with pytest.raises(QueueFullError, match="1 wait, and max_queue=1"):
            await llm.ainvoke(QUESTIONS[1])
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        assert llm.engine.queue._in_line() == []
    for stream in streams:
        await stream.aclose()
    assert await llm.ainvoke(QUESTIONS[1])


async def waiting(llm: Any, n: int) -> None:
    """Let others go on until as many wait."""
    for _ in range(100_000):
        if len(llm.engine.queue._in_line()) == n:
            return
        await asyncio.sleep(0.001)
    raise AssertionError(n)
