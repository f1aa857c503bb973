"""What becomes of answers: cached, cancelled, drawn anew, and of their model files."""

from __future__ import annotations

import asyncio
import copy
import pickle
import shutil
import threading
import uuid
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_community.cache import SQLiteCache
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.prompt_values import StringPromptValue
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from langchain_ralmspec import (
    ChatRaLMSpec,
    InvalidValueError,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    documents_of,
)
from langchain_ralmspec.engine import Model
from tests.integration_tests.conftest import QUESTIONS, Corpus

PATIENCE = 60.0  # seconds; only a broken answer waits so long


# Of LangChain's own code, which takes an error for an entry of an older format.
@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
@pytest.mark.filterwarnings("ignore:The default value of `allowed_objects`")
@pytest.mark.parametrize("kind", [RaLMSpecLLM, ChatRaLMSpec])
def test_an_answer_comes_whole_out_of_a_cache_on_disk(
    kind: Any, gguf: str, corpus: Corpus, tmp_path: Path
) -> None:
    metadata: dict[Any, Any] = {
        "day": date(2024, 2, 29),
        "file": Path("a"),
        "score": np.float32(0.5),
    }
    metadata |= {"tags": {"b", "a"}, 1: uuid.UUID(int=1)}
    documents = [Document(text, metadata=metadata) for text in corpus.texts[:5]]
    store = InMemoryVectorStore.from_documents(documents, corpus.embeddings)
    cache = SQLiteCache(str(tmp_path / "cache.db"))
    face = kind(model_path=gguf, retriever=store, max_tokens=8, cache=cache)
    first, second = (
        face.generate_prompt([StringPromptValue(text=QUESTIONS[0])]).generations[0][0]
        for _ in range(2)
    )
    assert first.text == second.text != ""
    assert documents_of(first) == documents_of(second) != []
    assert documents_of(first)[0].metadata == {
        "day": "2024-02-29",
        "file": "a",
        "score": 0.5,
        "tags": ["a", "b"],
        "1": str(uuid.UUID(int=1)),
    }
    made = first.generation_info or first.message.response_metadata
    again = second.generation_info or second.message.response_metadata
    assert made["speculation"] == again["speculation"], "it was not written anew"


@pytest.mark.parametrize("kind", [RaLMSpecLLM, ChatRaLMSpec])
async def test_a_cancelled_answer_asks_the_store_no_more(
    kind: Any, gguf: str, model: Model, corpus: Corpus
) -> None:
    searched, cancelled = threading.Event(), threading.Event()
    n_searches = 0

    class Watched(InMemoryVectorStore):
        def similarity_search(self, *args: Any, **more: Any) -> Any:
            nonlocal n_searches
            n_searches += 1
            if n_searches == 2:
                searched.set()
                assert cancelled.wait(PATIENCE)
            return super().similarity_search(*args, **more)

    store = Watched.from_documents(corpus.documents[:20], corpus.embeddings)
    face = kind(
        model_path=gguf, retriever=store, max_tokens=400, speculation=False, n_ctx=1024
    )
    task = asyncio.create_task(face.ainvoke(QUESTIONS[0]))
    await asyncio.to_thread(searched.wait, PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cancelled.set()
    await asyncio.get_running_loop().shutdown_default_executor()  # waits for threads
    assert n_searches <= 3, "the text of one step may be held back"


def test_without_a_seed_and_with_minus_one_answers_differ(
    gguf: str, model: Model, retriever: RaLMSpecRetriever
) -> None:
    llm = RaLMSpecLLM(model_path=gguf, retriever=retriever, max_tokens=24)

    def said(seed: int | None) -> set[str]:
        return {
            llm.invoke("Once", temperature=5.0, top_k=0, top_p=1.0, seed=seed)
            for _ in range(2)
        }

    assert [len(said(seed)) for seed in (-1, None, 7)] == [2, 2, 1]
    with pytest.raises(ValidationError, match="seed"):
        llm.invoke("Once", seed=-2)


def test_a_model_file_may_be_deleted_while_its_text_is_streamed(
    gguf: str, retriever: RaLMSpecRetriever, tmp_path: Path
) -> None:
    file = tmp_path / "model.gguf"
    shutil.copyfile(gguf, file)
    chat = ChatRaLMSpec(model_path=str(file), retriever=retriever, max_tokens=24)
    stream = chat.stream(QUESTIONS[0])
    first = next(stream)
    file.unlink()
    last = [first, *stream][-1]
    assert last.response_metadata["finish_reason"]
    assert last.response_metadata["model_name"] == "model"
    assert chat.invoke(QUESTIONS[0]).text.startswith(str(first.text))


@pytest.mark.parametrize("act", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_holds_a_model_can_neither_be_copied_nor_pickled(
    act: Any, gguf: str
) -> None:
    """The copy of a model freed its memory, and the next call ended the process."""
    store = InMemoryVectorStore.from_texts(["one"], DeterministicFakeEmbedding(size=8))
    chat = ChatRaLMSpec(model_path=gguf, retriever=store, max_tokens=3)
    engine, run = chat.engine, chat.start(QUESTIONS[0])
    sequence = engine.new_sequence()
    for live in (engine, engine.weights, engine.template, sequence, run):
        with pytest.raises(InvalidValueError, match="neither be copied nor pickled"):
            act(live)
    with pytest.raises(InvalidValueError, match=r"keep its text, or what to_json"):
        act(run)
    assert "".join(run)
