"""Batches over a real model: decoded together, and each answer is the lone one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from langchain_ralmspec import RaLMSpecLLM, RaLMSpecRetriever, RapidChain
from tests.integration_tests.conftest import QUESTIONS, Corpus, Listener
from tests.integration_tests.engine.test_joint import sizes_of_calls

if TYPE_CHECKING:
    from langchain_core.outputs import LLMResult

PROMPTS = [f"Question: {question}\nAnswer:" for question in QUESTIONS[:4]]
GREEDY: dict[str, Any] = {}
DRAWN = {"temperature": 0.9, "top_k": 20, "seed": 7}


def told(result: LLMResult) -> list[Any]:
    """Of each answer its text, its tokens in and out, and why it ended."""
    infos = [each[0].generation_info or {} for each in result.generations]
    return [
        (each[0].text, info["usage_metadata"], info["finish_reason"])
        for each, info in zip(result.generations, infos, strict=True)
    ]


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
async def test_prompts_of_one_call_get_their_lone_answers(
    gguf: str, retriever: RaLMSpecRetriever, sampling: dict[str, Any]
) -> None:
    def make(**own: Any) -> RaLMSpecLLM:
        settings: dict[str, Any] = {"n_threads": 1, "max_tokens": 10}
        settings["streaming"] = True  # tokens are told
        return RaLMSpecLLM(model_path=gguf, retriever=retriever, **settings, **own)

    alone, llm = make(joint_decoding=False), make()
    lone, pieces = [], []
    for prompt in PROMPTS:
        listener = Listener()
        lone += told(alone.generate([prompt], callbacks=[listener], **sampling))
        pieces.append(listener.tokens)
    sizes = sizes_of_calls(llm.engine)
    for is_async in (False, True):
        listeners: list[Any] = [[Listener()] for _ in PROMPTS]
        if is_async:
            result = await llm.agenerate(PROMPTS, callbacks=listeners, **sampling)
        else:
            result = llm.generate(PROMPTS, callbacks=listeners, **sampling)
        assert told(result) == lone
        assert [each.tokens for (each,) in listeners] == pieces
    assert max(sizes) > 1


def test_prompts_take_turns_where_tokens_do(
    gguf: str, retriever: RaLMSpecRetriever
) -> None:
    settings: dict[str, Any] = {"model_path": gguf, "retriever": retriever}
    llm = RaLMSpecLLM(**settings, max_tokens=4, joint_decoding=False)
    assert llm.engine.n_together(8) == 1
    assert RaLMSpecLLM(**settings, n_threads=1).engine.n_together(8) > 1


# Drafts, whose lengths hang on what is measured, are verified by kernels that round
# otherwise: without one of these, two lone answers in turn may differ.
@pytest.mark.parametrize(
    ("sampling", "drafts"),
    [(GREEDY, {"draft_length": 0}), (DRAWN, {"exact_batches": True})],
    ids=["greedy, no drafts", "drawn, exact drafts"],
)
def test_questions_about_one_text_get_their_lone_answers(
    gguf: str, corpus: Corpus, sampling: dict[str, Any], drafts: dict[str, Any]
) -> None:
    own = {"n_ctx": 2048, "max_tokens": 20, "n_threads": 1, **drafts}
    context = "\n\n".join(corpus.texts[:8])[:2000]
    asked = [{"question": each, "context": context} for each in QUESTIONS[:4]]
    alone = RapidChain(model_path=gguf, joint_decoding=False, **own)
    lone = [alone.invoke(each, **sampling)["answer"] for each in asked]
    chain = RapidChain(model_path=gguf, **own)
    sizes = sizes_of_calls(chain.engine)
    answers = chain.batch(asked, **sampling)
    assert [each["answer"] for each in answers] == lone
    by_place = dict(chain.batch_as_completed(asked, **sampling))
    assert [by_place[place]["answer"] for place in range(len(asked))] == lone
    assert max(sizes) > 1
