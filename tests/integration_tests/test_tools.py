"""Grammars, structured output and tools, with a real model and its vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables.utils import add
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, Field

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    GrammarError,
    InvalidValueError,
    RaLMSpecLLM,
    RaLMSpecRetriever,
)
from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.engine import Model
from langchain_ralmspec.engine.calls import HERMES
from langchain_ralmspec.engine.grammar import Grammar, Marker
from langchain_ralmspec.engine.schema_grammar import gbnf_of

TEXT = "Moby Dick was written by Herman Melville in 1851. It has 635 pages."
ASKED = "Who wrote Moby Dick, and when?"


class Book(BaseModel):
    """A book."""

    author: str = Field(max_length=24)
    year: int | None


@tool
def pages(title: str) -> int:
    """Tell how many pages a book has."""
    return 635


@tool
def authors(title: str) -> str:
    """Tell who wrote a book."""
    return "Melville"


GBNF = gbnf_of(Book.model_json_schema())
SAID = '{"author": "Herman Melville, é", "year": 1851}'


@pytest.fixture(scope="module")
def rapid(gguf: str, model: Model) -> ChatRapid:
    return ChatRapid(model_path=gguf, context=TEXT, max_tokens=64, n_ctx=1024)


def masked_all(grammar: Grammar, logits: Any, said: list[int]) -> Any:
    """The reference: llama.cpp asked about every token, one state for each."""
    state = grammar._roots[0].copy()
    assert all(state.accept(token) for token in said)
    allowed = state.allows(np.arange(len(logits)))
    allowed &= grammar._is_shown
    return np.where(allowed, logits, -np.inf)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repeat_penalty": 1.3},
        {"temperature": 0.8, "seed": 1},
        {"temperature": 2.0, "seed": 2, "top_p": 1.0, "top_k": 3},
        {"temperature": 1.0, "seed": 3, "top_k": 0, "min_p": 0.01},
    ],
)
def test_tokens_are_those_of_a_full_mask(model: Model, settings: Any) -> None:
    """Whatever is looked at first, and in whatever order states are asked for."""
    weights = model.weights
    said = weights.tokenize(SAID)
    grammar = Grammar(weights, GBNF)
    sampler, free = Sampler(**settings, constraint=grammar), Sampler(**settings)
    if settings.get("seed") is None:
        assert settings.get("temperature", 0) == 0
    rng = np.random.default_rng(0)
    for n in rng.permutation(len(said)):
        logits = rng.normal(scale=3, size=weights.n_vocab).astype(np.float32)
        if n % 2:  # where the best one is allowed, and where many are tied
            logits[said[n]] = 50
        logits = logits.round(1)
        so_far = said[:n]
        wanted = masked_all(grammar, free.penalized(logits, so_far), so_far)
        assert sampler.sample(logits, so_far) == free.draw(wanted, len(so_far))
        row = sampler.probabilities(logits, so_far)
        full = Sampler(**{**settings, "repeat_penalty": 1.0}).probabilities(wanted, ())
        np.testing.assert_allclose(row, full)
    assert grammar.is_complete(said) is False  # a blank may follow
    space = weights.tokenize(" ")
    assert grammar.is_complete([*said, *space])


def test_a_lazy_grammar_holds_from_its_marker_on(model: Model) -> None:
    weights = model.weights
    lazy = Grammar(
        weights, 'root ::= "<tool_call>{" [a-z]+ "}"', marker=Marker("<tool_call>")
    )
    free = np.zeros(weights.n_vocab, np.float32)

    def first_letters(said: str) -> set[bytes]:
        allowed = lazy.restrict(free, weights.tokenize(said), 0) == 0
        return {weights.piece(int(token))[:1] for token in np.flatnonzero(allowed)}

    for said in ("", "Any text, <tool", "{", "<tool_call"):
        assert len(first_letters(said)) > 200  # among them that of no text: the end
        assert not lazy.is_complete(weights.tokenize(said))
    assert first_letters("So: <tool_call>") == {b"{"}
    assert b"}" not in first_letters("<tool_call>{")
    assert first_letters("<tool_call>{ab") == {b"}", *map(str.encode, ascii_lowercase)}
    assert lazy.is_complete(weights.tokenize("So: <tool_call>{ab}"))
    # A token that ends the marker may go on only as the grammar does.
    tried = lazy.restrict(free, weights.tokenize("<tool_call"), 0)
    closing = {
        weights.piece(token)
        for token in range(weights.n_vocab)
        if weights.piece(token).startswith(b">") and tried[token] == 0
    }
    assert closing
    assert all((b">{" + b"z" * 9).startswith(piece[:2]) for piece in closing)


@pytest.mark.parametrize("is_open", [False, True])
def test_no_marker_counts_in_a_thought(model: Model, is_open: bool) -> None:
    weights = model.weights
    text, marker = 'root ::= "<tool_call>{" [a-z]+ "}"', Marker("<tool_call>")
    lazy = Grammar(weights, text, marker=marker)
    lazy.expect_thought("<think>", "</think>", is_open=is_open)
    free = np.zeros(weights.n_vocab, np.float32)

    def n_allowed(said: str) -> int:
        begun = said if is_open else f" \n<think>{said}"
        return int((lazy.restrict(free, weights.tokenize(begun), 0) == 0).sum())

    everything = n_allowed("hm")
    assert everything > 200
    for said in ("I use <tool_call>", "<tool_call>{}", "a <tool_call></think>\nSo", ""):
        assert n_allowed(said) > everything / 2, said
    assert n_allowed("<tool_call> it is.</think>\n<tool_call>") < 5
    assert n_allowed("hm</think>So: <tool_call>{ab") < everything / 2
    tokens = weights.tokenize("<think>" * (not is_open) + "I use <tool_call>, so")
    fresh = Grammar(weights, text, marker=marker)
    fresh.expect_thought("<think>", "</think>", is_open=is_open)
    for n in range(len(tokens) + 1):  # as it is written, and after a roll-back
        assert (fresh.restrict(free, tokens[:n], 0) == 0).sum() > everything / 2
        assert (lazy.restrict(free, tokens[:n], 0) == 0).sum() > everything / 2
    if not is_open:  # nothing but a thought at the start is one
        behind = weights.tokenize("So <think> <tool_call>")
        assert (lazy.restrict(free, behind, 0) == 0).sum() < 5


HEAD = '{"name": "pages", "arguments":'


@pytest.mark.parametrize(
    ("said", "following"),
    [
        (HEAD, b"{ \n"),
        ("{" + HEAD, b"{ \n"),
        ("```json\n" + HEAD.replace(" ", "\n    "), b"{ \n"),
        (HEAD + '{"title": "Emma"', b"} \n"),
        (HEAD + '{\n  "title": "Emma"\n  }', b"} \n"),
        (HEAD + '{"title": "Emma"}}', None),
        ("{" + HEAD + '{"title": "Emma"}}', b"} \n"),
        ("```\n" + HEAD + '{"title": "Emma"}}', b"` \n"),
        (HEAD[:-1], b""),
        (HEAD.replace("pages", "others"), b""),
        ("So: " + HEAD, b""),
        ("1" * 99 + HEAD, b""),
        ("```python\n" + HEAD, b""),
    ],
)
def test_a_grammar_holds_in_a_call_without_its_markup(
    model: Model, said: str, following: bytes | None
) -> None:
    """``following`` is what the next token may begin with; empty is anything."""
    weights, tools = model.weights, [convert_to_openai_tool(pages)]
    text = HERMES.gbnf(tools, several=True, is_lazy=True)
    marker = HERMES.marker(tools)
    lazy = Grammar(weights, text, root="tool-calls", marker=marker)
    tokens = weights.tokenize(said)
    free = np.zeros(weights.n_vocab, np.float32)
    allowed = np.flatnonzero(lazy.restrict(free, tokens, 0) == 0)
    first = {weights.piece(int(token))[:1] for token in allowed}
    if following:
        assert {*map(ord, first - {b""})} == {*following}
    elif following is None:
        assert first <= {b"", b" ", b"\n"}
    else:
        assert len(first) > 200


@pytest.mark.parametrize(
    ("grammar", "told"),
    [
        ("root ::= (", r"cannot parse the grammar 'root ::= \('"),
        ("root ::= other", "'root ::= other'"),
        ('root ::= root "a"', "never begins a rule with itself"),
        ('answer ::= "a"', "has a rule 'root"),
        ("", "cannot parse the grammar ''"),
        (" \n", "cannot parse"),
        ('root ::= "a\0"', "cannot parse"),
        # What llama.cpp would take more than a thread's stack for.
        ("root ::= " + "(" * 50_000 + '"a"' + ")" * 50_000, "brackets 50,000 deep"),
        ("root ::= " + '( ")" ' * 50_000 + ")" * 50_000, "brackets 50,000 deep"),
        (
            "root ::= r0\n" + "".join(f"r{n} ::= r{n + 1}\n" for n in range(300_000)),
            "has 300,001 rules",
        ),
        ("root ::= <|im_start|>", "no token of this vocabulary may follow ''"),
    ],
)
def test_a_bad_grammar_is_quoted(rapid: ChatRapid, grammar: str, told: str) -> None:
    with pytest.raises(GrammarError, match=told):
        rapid.invoke(ASKED, grammar=grammar)
    assert rapid.invoke(ASKED, max_tokens=2).text


def test_a_grammar_of_quoted_brackets_or_halves_is_none_too_deep(
    rapid: ChatRapid,
) -> None:
    many = f'root ::= "{"(" * 2000}" | [(({"(" * 900}] # {"(" * 900}'
    assert rapid.invoke(ASKED, grammar=many, max_tokens=1).text.startswith("(")
    for half in ("\ud83d\ude42", "\ud83d"):
        assert rapid.invoke(ASKED, grammar=f'root ::= "{half}"').text in "🙂\ufffd"


@pytest.mark.parametrize(
    "said", ["🙂", "𝔘🙂é中", "a\\ud83d\\ude42", "\\🙂", '"🙂', "a\nb"]
)
def test_a_schema_may_have_any_characters(rapid: ChatRapid, said: str) -> None:
    schema = {
        "title": "Mood",
        "description": "A mood.",
        "type": "object",
        "properties": {said: {"enum": [said]}},
        "required": [said],
    }
    made = rapid.model_copy(update={"max_tokens": 90}).with_structured_output(schema)
    assert made.invoke(ASKED) == {said: said}


@pytest.fixture(scope="module")
def store() -> RaLMSpecRetriever:
    texts = [
        f"{TEXT} Book {n}: {['author', 'year', 'title'][n % 3]}." for n in range(40)
    ]
    return RaLMSpecRetriever.from_documents([Document(page_content=t) for t in texts])


def test_all_faces_take_a_grammar(gguf: str, store: RaLMSpecRetriever) -> None:
    llm = RaLMSpecLLM(model_path=gguf, retriever=store, max_tokens=8)
    assert llm.invoke(ASKED, grammar='root ::= "yes" | "no"') in {"yes", "no"}


def test_an_answer_ends_where_only_its_end_may_follow(rapid: ChatRapid) -> None:
    message = rapid.invoke(ASKED, grammar='root ::= "ab"', max_tokens=2)
    assert message.text == "ab"
    assert message.response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(rapid: ChatRapid, method: Any) -> None:
    chat = rapid.with_structured_output(Book, method=method, include_raw=True)
    told = chat.invoke(ASKED)
    assert isinstance(told["parsed"], Book)
    cut = rapid.model_copy(update={"max_tokens": 20})
    chat = cut.with_structured_output(Book, method=method, include_raw=True)
    tellings: list[Any] = [chat.invoke(ASKED), add(chat.stream(ASKED))]
    for told in tellings:
        assert told["parsed"] is None
        assert "max_tokens was reached" in str(told["parsing_error"])
        assert told["raw"].response_metadata["finish_reason"] == "length"
        assert not told["raw"].tool_calls


def test_json_mode_is_valid_json(rapid: ChatRapid) -> None:
    chat = rapid.with_structured_output({}, method="json_mode", include_raw=True)
    raw = chat.invoke(ASKED)["raw"]
    if raw.response_metadata["finish_reason"] == "stop":
        assert isinstance(json.loads(raw.text), dict)


@pytest.mark.parametrize("choice", ["any", "authors"])
def test_a_forced_call_and_its_stream_are_one(rapid: ChatRapid, choice: str) -> None:
    exact = rapid.model_copy(update={"draft_length": 0})  # batches round otherwise
    bound = exact.bind_tools([pages, authors], tool_choice=choice)
    message, streamed = bound.invoke(ASKED), add(bound.stream(ASKED))
    assert isinstance(streamed, AIMessage)
    (call,), (other,) = message.tool_calls, streamed.tool_calls
    assert call["args"] == other["args"]
    assert call["args"].keys() == {"title"}
    assert call["name"] == other["name"]
    assert call["name"] in {"authors"} | ({"pages"} if choice == "any" else set())
    assert message.content == streamed.content == ""


def test_a_choice_of_call_or_schema_is_one_of_both(rapid: ChatRapid) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": Book.model_json_schema()}}
    message = rapid.bind_tools([pages], response_format=form).invoke(ASKED)
    assert message.tool_calls or Book.model_validate_json(message.text)
    with pytest.raises(InvalidValueError, match="tool_choice='any' demands a call"):
        rapid.bind_tools([pages], tool_choice="any").invoke(ASKED, grammar=GBNF)


def test_tokens_of_tools_are_counted(rapid: ChatRapid) -> None:
    asked: list[BaseMessage] = [HumanMessage(ASKED)]
    n = rapid.get_num_tokens_from_messages(asked, [pages])
    usage = rapid.bind_tools([pages]).invoke(asked, max_tokens=1).usage_metadata
    assert usage is not None
    assert n == usage["input_tokens"] > rapid.get_num_tokens_from_messages(asked)


@pytest.fixture
def chats(
    gguf: str, rapid: ChatRapid, store: RaLMSpecRetriever
) -> dict[str, ChatRaLMSpec | ChatRapid]:
    ralm = ChatRaLMSpec(model_path=gguf, retriever=store, max_tokens=48, n_ctx=1024)
    return {"ralm": ralm, "rapid": rapid}


@pytest.mark.parametrize("name", ["ralm", "rapid"])
def test_an_agent_calls_its_tool_and_answers(
    chats: dict[str, ChatRaLMSpec | ChatRapid], name: str
) -> None:
    def call_once(request: Any, handler: Callable[[Any], Any]) -> Any:
        has_called = isinstance(request.messages[-1], ToolMessage)
        return handler(request.override(tool_choice=None if has_called else "any"))

    chat = chats[name]
    agent = create_agent(chat, [pages], middleware=[wrap_model_call(call_once)])
    _, call, result, answer = agent.invoke({"messages": [HumanMessage(ASKED)]})[
        "messages"
    ]
    assert call.tool_calls[0]["name"] == "pages"
    assert result.content == "635"
    assert answer.text
    assert not answer.tool_calls
    made = create_agent(chat, [], response_format=Book)
    assert isinstance(
        made.invoke({"messages": [HumanMessage(ASKED)]})["structured_response"], Book
    )
