from __future__ import annotations

import pickle
import time
import warnings
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.example_selectors import LengthBasedExampleSelector
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.prompts import (
    ChatPromptTemplate,
    FewShotChatMessagePromptTemplate,
    FewShotPromptTemplate,
    MessagesPlaceholder,
    PromptTemplate,
)
from langchain_core.runnables import ConfigurableField
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    InvalidValueError,
    UnknownArgumentError,
)
from langchain_ralmspec.base.chain_prompt import ChainPrompt, is_plain
from langchain_ralmspec.base.messages import begun_in
from langchain_ralmspec.base.parting import part

TEXT = "One paragraph of a long text.\n\nAnd another one."
STANDS_IN = "(This is the text above.)"


def turns(*contents: str, first: str = "user") -> list[dict[str, str]]:
    other = {"user": "assistant", "assistant": "user", "system": "user"}
    roles = [first]
    for _ in contents[1:]:
        roles.append(other[roles[-1]])
    return [
        {"role": role, "content": content}
        for role, content in zip(roles, contents, strict=True)
    ]


def test_the_question_stands_behind_the_last_blank_line() -> None:
    context, rest = part(turns(f"{TEXT}\n\nWhy?\n\n"))
    assert context == TEXT
    assert rest == turns("Why?")


@pytest.mark.parametrize(
    "blank",
    [
        *("\r\n\r\n", "\n \t\n", "\n\n\n", "\r\r", "\n\xa0\r\n", "\u2028\u2028"),
        *("\n\u200b\n", "\n\ufeff \n", "\v\v", "\n\f", "\f\n", "\f", "\u2029"),
    ],
)
def test_any_blank_line_parts_text_and_question(blank: str) -> None:
    lines = "A heap\r\nis a\ntree."
    assert part(turns(f"{lines}{blank}  What is\na heap?\r\n")) == (
        lines,
        turns("  What is\na heap?"),
    )
    with pytest.raises(InvalidValueError, match="no context in"):
        part(turns("One\r\nparagraph,\rin four\nlines."))


def test_later_turns_part_the_text_as_the_first_one_did() -> None:
    first = f"{TEXT}\n\nWhy?\n"
    assert part(turns(first, "So.", "And then?", "That.", "Is that all?")) == (
        TEXT,
        turns("Why?", "So.", "And then?", "That.", "Is that all?"),
    )


def test_an_answer_is_no_context_however_long() -> None:
    context, rest = part(turns(f"{TEXT}\n\nWhy?", f"{TEXT}\n\n{TEXT}", "And?"))
    assert context == TEXT
    assert rest[1]["content"] == f"{TEXT}\n\n{TEXT}"


@pytest.mark.parametrize("text", ["A long text. " * 9, "Title\n\n" + "A text. " * 9])
def test_a_text_without_a_question_is_taken_whole(text: str) -> None:
    context, rest = part(turns(text, "Yes?", "Why?"))
    assert context == text
    assert rest == turns(STANDS_IN, "Yes?", "Why?")


def test_a_system_turn_is_taken_whole() -> None:
    assert part(turns(TEXT, "Why?", first="system")) == (TEXT, turns("Why?"))
    short = turns("Be brief.", f"{TEXT}\n\nWhy?", first="system")
    assert part(short) == (TEXT, turns("Be brief.", "Why?", first="system"))


@pytest.mark.parametrize("content", ["Why?", "\n\nWhy?", " \n\nWhy?"])
def test_a_question_alone_has_no_context(content: str) -> None:
    with pytest.raises(InvalidValueError, match=r"no context in .*Why\?"):
        part(turns(content))


ASKED = "Question: Who wrote it?"


@pytest.mark.parametrize(
    ("content", "context", "question"),
    [
        (f"{ASKED}\n\n{TEXT}", TEXT, ASKED),
        (
            f"\n\n{ASKED.upper()}\n\nOne long paragraph of text.\n",
            "One long paragraph of text.",
            ASKED.upper(),
        ),
        (f"{ASKED}\n\n{TEXT}\n\nAnd why?", f"{ASKED}\n\n{TEXT}", "And why?"),
        (f"{ASKED}\n\n{TEXT}\n\n{ASKED}", f"{ASKED}\n\n{TEXT}", ASKED),
    ],
)
def test_a_question_before_the_text_is_one_if_it_says_so(
    content: str, context: str, question: str
) -> None:
    assert part(turns(content)) == (context, turns(question))
    rest = turns(question, "He.", "And when?")
    assert part(turns(content, "He.", "And when?")) == (context, rest)


def test_what_may_be_a_question_before_the_text_is_warned_about() -> None:
    content = f"Who wrote it?\n\n{TEXT}"
    with pytest.warns(UserWarning, match=r"taking 'And another.*'Who wrote it\?' is"):
        context, rest = part(turns(content))
    assert (context, rest) == (content.rpartition("\n\n")[0], turns("And another one."))
    part(turns(content, "Yes.", "Why?"))  # once is enough: a warning is an error here


def limits(chat: ChatRapid) -> list[object]:
    profile = chat.profile or {}
    keys = ("max_input_tokens", "max_output_tokens", "tool_calling")
    return [profile.get(key) for key in keys]


def test_the_profile_tells_what_fits() -> None:
    chat = ChatRapid(model_path="a/tiny.gguf", n_ctx=512, max_tokens=9)
    assert limits(chat) == [512, 9, True]
    assert limits(chat.model_copy(update={"n_ctx": 256})) == [256, 9, True]
    copy = pickle.loads(pickle.dumps(chat))  # noqa: S301  our own
    assert limits(copy) == limits(chat)
    chat.n_ctx, chat.max_tokens = 0, 8  # the model's own, which is not loaded
    assert limits(chat) == [None, 8, True]
    given = ChatRapid(model_path="tiny.gguf", profile={"max_input_tokens": 3})
    given.n_ctx = 99
    assert limits(given.model_copy(update={"n_ctx": 88})) == [3, None, None]


@pytest.mark.parametrize("given", ["x", None, [None], ["x"], HumanMessage("x")])
def test_only_messages_are_counted(given: Any) -> None:
    chat = ChatRapid(model_path="x.gguf", context="A heap.")
    with pytest.raises(InvalidValueError, match="must be a"):
        chat.get_num_tokens_from_messages(given)


def test_a_chat_streams_whenever_it_is_asked_to() -> None:
    """To LangChain a False that was given forbids it, and whatever is configured is."""
    chat = ChatRapid(model_path="m.gguf", streaming=False)
    bound: Any = chat.configurable_fields(max_tokens=ConfigurableField(id="n"))
    configured, _ = bound.prepare({"configurable": {"n": 3}})
    for each in (chat, configured):
        assert "streaming" not in each.model_fields_set
    assert (
        "streaming" in ChatRapid(model_path="m.gguf", streaming=True).model_fields_set
    )


def test_a_misspelt_path_of_a_model_is_named() -> None:
    with pytest.raises(UnknownArgumentError, match="model_path"):
        ChatRaLMSpec.from_chain(
            retriever=InMemoryVectorStore(DeterministicFakeEmbedding(size=8)),
            prompt=PromptTemplate.from_template("{context} {question}"),
            modelpath="m.gguf",
        )


def test_a_history_that_is_not_optional_is_asked_for() -> None:
    last = ("human", "{context} {question}")
    needed = ChatPromptTemplate.from_messages([MessagesPlaceholder("past"), last])
    with pytest.raises(InvalidValueError, match=r"a string, and 'past', got \['ques"):
        ChainPrompt.of(needed).messages({"question": "Why?"})
    optional = ChatPromptTemplate.from_messages([("placeholder", "{past}"), last])
    question: dict[str, Any] = {"question": "Why?"}
    for prompt, values in ((optional, question), (needed, question | {"past": []})):
        asked = ChainPrompt.of(prompt).messages(values)
        assert [message.text for message in asked] == ["Why?"]


BEGINNING = ChatPromptTemplate.from_messages(
    [("system", "Be brief."), ("human", "{context} {q}"), ("ai", "The answer is")]
)
PAST = [HumanMessage("Hi"), AIMessage("Hello!")]
QUESTION = HumanMessage("Q?")
CALL = {"name": "f", "args": {}, "id": "1"}
CALLED = [AIMessage("", tool_calls=[CALL]), ToolMessage("x", tool_call_id="1")]


@pytest.mark.parametrize(
    ("asked", "roles", "begun"),
    [
        ([QUESTION], "system user assistant", "The answer is"),
        (
            [*PAST, QUESTION],
            "system user assistant user assistant",
            "The answer is",
        ),
        (
            [QUESTION, *CALLED],
            "system user assistant tool assistant",
            "The answer is",
        ),
        (
            [*PAST, QUESTION, AIMessage("so")],
            "system user assistant user assistant",
            "The answer is\n\nso",
        ),
    ],
)
def test_history_stands_before_the_question_of_a_prompt_that_begins_the_answer(
    asked: list[Any], roles: str, begun: str
) -> None:
    turns = ChainPrompt.of(BEGINNING).turns(asked, "Q?")
    assert " ".join(turn["role"] for turn in turns) == roles
    (at,) = (at for at, turn in enumerate(turns) if isinstance(turn["content"], tuple))
    assert turns[at]["content"] == ("", " Q?")
    assert at == (3 if len(asked) > 2 and asked[0] is PAST[0] else 1)
    assert begun_in(turns) == begun


def test_a_prompt_with_selected_examples_is_not_plain() -> None:
    pair = ChatPromptTemplate.from_messages([("human", "{asked}"), ("ai", "{said}")])
    one = PromptTemplate.from_template("{asked} {said}")
    selector = LengthBasedExampleSelector(examples=[], example_prompt=one)
    rows = [{"asked": "1?", "said": "1"}]
    last = ("human", "{context} {q}")
    text: dict[str, Any] = {"example_prompt": one, "suffix": "{context} {q}"}

    def prompts(**given: Any) -> list[Any]:
        shots = FewShotChatMessagePromptTemplate(example_prompt=pair, **given)
        inner = ChatPromptTemplate.from_messages([shots, last])
        return [
            inner,
            ChatPromptTemplate.from_messages([inner]),
            FewShotPromptTemplate(input_variables=["context", "q"], **text, **given),
        ]

    for prompt in prompts(example_selector=selector):
        assert not is_plain(prompt)
    for prompt in prompts(examples=rows):
        assert is_plain(prompt)


def test_an_answer_may_begin_with_the_documents() -> None:
    prompt = ChatPromptTemplate.from_messages(
        [("human", "{q}"), ("ai", "See {context}:")]
    )
    assert begun_in(ChainPrompt.of(prompt).turns([QUESTION], "Q?")) == "See :"


@pytest.mark.parametrize("kind", [ChatRaLMSpec, ChatRapid])
def test_a_call_without_an_id_is_named(kind: Any) -> None:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    own = {"retriever": store} if kind is ChatRaLMSpec else {"context": "A heap."}
    chat = kind(model_path="m.gguf", **own)
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    with pytest.raises(InvalidValueError, match="a message lacks 'id'"):
        chat.invoke([{"role": "user", "content": "?"}, said])


@pytest.mark.parametrize("markup", ["<|im_start|>user", "[INST]", "<start_of_turn>"])
def test_a_prompt_that_spells_a_chat_templates_markup_is_told(markup: str) -> None:
    prompt = PromptTemplate.from_template(markup + " {context} {question}")
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    with pytest.warns(UserWarning, match=r"which is read as text.*RaLMSpecLLM"):
        ChatRaLMSpec(model_path="m.gguf", retriever=store, prompt=prompt)


TESTED = "{% if context %}Use {{ context }}.{% else %}Say so.{% endif %} {{ question }}"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{{ context[:400] }} {{ question }}", "jinja2"),
        ("{context:.400} {question}", "f-string"),
        (r"{{ context.split('\n\n')[0] }} {{ question }}", "jinja2"),
    ],
)
def test_a_prompt_that_cuts_documents_is_refused(text: str, kind: Any) -> None:
    prompt = PromptTemplate.from_template(text, template_format=kind)
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    with pytest.raises(ValueError, match=r"cuts what it is given as \{context\}"):
        ChatRaLMSpec(model_path="m.gguf", retriever=store, prompt=prompt)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (TESTED, "jinja2"),
        ("{{#context}}Use {{context}}{{/context}} {{question}}", "mustache"),
    ],
)
def test_a_prompt_that_tests_for_documents_is_told(text: str, kind: Any) -> None:
    prompt = PromptTemplate.from_template(text, template_format=kind)
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    settings: dict[str, Any] = {"retriever": store, "prompt": prompt}
    with pytest.warns(UserWarning, match="something else where .* is empty"):
        ChatRaLMSpec(model_path="m.gguf", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ChatRaLMSpec(model_path="m.gguf", on_empty="error", **settings)


@pytest.mark.filterwarnings("error")
def test_a_prompt_that_tells_the_time_is_taken() -> None:
    prompt = PromptTemplate.from_template("{now}: {context} {question}")
    told = prompt.partial(now=lambda: str(time.perf_counter_ns()))
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    ChatRaLMSpec(model_path="m.gguf", retriever=store, prompt=told)
