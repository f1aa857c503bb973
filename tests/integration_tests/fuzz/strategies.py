"""What people and programs send: texts, conversations, documents, stop strings."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
)

SHARE = int(os.environ.get("FUZZ_SHARE", "1"))
"""How many times longer than in `make test` to look."""


def examples(n: int) -> Callable[[Any], Any]:
    """Settings of a test that tries ``n`` inputs in `make test`.

    What fails there is shown as it is: to find less that fails takes many answers.
    """
    return settings(
        max_examples=n * SHARE,
        phases=[each for each in Phase if SHARE > 1 or each is not Phase.shrink],
        deadline=None,  # a model answers as fast as it can
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# Control tokens of SmolLM2 and of others, and what may become one; halves of
# characters; line ends; words of several scripts; what templates and prompts are made
# of; what is empty to some eyes.
PARTS = [
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_", "end|>", "<s>", "</s>"),
    *("system\n", "user\n", "assistant\n", "<think>", "</think>", "[INST]"),
    *("\ud835", "\udc00", "\ufeff", "\x00", "\x1c", "\u200d", "🙂", "e\u0301"),
    *("\n", "\r\n", "\n\n", "\r\n \r\n", "\u2028", "\t", " ", "  "),
    *("故乡", "ประเทศ", "हिन्दी", "Straße", "what", "is", "C", "2+2?", "A" * 300),
    *("{page_content}", "{{ x }}", "{% if %}", "%s", "\\", '"', '{"lc": 1}'),
]
texts = st.lists(st.sampled_from(PARTS) | st.text(max_size=8), max_size=8).map("".join)
said = texts.map(lambda text: f"a{text}")  # never blank
stop_strings = st.lists(texts.filter(bool).map(lambda t: t[:12]), max_size=3)

contents: st.SearchStrategy[Any] = st.one_of(
    said,
    st.lists(said | said.map(lambda text: {"type": "text", "text": text}), min_size=1),
)
messages = st.one_of(
    st.builds(HumanMessage, contents),
    st.builds(AIMessage, contents),
    st.builds(SystemMessage, contents),
    st.builds(ChatMessage, said, role=st.sampled_from(["user", "tool", "a <s>"])),
)


@st.composite
def conversations(draw: st.DrawFn) -> list[BaseMessage]:
    """Mostly a system message, turns and a question; sometimes any messages at all."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.lists(messages, min_size=1, max_size=4))
    system = draw(st.lists(said.map(SystemMessage), max_size=1))
    pairs = draw(st.lists(st.tuples(said, said), max_size=1))
    turns = [m for q, a in pairs for m in (HumanMessage(q), AIMessage(a))]
    return [*system, *turns, HumanMessage(draw(contents))]


scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    texts,
    st.dates(),
    st.uuids(),
    st.binary(max_size=4),
    st.sets(st.integers(), max_size=3),
    st.just(np.float32(0.5)),
    st.just(np.arange(2)),
)
metadata = st.dictionaries(
    st.sampled_from(["tenant", "page_content", "id", "lc", "type"]) | said,
    scalars | st.lists(scalars, max_size=2),
    max_size=3,
)
documents = st.lists(
    st.builds(
        Document,
        said,
        id=st.none() | st.integers(0, 9).map(str) | said,
        metadata=metadata,
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda document: document.id or object(),
)
