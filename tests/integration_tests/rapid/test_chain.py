"""RapidChain and ChatRapid over a real model, as an application uses them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError

from langchain_ralmspec import (
    ChatRapid,
    ContextOverflowError,
    InvalidValueError,
    RaLMSpecRetriever,
    RapidChain,
    UnknownArgumentError,
    documents_of,
)
from langchain_ralmspec.rapid import GivenContext
from tests.integration_tests.conftest import QUESTIONS, Corpus, Listener
from tests.integration_tests.rapid.conftest import N_CTX, answer


def test_an_answer_its_sources_and_its_counts(make: Any, context: str) -> None:
    listener = Listener()
    result = make().invoke(
        {"question": QUESTIONS[0], "context": context}, {"callbacks": [listener]}
    )
    assert result.keys() == {"answer", "source_documents", "speculation"}
    assert result["answer"]
    assert all(part.page_content for part in result["source_documents"])
    assert result["speculation"]["tokens"] <= 24
    assert listener.began == [("chain", False), ("retriever", True), ("llm", True)]
    assert listener.ended == ["retriever", "llm", "chain"]
    assert listener.tokens == result["answer"]


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
    listener, chain = Listener(), make()
    given = {"question": QUESTIONS[3], "context": context}
    stream = chain.stream(given, {"callbacks": [listener]})
    next(stream)
    next(stream)
    stream.close()
    assert listener.failed[0] == "llm"
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
    for context in (retriever, retriever.with_config(tags=["mine"])):
        assert chain.invoke({**given, "context": context})["answer"]


def check_places(sources: list[Document], originals: list[Document]) -> None:
    by_id = {document.id: document for document in originals}
    assert sources
    for part in sources:
        original, metadata = by_id[part.id], part.metadata
        place = slice(metadata["start_index"], metadata["end_index"])
        assert original.page_content[place] == part.page_content != ""
        assert metadata.items() >= original.metadata.items()


@pytest.mark.parametrize("with_embeddings", [True, False])
def test_sources_lead_back_to_the_documents(
    make: Any, corpus: Corpus, *, with_embeddings: bool
) -> None:
    own = {} if with_embeddings else {"embeddings": None}
    chain, question = make(**own), QUESTIONS[0]
    pages = [
        Document(one.page_content, id=one.id, metadata={"page": at, "source": "x.pdf"})
        for at, one in enumerate(corpus.documents[:6])
    ]
    retriever = RaLMSpecRetriever.from_documents(pages, kind="bm25")
    found = chain.invoke({"question": question, "context": retriever})
    check_places(found["source_documents"], pages)
    chat = make(ChatRapid, context=retriever, **own)
    check_places(documents_of(chat.invoke(question)), pages)
    if with_embeddings:
        result = chain.invoke({"question": question, "context": pages})
        check_places(result["source_documents"], pages)
        return
    ids = {document.id for document in retriever.invoke(question)}
    assert {part.id for part in found["source_documents"]} == ids

    chain = make(prompt_template="{context}\n\n{question}", **own)  # reads on
    quote = {"question": pages[0].page_content[:150], "context": pages[:2]}
    parts = list(chain.stream(quote))
    assert [next(iter(part)) for part in parts[-2:]] == [
        "source_documents",
        "speculation",
    ]
    result = chain.invoke(quote)
    check_places(result["source_documents"], pages)
    assert all(p.page_content in result["answer"] for p in result["source_documents"])


def test_stop_and_settings_of_a_call(make: Any, context: str) -> None:
    chain = make()
    given = {"question": QUESTIONS[0], "context": context}
    whole = chain.invoke(given)["answer"]
    stop = whole[10:14]
    assert chain.invoke(given, stop=[stop])["answer"] == whole[: whole.index(stop)]
    assert chain.invoke(given, max_tokens=3)["speculation"]["tokens"] == 3
    with pytest.raises(UnknownArgumentError, match="max_tokens"):
        chain.invoke(given, max_token=3)


def test_a_fact_behind_what_the_encoder_reads_is_found(
    make: Any, corpus: Corpus
) -> None:
    """MiniLM reads 256 tokens; the fact stands some 400 into its part."""
    aside = "The committee met again on Tuesday and discussed the budget at length. "
    fact = "The lighthouse keeper of Skerryvore was called Morag Beaton."
    text = aside * 32 + fact
    chain = make(max_tokens=1, draft_context_tokens=100, truncation="end")
    assert 400 < chain.get_num_tokens(aside * 32) < 512, "one part, as in the paper"
    question = "What was the name of the lighthouse keeper?"
    result = chain.invoke({"question": question, "context": text})
    parts = result["source_documents"]
    assert any(fact in part.page_content for part in parts)
    counted = corpus.embeddings.count_tokens([p.page_content for p in parts])
    assert counted is not None
    lengths, most = counted
    assert max(lengths) <= (most or 0) == 256


def test_a_plain_prompt(make: Any, context: str) -> None:
    chain = make(prompt_template="{context}\n\nQ: {question}\nA:", draft_length=0)
    assert answer(chain, QUESTIONS[0], context) != answer(
        make(draft_length=0), QUESTIONS[0], context
    )


def test_a_model_without_a_template_completes(
    templateless_gguf: str, context: str
) -> None:
    chain = RapidChain(model_path=templateless_gguf, max_tokens=4, n_ctx=N_CTX)
    result = chain.invoke({"question": QUESTIONS[0], "context": context})
    assert result["answer"]
    assert result["source_documents"] == []


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


GROWN: list[tuple[Any, Any]] = [
    (slice(3), slice(6)),  # pages were added
    (slice(3), [0, 1, 3]),  # one was replaced
    ("join", "joined"),  # the last token of one is another in the other
]


@pytest.mark.parametrize(
    ("before", "after", "folder"),
    [(*GROWN[0], False), (*GROWN[0], True), (*GROWN[1], True), (*GROWN[2], False)],
)
def test_a_text_that_has_grown_reads_only_what_is_new(
    make: Any, corpus: Corpus, tmp_path: Path, before: Any, after: Any, *, folder: bool
) -> None:
    def context(pages: Any) -> Any:
        if isinstance(pages, str):
            return f"{corpus.texts[0]}\n\n{corpus.texts[1]} {pages}"
        if isinstance(pages, slice):
            return corpus.documents[pages]
        return [corpus.documents[at] for at in pages]

    own = {"n_batch": 64, "embeddings": None, "draft_length": 0}
    plain = make(**own)
    chain = make(**own, kv_cache_dir=str(tmp_path)) if folder else plain
    given = {"question": QUESTIONS[0], "context": context(after)}
    plain.engine.forget_prefixes()
    expected = plain.invoke(given)
    head, document, _ = plain._read(
        plain.engine, plain._asking("?"), GivenContext.of(context(after)).text, plain
    )

    def bits(model: Any) -> list[Any]:  # of what is said behind the text
        path = model.open((*head, *document.tokens))
        return [path.extend(document.tokens[:9]), path.extend(document.tokens[:1])]

    fresh = bits(plain.engine)
    plain.engine.forget_prefixes()

    n_before = chain.preload(context(before))
    if folder:
        chain.engine.forget_prefixes()
    result = chain.invoke(given)
    n_kept = result["speculation"]["cached_tokens"]
    assert 0 < n_kept <= len(head) + n_before
    assert n_kept % 64 == 0
    if isinstance(before, slice) and isinstance(after, slice):
        assert n_kept > len(head) + n_before - 64
    assert result["answer"] == expected["answer"]
    assert np.array_equal(bits(chain.engine), fresh)


def test_a_chain_knows_what_was_said(make: Any, context: str) -> None:
    first, second = QUESTIONS[:2]
    told = [("user", first), ("ai", "So.")]
    chat, chain = make(ChatRapid, context=context), make()
    expected = chat.invoke([*told, ("user", second)])
    given = {"question": second, "context": context}
    result = chain.invoke({**given, "history": told})
    assert result["answer"] == expected.text
    n_prompt = expected.usage_metadata["input_tokens"]
    assert result["speculation"]["prompt_tokens"] == n_prompt
    assert chain.invoke(given)["speculation"]["prompt_tokens"] < n_prompt


def test_a_call_may_bring_its_context(make: Any, context: str, corpus: Corpus) -> None:
    question, pages = QUESTIONS[0], corpus.documents[:3]
    bound = make(ChatRapid, context=context).invoke(question)
    chat = make(ChatRapid, context=pages)
    assert chat.invoke(question, context=context).text == bound.text
    assert "".join(c.text for c in chat.bind(context=context).stream(question)) == (
        bound.text
    )
    expected = chat.invoke(question)
    free = make(ChatRapid).bind(context=pages)
    assert free.invoke(question).text == expected.text
    check_places(documents_of(free.invoke(question)), pages)
    with pytest.raises(InvalidValueError, match="no context in"):
        chat.invoke(question, context=None)
    with pytest.raises(InvalidValueError, match="int is no context"):
        chat.invoke(question, context=3)


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


def test_a_bound_context_is_not_in_traces(make: Any) -> None:
    assert "a secret" not in repr(make(ChatRapid, context="a secret"))


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


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"question": " ", "context": "x"}, InvalidValueError, "question is empty"),
        ({"question": 3, "context": "x"}, InvalidValueError, "a string, got 3"),
        ({"question": "Why?"}, InvalidValueError, "no 'context'"),
        (
            {"questoin": "Why?", "context": "x"},
            UnknownArgumentError,
            "did you mean 'question'",
        ),
        (3, InvalidValueError, "got int"),
    ],
)
def test_input_that_is_refused(
    make: Any, given: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make().invoke(given)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"eta": -1}, ValidationError, "eta"),
        ({"transfer": "on"}, ValidationError, "transfer"),
        ({"draftr": "self"}, UnknownArgumentError, "did you mean 'drafter'"),
        ({"prompt_template": "{question} {context}"}, ValidationError, "behind it"),
    ],
)
def test_arguments_that_are_refused(
    make: Any, settings: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(**settings)
