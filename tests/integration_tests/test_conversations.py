"""Answers that are continued, thoughts, and a template's variables; a real model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables.utils import add

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    InvalidValueError,
    RaLMSpecRetriever,
)
from langchain_ralmspec.engine import Model
from langchain_ralmspec.engine.templates import ChatTemplate

TEXT = "Moby Dick was written by Herman Melville in 1851. It has 635 pages."
ASKED = HumanMessage("Who wrote Moby Dick, and when?")
BEGUN = AIMessage("The book was written by")

# ChatML that has the model think first, unless it is told not to.
THINKER = """
{%- for m in messages %}<|im_start|>{{ m.role + '\\n' + m.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is not defined or enable_thinking %}<think>
{% else %}<think>

</think>

{% endif %}{% endif %}"""


@pytest.fixture(scope="module")
def ralm(gguf: str, model: Model) -> ChatRaLMSpec:
    texts = [f"{TEXT} Book {n}: {['author', 'year'][n % 2]}." for n in range(40)]
    documents = [Document(page_content=text) for text in texts]
    return ChatRaLMSpec(
        model_path=gguf,
        retriever=RaLMSpecRetriever.from_documents(documents),
        max_tokens=24,
        retrieval_stride=2,
        speculation_stride=3,
        guess_policy="same",
    )


@pytest.fixture
def rapid(gguf: str, model: Model) -> ChatRapid:
    return ChatRapid(model_path=gguf, context=TEXT, max_tokens=16, n_ctx=1024)


@pytest.fixture
def thinker(monkeypatch: pytest.MonkeyPatch, rapid: ChatRapid) -> Iterator[ChatRapid]:
    weights = rapid.engine.weights
    with monkeypatch.context() as patch:
        patch.setattr(weights, "metadata", lambda key: THINKER)
        patch.setitem(vars(rapid.engine), "template", ChatTemplate(weights))
        yield rapid


def end_of(chat: Any, tokens: Any) -> str:
    weights = chat.engine.weights
    return "".join(
        weights.piece(t).decode() or weights.token_text(t) for t in tokens[-60:]
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("policy", ["stride", "once", "flare", "iter-retgen"])
def test_the_loops_continue_an_answer_alike(
    ralm: ChatRaLMSpec, temperature: float, policy: str
) -> None:
    own = {"retrieval_policy": policy, "temperature": temperature, "seed": 5}
    chat = ralm.model_copy(update=own)
    asked: list[BaseMessage] = [SystemMessage("Be brief."), ASKED, BEGUN]
    told = chat.invoke(asked)
    slow = chat.model_copy(update={"speculation": False}).invoke(asked)
    assert told.text == slow.text != ""
    one, other = told.response_metadata, slow.response_metadata
    assert one["steps"] == other["steps"]
    assert one["finish_reason"] == other["finish_reason"]
    assert "".join(chunk.text for chunk in chat.stream(asked)) == told.text
    prompt = chat._prompt(chat.engine, asked)
    assert end_of(chat, prompt.tail).endswith(f"<|im_start|>assistant\n{BEGUN.text}")
    # It is of the answer so far, by which queries are made.
    assert end_of(chat, prompt.question) == f"{ASKED.text}{BEGUN.text}"
    assert prompt.text == ASKED.text


def test_a_continued_answer_is_the_one_that_would_have_been(rapid: ChatRapid) -> None:
    exact = rapid.model_copy(update={"draft_length": 0})
    whole = exact.invoke([ASKED]).text
    tokens = exact.get_token_ids(whole)
    begun = b"".join(map(exact.engine.weights.piece, tokens[:6])).decode()
    rest = exact.invoke([ASKED, AIMessage(begun)], max_tokens=len(tokens) - 6).text
    assert whole == begun + rest


def test_a_chains_prompt_keeps_what_was_begun(ralm: ChatRaLMSpec) -> None:
    prompt = ChatPromptTemplate.from_template("{context}\n\nQuestion: {question}")
    chat = ralm.model_copy(update={"prompt": prompt})
    made = chat._prompt(chat.engine, [HumanMessage("Hello"), BEGUN, ASKED, BEGUN])
    end = end_of(chat, made.tail)
    assert end.endswith(f"{ASKED.text}<|im_end|>\n<|im_start|>assistant\n{BEGUN.text}")
    assert made.text == ASKED.text
    assert chat.invoke([ASKED, BEGUN]).text


def test_a_long_text_among_the_messages_and_an_answer_begun(rapid: ChatRapid) -> None:
    chat = rapid.model_copy(update={"context": None})
    asked = [HumanMessage(f"{TEXT}\n\n{ASKED.text}"), BEGUN]
    bound = rapid.invoke([ASKED, BEGUN])
    assert chat.invoke(asked).text == bound.text != ""


def test_calls_cannot_be_continued(rapid: ChatRapid) -> None:
    call: Any = {"name": "pages", "args": {}, "id": "1", "type": "tool_call"}
    asked = [ASKED, AIMessage("", tool_calls=[call])]
    with pytest.raises(InvalidValueError, match=r"messages\[1\].*calls \['pages'\]"):
        rapid.invoke(asked)


def test_parts_of_conversations_are_counted_as_they_are_read(rapid: ChatRapid) -> None:
    call: Any = {"name": "pages", "args": {}, "id": "1", "type": "tool_call"}
    asked: list[BaseMessage] = [ASKED, AIMessage("", tool_calls=[call])]
    n = rapid.get_num_tokens_from_messages(asked[:1])
    assert rapid.get_num_tokens_from_messages(asked) > n
    n_text = rapid.get_num_tokens(TEXT)
    parts: list[list[BaseMessage]] = [asked[1:], [BEGUN], [SystemMessage("Be brief.")]]
    for part in parts:
        assert rapid.get_num_tokens_from_messages(part) > n_text


def test_a_thought_that_the_template_opens_is_reasoning(thinker: ChatRapid) -> None:
    message, streamed = thinker.invoke([ASKED]), add(thinker.stream([ASKED]))
    for told in (message, streamed):
        assert isinstance(told, AIMessage)
        assert told.content == ""  # max_tokens came first
        assert told.additional_kwargs["reasoning_content"].strip()
        assert told.response_metadata["finish_reason"] == "length"
    plain = thinker.invoke(
        [ASKED], chat_template_kwargs={"enable_thinking": False, "unknown": 1}
    )
    assert plain.text
    assert "reasoning_content" not in plain.additional_kwargs
    quiet = thinker.model_copy(
        update={"chat_template_kwargs": {"enable_thinking": False}}
    )
    assert quiet.get_num_tokens_from_messages([ASKED]) > (
        thinker.get_num_tokens_from_messages([ASKED])
    )


def test_a_grammar_leaves_no_room_for_thoughts(thinker: ChatRapid) -> None:
    message = thinker.invoke([ASKED], grammar='root ::= "yes" | "no"')
    assert message.text in {"yes", "no"}


def test_an_answer_is_continued_inside_its_thought(thinker: ChatRapid) -> None:
    told = thinker.invoke([ASKED, AIMessage("<think>\nThe book was")])
    assert told.additional_kwargs["reasoning_content"]
    done = thinker.invoke([ASKED, AIMessage("<think>\nhm\n</think>\n\nIt was")])
    assert done.text
