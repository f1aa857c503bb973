"""RAPID over a real model: the same tokens, a KV that is kept, faces that behave."""

from __future__ import annotations

import gc
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError

from langchain_ralmspec import (
    ChatRapid,
    ContextOverflowError,
    Draft,
    InvalidValueError,
    RaLMSpecRetriever,
    RapidChain,
    UnknownArgumentError,
)
from langchain_ralmspec.assets.models import model_path
from langchain_ralmspec.engine import Model, selftest
from langchain_ralmspec.engine import Sequence as Path_
from tests.integration_tests.conftest import QUESTIONS, Corpus

N_CTX = 2048


@pytest.fixture(scope="module")
def context(corpus: Corpus) -> str:
    return "\n\n".join(corpus.texts[:18])[:4000]


@pytest.fixture(scope="module")
def make(gguf: str, corpus: Corpus) -> Any:
    held: list[Any] = []  # keeps the loaded model for the next test

    def make(kind: Any = RapidChain, **settings: Any) -> Any:
        defaults = {
            "model_path": gguf,
            "embeddings": corpus.embeddings,
            "n_ctx": N_CTX,
            "max_tokens": 24,
            "exact_batches": True,
        }
        face = kind(**{**defaults, **settings})
        if settings.keys() <= {"drafter", "draft_length", "max_tokens"}:
            held[:] = [face.engine]
        return face

    return make


def answer(chain: RapidChain, question: str, context: Any) -> list[int]:
    run = chain.start(question, context)
    text = "".join(run)
    assert text or not run.tokens
    return run.tokens


class Oracle:
    """Knows the answer, and is wrong at every fifth token."""

    name = "oracle"

    def __init__(self, tokens: list[int], n_prompt: int) -> None:
        self.tokens, self.n_prompt = tokens, n_prompt

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        at = len(prefix) - self.n_prompt
        tokens = [t if i % 5 else 7 for i, t in enumerate(self.tokens)]
        return Draft(tuple(tokens[at : at + n]))


@pytest.mark.parametrize("length", [4, "auto"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "seed": 3}])
@pytest.mark.parametrize("drafter", ["lookup", "self", "text", ["lookup", "self"]])
def test_the_same_tokens_as_plain_decoding(
    make: Any, context: str, *, length: Any, sampling: Any, drafter: Any
) -> None:
    plain = make(draft_length=0, **sampling)
    if drafter == "text":
        drafter = f"text:{plain.model_path}"
    drafted = make(drafter=drafter, draft_length=length, **sampling)
    assert selftest.exact_batch_size(plain.engine) >= 16
    for question in QUESTIONS[:3]:
        assert answer(drafted, question, context) == answer(plain, question, context)


def test_drafts_are_accepted_and_wrong_ones_leave_no_trace(
    make: Any, context: str
) -> None:
    plain = make(draft_length=0)
    for question in QUESTIONS[:4]:
        run = plain.start(question, context)
        "".join(run)
        oracle = Oracle(run.tokens, run.stats.prompt_tokens)
        drafted = make(drafter=oracle, draft_length=7).start(question, context)
        "".join(drafted)
        assert drafted.tokens == run.tokens
        assert drafted.stats.passes < run.stats.passes / 2
        assert 0 < (drafted.stats.acceptance or 0) < 1


def test_every_token_is_the_targets_choice_in_the_verified_batch(
    make: Any, context: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[np.ndarray] = []
    score = Path_.score

    def scoring(path: Path_, tokens: Sequence[int]) -> Any:
        rows.append(score(path, tokens))
        return rows[-1]

    chain = make(drafter=["lookup", "self"], draft_length=4, exact_batches=False)
    chain.preload(context)
    monkeypatch.setattr(Path_, "score", scoring)
    run = chain.start(QUESTIONS[1], context)
    "".join(run)
    for written, logits in zip(run.steps[1:], rows, strict=True):
        n = len(written.tokens)
        assert list(written.tokens) == logits[:n].argmax(axis=1).tolist()


def test_knowledge_transfer_may_change_the_answer_and_off_may_not(
    make: Any, context: str
) -> None:
    plain = answer(make(draft_length=0), QUESTIONS[0], context)
    settings = {"drafter": "self", "draft_length": 4}
    strong = make(**settings, transfer="paper", eta=500.0)
    assert answer(strong, QUESTIONS[0], context) != plain
    nothing = make(**settings, transfer="exact", eta=0.0)
    assert answer(nothing, QUESTIONS[0], context) == plain
    sampled = make(**settings, transfer="exact", temperature=0.7, seed=1)
    assert answer(sampled, QUESTIONS[0], context)


def test_another_quantization_of_the_target_drafts(make: Any, context: str) -> None:
    path = str(model_path("smollm2-135m", "Q8_0"))
    run = make(drafter=path, draft_length=4).start(QUESTIONS[2], context)
    "".join(run)
    assert run.tokens == answer(make(draft_length=0), QUESTIONS[2], context)
    assert run.stats.accepted[Path(path).stem] > 0


def test_a_document_is_read_once(make: Any, context: str, tmp_path: Path) -> None:
    chain = make(kv_cache_dir=str(tmp_path))
    first = chain.start(QUESTIONS[0], context)
    "".join(first)
    assert first.stats.cached_tokens == 0
    second = chain.start(QUESTIONS[1], context)
    "".join(second)
    assert second.stats.cached_tokens > 0.9 * second.stats.prompt_tokens

    # As after a restart: nothing of the model is left in memory.
    del chain, first, second
    gc.collect()
    again = make(kv_cache_dir=str(tmp_path))
    third = again.start(QUESTIONS[1], context)
    "".join(third)
    assert third.stats.cached_tokens > 0.9 * third.stats.prompt_tokens
    assert third.tokens == answer(make(draft_length=0), QUESTIONS[1], context)


def test_a_damaged_kv_is_computed_again(
    make: Any, context: str, tmp_path: Path
) -> None:
    chain = make(kv_cache_dir=str(tmp_path))
    assert chain.preload(context) > 500
    (file,) = tmp_path.glob("*.kv")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    chain.engine.forget_prefixes()
    run = chain.start(QUESTIONS[0], context)
    with pytest.warns(RuntimeWarning, match=file.name):
        "".join(run)
    assert run.stats.cached_tokens == 0
    assert run.tokens == answer(make(draft_length=0), QUESTIONS[0], context)


# -- the chain ----------------------------------------------------------------------


class Recorder(BaseCallbackHandler):
    """Notes which runs began and ended, and under which parent."""

    def __init__(self) -> None:
        self.began: list[tuple[str, bool]] = []
        self.ended: list[str] = []
        self.failed: list[str] = []
        self.tokens = ""

    def on_chain_start(self, *args: Any, parent_run_id: Any = None, **_: Any) -> None:
        self.began.append(("chain", parent_run_id is not None))

    def on_retriever_start(
        self, *args: Any, parent_run_id: Any = None, **_: Any
    ) -> None:
        self.began.append(("retriever", parent_run_id is not None))

    def on_llm_start(self, *args: Any, parent_run_id: Any = None, **_: Any) -> None:
        self.began.append(("llm", parent_run_id is not None))

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.tokens += token

    def on_chain_end(self, *args: Any, **_: Any) -> None:
        self.ended.append("chain")

    def on_retriever_end(self, *args: Any, **_: Any) -> None:
        self.ended.append("retriever")

    def on_llm_end(self, *args: Any, **_: Any) -> None:
        self.ended.append("llm")

    def on_llm_error(self, *args: Any, **_: Any) -> None:
        self.failed.append("llm")

    def on_chain_error(self, *args: Any, **_: Any) -> None:
        self.failed.append("chain")


def test_an_answer_its_sources_and_its_counts(make: Any, context: str) -> None:
    recorder = Recorder()
    result = make().invoke(
        {"question": QUESTIONS[0], "context": context}, {"callbacks": [recorder]}
    )
    assert result.keys() == {"answer", "source_documents", "speculation"}
    assert result["answer"]
    assert all(part.page_content for part in result["source_documents"])
    assert result["speculation"]["tokens"] <= 24
    assert recorder.began == [("chain", False), ("retriever", True), ("llm", True)]
    assert recorder.ended == ["retriever", "llm", "chain"]
    assert recorder.tokens == result["answer"]


async def test_it_streams_and_batches(make: Any, context: str) -> None:
    chain = make()
    given = {"question": QUESTIONS[3], "context": context}
    whole = chain.invoke(given)
    parts = list(chain.stream(given))
    assert list(parts[0]) == ["source_documents"]
    assert list(parts[-1]) == ["speculation"]
    assert "".join(part.get("answer", "") for part in parts) == whole["answer"]
    later = [part async for part in chain.astream(given)]
    assert len(later) == len(parts) > 3
    assert "".join(part.get("answer", "") for part in later) == whole["answer"]
    other = {"question": QUESTIONS[4], "context": context}
    both = chain.batch([given, other])
    assert both[0]["answer"] == whole["answer"]
    assert (await chain.ainvoke(other))["answer"] == both[1]["answer"]
    assert [r["answer"] for r in await chain.abatch([given, other], [{}, {}])] == [
        r["answer"] for r in both
    ]
    piped = RunnableLambda(lambda q: {"question": q, "context": context}) | chain
    assert piped.invoke(QUESTIONS[3])["answer"] == whole["answer"]


def test_an_abandoned_stream_blocks_nobody(make: Any, context: str) -> None:
    recorder, chain = Recorder(), make()
    given = {"question": QUESTIONS[3], "context": context}
    stream = chain.stream(given, {"callbacks": [recorder]})
    next(stream)
    next(stream)
    stream.close()
    assert recorder.failed[0] == "llm"
    assert chain.invoke(given)["answer"]


def test_documents_and_retrievers_are_contexts(make: Any, corpus: Corpus) -> None:
    chain = make()
    documents = corpus.documents[:4]
    text = "\n\n".join(document.page_content for document in documents)
    given = {"question": QUESTIONS[0], "context": text}
    expected = chain.invoke(given)["answer"]
    assert chain.invoke({**given, "context": documents})["answer"] == expected
    one = Document(page_content=text)
    assert chain.invoke({**given, "context": one})["answer"] == expected
    retriever = RaLMSpecRetriever.from_documents(corpus.documents, kind="bm25")
    assert chain.invoke({**given, "context": retriever})["answer"]


def test_stop_and_settings_of_a_call(make: Any, context: str) -> None:
    chain = make()
    given = {"question": QUESTIONS[0], "context": context}
    whole = chain.invoke(given)["answer"]
    stop = whole[10:14]
    assert chain.invoke(given, stop=[stop])["answer"] == whole[: whole.index(stop)]
    assert chain.invoke(given, max_tokens=3)["speculation"]["tokens"] == 3
    with pytest.raises(UnknownArgumentError, match="max_tokens"):
        chain.invoke(given, max_token=3)


def test_a_plain_prompt(make: Any, context: str) -> None:
    chain = make(prompt_template="{context}\n\nQ: {question}\nA:", draft_length=0)
    assert answer(chain, QUESTIONS[0], context) != answer(
        make(draft_length=0), QUESTIONS[0], context
    )
    with pytest.raises(ValidationError, match="behind it"):
        make(prompt_template="{question} {context}")


def test_a_model_without_a_template_completes(
    templateless_gguf: str, context: str
) -> None:
    chain = RapidChain(model_path=templateless_gguf, max_tokens=4, n_ctx=N_CTX)
    result = chain.invoke({"question": QUESTIONS[0], "context": context})
    assert result["answer"]
    assert result["source_documents"] == []


# -- the chat model -----------------------------------------------------------------


def test_chat_about_a_bound_context(make: Any, context: str) -> None:
    chat = make(ChatRapid, context=context)
    message = chat.invoke(QUESTIONS[0])
    assert message.text
    assert message.response_metadata["model_name"]
    assert message.response_metadata["documents"]
    assert message.usage_metadata["input_tokens"] > 500
    again = chat.invoke(QUESTIONS[0])
    assert again.usage_metadata["input_token_details"]["cache_read"] > 500
    assert "".join(chunk.text for chunk in chat.stream(QUESTIONS[0])) == message.text


def test_the_context_may_be_in_the_messages(make: Any, context: str) -> None:
    chat = make(ChatRapid)
    question = QUESTIONS[0]
    bound = make(ChatRapid, context=context).invoke(question).text
    assert chat.invoke([SystemMessage(context), HumanMessage(question)]).text == bound
    assert chat.invoke(f"{context}\n\n{question}").text == bound
    turns = [HumanMessage(context), AIMessage("Yes?"), HumanMessage(question)]
    assert chat.invoke(turns).text
    with pytest.raises(InvalidValueError, match="no context in"):
        chat.invoke(question)


def test_a_second_turn_reads_nothing_again(make: Any, context: str) -> None:
    chat = make(ChatRapid)
    turns: list[Any] = [HumanMessage(f"{context}\n\n{QUESTIONS[0]}")]
    chat.engine.forget_prefixes()
    first = chat.invoke(turns)
    assert first.response_metadata["speculation"]["cached_tokens"] == 0
    turns += [first, HumanMessage(QUESTIONS[1])]
    stats = chat.invoke(turns).response_metadata["speculation"]
    assert stats["cached_tokens"] > chat.get_num_tokens(context)
    # Neighbours of one role are one turn, so here it is the same text.
    apart = [HumanMessage(context), HumanMessage(QUESTIONS[0]), *turns[1:]]
    assert chat.invoke(apart).response_metadata["speculation"]["cached_tokens"] > 500


# -- bad input ----------------------------------------------------------------------


class Failing:
    """Fails at its third draft."""

    name = "failing"
    n = 0

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        self.n += 1
        if self.n == 3:
            msg = "out of ideas"
            raise RuntimeError(msg)
        return Draft((5,))


def test_a_drafter_that_fails_leaves_the_target_alone(make: Any, context: str) -> None:
    chain = make(drafter=Failing(), draft_length=2)
    with pytest.warns(RuntimeWarning, match="out of ideas"):
        tokens = answer(chain, QUESTIONS[0], context)
    assert tokens == answer(make(draft_length=0), QUESTIONS[0], context)


def test_names_tell_drafters_apart(make: Any, context: str) -> None:
    given = {"question": QUESTIONS[0], "context": context}
    with pytest.raises(InvalidValueError, match=r"unique.*got 'lookup' twice"):
        make(drafter=["lookup", "lookup"]).invoke(given)
    oracle = Oracle([], 0)
    oracle.name = "target"
    with pytest.raises(InvalidValueError, match="not 'target'; got 'target'"):
        make(drafter=oracle).invoke(given)


def test_a_drafter_that_is_neither_name_nor_file(make: Any, context: str) -> None:
    given = {"question": QUESTIONS[0], "context": context}
    with pytest.raises(InvalidValueError, match=r"'lookupp'.*did you mean 'lookup'"):
        make(drafter="lookupp").invoke(given)


def test_auto_needs_nothing_that_is_not_there(gguf: str, corpus: Corpus) -> None:
    on_gpu: dict[str, Any] = {"model_path": gguf, "n_gpu_layers": -1}
    assert RapidChain(**on_gpu)._chosen == ["lookup"]
    embeddings = corpus.embeddings
    assert RapidChain(**on_gpu, embeddings=embeddings)._chosen == ["lookup", "self"]
    assert RapidChain(model_path=gguf, embeddings=embeddings)._chosen == ["lookup"]


def test_a_kv_that_finds_no_room_is_warned_about(make: Any, context: str) -> None:
    chain = make(kv_cache_bytes=1000)
    with pytest.warns(RuntimeWarning, match="kv_cache_bytes=1000"):
        chain.preload(context)


def test_a_bound_context_is_not_in_traces(make: Any) -> None:
    assert "a secret" not in repr(make(ChatRapid, context="a secret"))


def test_vocabularies_that_differ(
    make: Any, gguf: str, context: str, tmp_path: Path
) -> None:
    def entry(text: str) -> bytes:
        data = text.encode()
        return struct.pack("<Q", len(data)) + data

    data = Path(gguf).read_bytes()
    assert data.count(entry("ĠWashington")) == 1
    other = tmp_path / "other.gguf"
    other.write_bytes(data.replace(entry("ĠWashington"), entry("ĠXashington")))
    given = {"question": QUESTIONS[0], "context": context}
    with pytest.raises(InvalidValueError, match=r"ĠXashington.*drafter='text:"):
        make(drafter=str(other)).invoke(given)
    assert make(drafter=f"text:{other}").invoke(given)["answer"]


def test_a_context_that_is_too_long(make: Any, context: str) -> None:
    chain = make(n_ctx=512)
    given = {"question": QUESTIONS[0], "context": context}
    with pytest.raises(ContextOverflowError, match="n_ctx=512"):
        chain.invoke(given)
    short = make(n_ctx=512, truncation="end")
    with pytest.warns(RuntimeWarning, match="tokens were dropped"):
        result = short.invoke(given)
    dropped = result["speculation"]["dropped_tokens"]
    assert dropped > 0
    longer = {"question": QUESTIONS[0] * 3, "context": context}
    with pytest.warns(RuntimeWarning, match=f"last {dropped} of"):
        again = short.invoke(longer)
    assert again["speculation"]["cached_tokens"] > 0, "it is the same text still"


@pytest.mark.parametrize("given", ["", "  \n", []])
def test_an_empty_context(make: Any, given: Any) -> None:
    with pytest.raises(InvalidValueError, match="context is empty"):
        make().invoke({"question": "Why?", "context": given})
    with pytest.raises(InvalidValueError, match="context is empty"):
        make().preload(given)


def test_other_bad_input(make: Any, context: str) -> None:
    chain = make()
    with pytest.raises(InvalidValueError, match="question is empty"):
        chain.invoke({"question": " ", "context": context})
    with pytest.raises(InvalidValueError, match="no 'context'"):
        chain.invoke({"question": "Why?"})
    with pytest.raises(UnknownArgumentError, match="did you mean 'question'"):
        chain.invoke({"questoin": "Why?", "context": context})
    with pytest.raises(InvalidValueError, match="got int"):
        chain.invoke(3)
    with pytest.raises(ValidationError, match="eta"):
        make(eta=-1)
    with pytest.raises(ValidationError, match="transfer"):
        make(transfer="on")
    with pytest.raises(UnknownArgumentError, match="did you mean 'drafter'"):
        make(draftr="self")
    with pytest.raises(InvalidValueError, match="embeddings"):
        make(drafter="self", embeddings=None).invoke(
            {"question": "Why?", "context": context}
        )


def test_a_model_scores_many_tokens_in_one_call(model: Model) -> None:
    tokens = model.weights.tokenize("A list is sorted in place by its method sort.")
    one, other = model.new_sequence(), model.new_sequence()
    rows = one.score(tokens)
    assert rows.shape == (len(tokens), model.weights.n_vocab)
    assert np.array_equal(rows[-1], other.extend(tokens))
    with pytest.raises(InvalidValueError, match="got 513"):
        one.score([1] * 513)
