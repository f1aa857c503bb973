"""Look-ups of an answer as LangChain's tracers see them, and what every run tells."""

from __future__ import annotations

import asyncio
import gc
import re
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    KNNDatastore,
    KNNLMSpecLLM,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    RapidChain,
    StoreError,
)
from langchain_ralmspec.base.tracing import VERIFICATION
from langchain_ralmspec.engine import Model
from tests.integration_tests.conftest import QUESTIONS, Corpus, Listener
from tests.unit_tests.tracer import Recorder, told

LOOPS: dict[str, dict[str, Any]] = {
    "once": {"retrieval_policy": "once"},
    "sequential": {"speculation": False},
    "speculative": {"speculation_stride": 2, "guess_policy": "same"},
    "looking up": {"speculation_stride": 3, "guess_policy": "lookup"},
}


@pytest.fixture(params=[ChatRaLMSpec, RaLMSpecLLM], ids=["chat", "llm"])
def face(
    request: pytest.FixtureRequest,
    gguf: str,
    model: Model,
    retriever: RaLMSpecRetriever,
) -> Any:
    return request.param(model_path=gguf, retriever=retriever, max_tokens=20)


async def spoken(way: str, face: Runnable[Any, Any], asked: Any, config: Any) -> None:
    """Have it answer in one of LangChain's ways."""
    if way == "invoke":
        face.invoke(asked, config)
    elif way == "ainvoke":
        await face.ainvoke(asked, config)
    elif way == "stream":
        list(face.stream(asked, config))
    else:
        [piece async for piece in face.astream(asked, config)]


WAYS = ["invoke", "ainvoke", "stream", "astream"]


@pytest.mark.parametrize("way", WAYS)
async def test_every_loop_is_traced_with_the_same_look_ups(face: Any, way: str) -> None:
    seen = {}
    for name, own in LOOPS.items():
        recorder = Recorder()
        config = {"callbacks": [recorder], "metadata": {"user": 1}, "tags": ["mine"]}
        await spoken(way, face.model_copy(update=own), QUESTIONS[0], config)
        recorder.check()
        root, *rest = recorder.runs
        assert root.run_type in {"llm", "chat_model"}
        for run in rest:
            above = recorder.above(run)
            assert above is root or (above and above.name == VERIFICATION)
            assert told(run)["user"] == 1
            assert "ls_model_name" not in told(run)
            assert run.tags == ["mine"]
        seen[name] = recorder
    slow = seen["sequential"].look_ups
    assert len(slow) > 2
    assert seen["once"].look_ups[0][0] == QUESTIONS[0]
    assert len(seen["once"].look_ups) == 1
    for name in ("speculative", "looking up"):
        assert seen[name].look_ups == slow
        assert {*seen[name].verdicts} - {"none"}
        assert seen[name].kinds("chain") or {*seen[name].verdicts} == {"none", "proven"}


async def test_events_and_traces_beneath_a_chain(face: Any) -> None:
    chain = RunnableLambda(lambda text: text + "?") | face
    sequential, recorder = Recorder(), Recorder()
    slow = face.model_copy(update={"speculation": False})
    slow.invoke(QUESTIONS[0] + "?", {"callbacks": [sequential]})
    for run in (chain, RunnableLambda(chain.invoke)):
        events = [
            event async for event in run.astream_events(QUESTIONS[0], version="v2")
        ]
        found = [
            (event["data"]["input"]["query"], [d.page_content for d in output])
            for event in events
            if event["event"] == "on_retriever_end"
            and (output := event["data"]["output"]) is not None
        ]
        assert found == sequential.look_ups
        begun = [e for e in events if e["event"] == "on_retriever_start"]
        assert len(begun) == len(found)
        ids = {
            e["run_id"]
            for e in events
            if e["event"] in {"on_chat_model_start", "on_llm_start"}
        }
        assert all(ids & {*event["parent_ids"]} for event in begun)
    chain.invoke(QUESTIONS[0], {"callbacks": [recorder]})
    recorder.check()
    assert recorder.look_ups == sequential.look_ups


class Diary(BaseCallbackHandler):
    """Notes what it is told, in order, in the words of LangChain's events."""

    run_inline = True

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}
        self.lines: list[tuple[Any, ...]] = []

    def _begun(self, kind: str, about: Any, more: dict[str, Any]) -> None:
        self.names[more["run_id"]] = kind
        above = self.names.get(more["parent_run_id"])
        guess = more["metadata"].get("ralmspec_guess")
        self.lines.append((f"on_{kind}_start", above, guess, about))

    def on_chat_model_start(self, serialized: Any, messages: Any, **more: Any) -> None:
        self._begun("chat_model", None, more)

    def on_retriever_start(self, serialized: Any, query: str, **more: Any) -> None:
        self._begun("retriever", query, more)

    def on_chain_start(self, serialized: Any, inputs: Any, **more: Any) -> None:
        self._begun("chain", inputs, more)

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        if token:  # the last chunk has none
            self.lines.append(("on_chat_model_stream", token))

    def on_retriever_end(self, documents: Any, **_: Any) -> None:
        self.lines.append(("on_retriever_end", documents))

    def on_chain_end(self, outputs: Any, **_: Any) -> None:
        self.lines.append(("on_chain_end", outputs))

    def on_llm_end(self, response: Any, **_: Any) -> None:
        said = response.generations[0][0].message
        self.lines.append(("on_chat_model_end", said.text, said.usage_metadata))

    def read(self, event: Any) -> None:
        """Note what an event says in the same words."""
        kind, data = event["event"], event["data"]
        if kind.endswith("_start"):
            about = data.get("input")
            if kind == "on_retriever_start":
                about = about["query"]
            (above,) = event["parent_ids"][-1:] or [None]
            more = {"run_id": event["run_id"], "parent_run_id": above}
            name = kind.removeprefix("on_").removesuffix("_start")
            about = None if name == "chat_model" else about
            self._begun(name, about, {**more, "metadata": event["metadata"]})
        elif kind == "on_chat_model_stream":
            self.on_llm_new_token(data["chunk"].text)
        elif kind == "on_chat_model_end":
            said = data["output"]
            self.lines.append((kind, said.text, said.usage_metadata))
        else:
            self.lines.append((kind, data["output"]))


def letters_of(lines: list[tuple[Any, ...]]) -> str:
    """A line each: ``m`` a model's run, ``n`` a look-up without a guess, ``v`` a call
    that verifies, ``r`` and ``w`` a right and a wrong guess, ``t`` text; ``.`` ends a
    look-up, a capital another run."""
    starts = {"chat_model": "m", "chain": "v", "none": "n", "right": "r", "wrong": "w"}
    told_of = ""
    for kind, *about in lines:
        what = kind.removeprefix("on_").removesuffix("_start").removesuffix("_end")
        if kind.endswith("_start"):
            told_of += starts[about[1] or what]
        elif kind.endswith("_stream"):
            told_of += "t"
        else:
            told_of += "." if what == "retriever" else starts[what].upper()
    return told_of


async def test_runs_and_tokens_in_their_order_and_the_same_as_events(
    gguf: str, model: Model, retriever: RaLMSpecRetriever
) -> None:
    own: dict[str, Any] = {**LOOPS["speculative"], "asynchronous": False}
    chat = ChatRaLMSpec(model_path=gguf, retriever=retriever, max_tokens=24, **own)
    seen = ""
    for question in QUESTIONS[:3]:
        diary, events = Diary(), Diary()
        list(chat.stream(question, {"callbacks": [diary]}))
        async for event in chat.astream_events(question, version="v2"):
            events.read(event)
        assert events.lines == diary.lines
        told_of = letters_of(diary.lines)
        # Text leaves once it is verified, and nothing is right behind a wrong guess.
        assert re.fullmatch(r"mn\.(t+v(r\.t*)*(w\.t*)?V)+t*M", told_of), told_of
        seen += told_of
    assert {"r", "w"} <= {*seen}


def test_each_prompt_has_its_own_look_ups(
    gguf: str, model: Model, retriever: RaLMSpecRetriever
) -> None:
    llm = RaLMSpecLLM(
        model_path=gguf, retriever=retriever, max_tokens=6, streaming=True
    )
    recorder, said = Recorder(), [Listener(), Listener()]
    both: list[Any] = [[recorder, each] for each in said]
    result = llm.generate(QUESTIONS[:2], callbacks=both)
    recorder.check()
    roots = [run for run in recorder.runs if not run.parent_run_id]
    for root, question, (one,) in zip(
        roots, QUESTIONS, result.generations, strict=False
    ):
        (first, *_) = root.child_runs
        assert first.inputs["query"].strip() in question
        tokens = [e["kwargs"]["token"] for e in root.events if e["name"] == "new_token"]
        assert "".join(tokens) == one.text
    assert [each.tokens for each in said] == [one.text for (one,) in result.generations]


class Failing(RunnableLambda[str, list[Document]]):
    """A retriever that is gone after some calls."""

    def __init__(self, n: int) -> None:
        asked = iter(range(n))

        def find(query: str) -> list[Document]:
            if next(asked, None) is None:
                raise ConnectionError("the store is gone")
            return [Document(query, id=query)]

        super().__init__(find)


@pytest.mark.parametrize("own", [LOOPS["sequential"], LOOPS["speculative"]])
@pytest.mark.parametrize("way", WAYS)
async def test_a_store_that_fails_ends_all_runs_with_its_error(
    gguf: str, model: Model, way: str, own: dict[str, Any]
) -> None:
    chat = ChatRaLMSpec(model_path=gguf, retriever=Failing(2), **own)
    recorder = Recorder()
    with pytest.raises(StoreError):
        await spoken(way, chat, QUESTIONS[0], {"callbacks": [recorder]})
    recorder.check()
    failed = [run for run in recorder.runs if run.error and "gone" in run.error]
    assert failed[0] is recorder.runs[0]
    kind = "retriever" if "speculation" in own else "chain"
    assert kind in {run.run_type for run in failed[1:]}


async def test_runs_of_an_abandoned_answer_end(face: Any) -> None:
    face = face.model_copy(update=LOOPS["speculative"])
    for n in (0, 1, 3):
        recorder = Recorder()
        stream = face.stream(QUESTIONS[0], {"callbacks": [recorder]})
        for _ in range(n):
            next(stream)
        stream.close()
        del stream
        gc.collect()
        assert not recorder.run_map
        later = Recorder()
        pieces = face.astream(QUESTIONS[0], {"callbacks": [later]})
        for _ in range(n):
            await anext(pieces)
        await pieces.aclose()
        while later.run_map:  # what a thread is at is done to its end
            gc.collect()
            await asyncio.sleep(0.01)
        assert all(run.end_time for run in [*recorder.runs, *later.runs])
        assert recorder.runs or not n


def test_a_run_tells_what_speculation_did_and_what_was_used(
    face: Any, gguf: str, corpus: Corpus
) -> None:
    rapid = RapidChain(model_path=gguf, max_tokens=6)
    ways: list[tuple[Any, Any]] = [
        (face.invoke, QUESTIONS[0]),
        (lambda *a: list(face.stream(*a)), QUESTIONS[0]),
        (rapid.invoke, {"question": QUESTIONS[0], "context": corpus.texts[0]}),
    ]
    for way, asked in ways:
        recorder = Recorder()
        way(asked, {"callbacks": [recorder]})
        (run,) = [*recorder.kinds("llm"), *recorder.kinds("chat_model")]
        assert told(run)["ls_provider"] == "ralmspec"
        assert told(run)["ls_model_name"] == face.engine.path.stem
        assert run.outputs
        ((one,),) = run.outputs["generations"]
        message = one.get("message", {}).get("kwargs", {})
        info = message.get("response_metadata") or one["generation_info"]
        assert info["speculation"]["seconds"] > 0
        usage = message.get("usage_metadata") or info["usage_metadata"]
        assert usage["output_tokens"] > 0
        assert usage["input_tokens"] > 0


async def test_tokens_are_called_back_in_every_way(
    gguf: str, model: Model, retriever: RaLMSpecRetriever, tmp_path: Any
) -> None:
    store = KNNDatastore.build(QUESTIONS, model_path=gguf, path=tmp_path / "store")
    own: dict[str, Any] = {"model_path": gguf, "max_tokens": 8}
    rapid = RapidChain(**own)
    asked = {"question": QUESTIONS[0], "context": "\n".join(QUESTIONS)}
    for face, given in (
        (RaLMSpecLLM(**own, retriever=retriever, streaming=True), "Once"),
        (KNNLMSpecLLM(**own, datastore=store, k=2, streaming=True), "Once"),
        (ChatRaLMSpec(**own, retriever=retriever, streaming=True), "Once"),
        (rapid, asked),
    ):
        runnable: Any = face
        answer = runnable.invoke(given)
        answer = answer["answer"] if face is rapid else getattr(answer, "text", answer)
        for way in WAYS:
            listener = Listener()
            await spoken(way, runnable, given, {"callbacks": [listener]})
            assert listener.tokens == answer != ""
        pieces = [
            event["data"]["chunk"]
            async for event in runnable.astream_events(given, version="v2")
            if event["event"] in {"on_llm_stream", "on_chat_model_stream"}
        ]
        assert "".join(getattr(p, "text", p) for p in pieces) == answer


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_long_context_is_found_by_is_traced(
    gguf: str, model: Model, corpus: Corpus, way: str
) -> None:
    recorder = Recorder()
    retriever = RaLMSpecRetriever.from_documents(corpus.documents[:9], kind="bm25")
    chat = ChatRapid(
        model_path=gguf, context=retriever, max_tokens=4, embeddings=corpus.embeddings
    )
    await spoken(way, chat, QUESTIONS[0], {"callbacks": [recorder]})
    recorder.check()
    root, *rest = recorder.runs
    assert [run.name for run in rest] == ["RaLMSpecRetriever", "RapidRetriever"]
    assert {run.parent_run_id for run in rest} == {root.id}
    assert len(recorder.look_ups) == 2
