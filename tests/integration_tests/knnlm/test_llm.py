"""``KNNLMSpecLLM`` with a real model: every way in, and what it refuses."""

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import ValidationError

from langchain_ralmspec import (
    ContextOverflowError,
    InvalidValueError,
    KNNDatastore,
    SpeculationStats,
    UnknownArgumentError,
)
from tests.integration_tests.conftest import Listener

pytestmark = pytest.mark.usefixtures("few_are_probed")


def test_every_way_in_gives_one_text(make: Any, prompts: list[str]) -> None:
    llm, prompt = make(speculation_stride=4), prompts[0]
    text = llm.invoke(prompt)
    assert text
    assert text == make(speculation=False).invoke(prompt)
    assert "".join(llm.stream(prompt)) == text
    assert llm.batch([prompt, "Once"])[0] == text
    assert asyncio.run(llm.ainvoke(prompt)) == text
    assert asyncio.run(llm.abatch(["Once", prompt]))[1] == text

    async def streamed() -> str:
        return "".join([part async for part in llm.astream(prompt)])

    assert asyncio.run(streamed()) == text


def test_it_tells_what_it_did(make: Any, prompts: list[str]) -> None:
    llm = make(speculation_stride=4)
    result = llm.generate(prompts[:2])
    for prompt, (generation,) in zip(prompts[:2], result.generations, strict=True):
        info = generation.generation_info or {}
        stats = SpeculationStats(
            **{k: v for k, v in info["speculation"].items() if k != "guess_accuracy"}
        )
        usage = info["usage_metadata"]
        assert usage["input_tokens"] == llm.get_num_tokens(prompt)
        assert usage["output_tokens"] == stats.tokens_kept == 16
        assert usage["total_tokens"] == usage["input_tokens"] + 16
        assert info["finish_reason"] == "length"
        assert info["model_name"] == llm.engine.path.stem
        assert 0 < stats.seconds_searching < stats.seconds_waiting
        written = stats.seconds_generating + stats.seconds_guessing
        assert 0 < written < stats.seconds - stats.seconds_waiting
        assert stats.rounds == len(stats.verifications) == stats.store_calls
        assert stats.plans == {"lookup 4": stats.rounds}


def test_new_tokens_are_called_back(make: Any, prompts: list[str]) -> None:
    llm, listener = make(), Listener()
    parts = list(llm.stream(prompts[0], config={"callbacks": [listener]}))
    assert listener.tokens == "".join(parts) != ""
    assert len(parts) > 3
    assert listener.metadata["ls_provider"] == "ralmspec"
    assert listener.metadata["ls_model_name"] == llm.engine.path.stem


def test_a_call_may_override_settings(make: Any, prompts: list[str]) -> None:
    llm = make()
    text = llm.invoke(prompts[0])
    assert text.startswith(llm.invoke(prompts[0], max_tokens=3))
    word = text.split()[2]
    assert llm.invoke(prompts[0], stop=[word]) == text.partition(word)[0]
    assert llm.bind(stop=[word]).invoke(prompts[0]) == text.partition(word)[0]
    parts = list(llm.stream(prompts[0], stop=[word]))
    assert "".join(parts) == text.partition(word)[0]


def test_threads_share_model_and_datastore(make: Any, prompts: list[str]) -> None:
    llm = make(speculation_stride=3)
    expected = [llm.invoke(prompt) for prompt in prompts[:6]]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(llm.invoke, prompts[:6])) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("k", 0),
        ("interpolation", -0.1),
        ("interpolation", 1.5),
        ("knn_temperature", 0),
        ("speculation_stride", "often"),
        ("n_threads", 0),
    ],
)
def test_numbers_out_of_range(make: Any, name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"{name}[^@]*input_value={value!r}"):
        make(**{name: value})


def test_unknown_arguments(make: Any) -> None:
    with pytest.raises(UnknownArgumentError, match=r"'interpolate'.*'interpolation'"):
        make(interpolate=0.5)
    llm = make()
    with pytest.raises(UnknownArgumentError, match="'interpolation' cannot be given"):
        llm.invoke("Once", interpolation=0.5)
    assert llm.invoke("Once")


def test_prompts_that_cannot_be_continued(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make(n_ctx=512)
    text = llm.invoke("Once")
    searches: list[int] = []
    search = KNNDatastore.search

    def spy(self: KNNDatastore, queries: Any, k: int) -> Any:
        searches.append(len(queries))
        return search(self, queries, k)

    monkeypatch.setattr(KNNDatastore, "search", spy)
    with pytest.raises(InvalidValueError, match="prompt is empty"):
        llm.invoke("")
    with pytest.raises(ContextOverflowError, match=r"n_ctx=512"):
        llm.invoke("word " * 600)
    with pytest.raises(ContextOverflowError, match=r"max_tokens=512"):
        llm.invoke("Once", max_tokens=512)
    with pytest.raises(ContextOverflowError):
        llm.generate(["Once", "word " * 600])
    assert not searches, "nothing was done before the refusal"
    assert llm.invoke("Once") == text


def test_a_context_may_be_filled_to_the_last_token(make: Any) -> None:
    llm = make(n_ctx=128, speculation_stride=8, interpolation=0.0)
    prompt = "one two " * 50
    room = 128 - llm.get_num_tokens(prompt)
    assert room > 0
    run = llm.model_copy(update={"max_tokens": room}).start(prompt)
    "".join(run)
    assert run.finish_reason == "length"
    assert len(run.tokens) == room


def test_a_datastore_that_dies_during_verification(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make(speculation_stride=4)
    text = llm.invoke("Once")
    search, count = KNNDatastore.search, itertools.count()

    def fail_later(self: KNNDatastore, queries: Any, k: int) -> Any:
        if next(count):
            raise OSError("the disk is on fire")
        return search(self, queries, k)

    with monkeypatch.context() as patch:
        patch.setattr(KNNDatastore, "search", fail_later)
        stream = llm.stream("Once")
        shown = next(stream)
        with pytest.raises(OSError, match="on fire"):
            list(stream)
    assert text.startswith(shown)
    assert llm.invoke("Once") == text


@pytest.mark.parametrize("close", [True, False])
def test_a_stream_abandoned_half_way(make: Any, close: bool) -> None:
    llm = make(speculation_stride=4)
    text = llm.invoke("Once")
    abandoned: list[Any] = []
    for _ in range(6):  # more than the context has slots
        stream: Any = llm.stream("Once")
        next(stream)
        if close:
            stream.close()
        abandoned.append(stream)
    assert llm.invoke("Once") == text
    if not close:  # and whoever comes back to it finds it as it was
        head = next(llm.stream("Once"))
        assert head + "".join(abandoned[0]) == text
