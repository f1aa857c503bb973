"""``ralmspec bench swap``: a chain that retrieves once against what replaces it."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from langchain_core.prompts import ChatPromptTemplate
from rich.console import Console

from langchain_ralmspec.assets.corpus import QUESTIONS, load_questions
from langchain_ralmspec.assets.targets import find_gguf
from langchain_ralmspec.base.plain import documents_of
from langchain_ralmspec.bench.engine import rival_of
from langchain_ralmspec.bench.figures import check_file, say, write_figures
from langchain_ralmspec.bench.options import (
    CorpusOption,
    EmbeddingOption,
    JsonOption,
    LengthOption,
    LimitOption,
    ModelOption,
)
from langchain_ralmspec.bench.ralm.workload import Corpus, Workload
from langchain_ralmspec.bench.table import new_table
from langchain_ralmspec.chat_models import ChatRaLMSpec
from langchain_ralmspec.retrievers import RaLMSpecRetriever

PROMPT = ChatPromptTemplate.from_template(
    "Answer the question based only on the following context:\n{context}\n\n"
    "Question: {question}\n"
)
"""The prompt of LangChain's own tutorials."""

ROUNDS = {
    "new": "{}",
    "again": "{}",
    "reworded": "{} Be brief.",
}
"""How a question is put: its passages are new; it is asked again; it is asked in other
words, which find the same passages or others."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Time a chain over llama_cpp.Llama against ChatRaLMSpec.from_chain."""

    corpus: CorpusOption = None
    questions: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines with a "question" each; some about Python by default.',
            dir_okay=False,
        ),
    ] = None
    limit: LimitOption = 20
    k: Annotated[int, typer.Option(help="Passages of a prompt.", min=1)] = 4
    model: ModelOption = "smollm2-135m"
    embedding: EmbeddingOption = "minilm"
    n_ctx: Annotated[int, typer.Option(help="Tokens of a context.", min=1)] = 4096
    max_tokens: LengthOption = 64
    json: JsonOption = None

    def run(self) -> dict[str, Any]:
        """Ask every question in every round of both, in turn first; report."""
        check_file(self.json)
        workload = Workload(store="faiss-flat")
        workload.check()
        gguf = find_gguf(self.model)
        given = load_questions(self.questions) if self.questions else QUESTIONS
        corpus = Corpus.load(self.corpus, self.embedding)
        with workload.opened(corpus) as store:
            retriever = RaLMSpecRetriever(vectorstore=store, k=self.k)
            chat = ChatRaLMSpec.from_chain(
                retriever=retriever,
                prompt=PROMPT,
                documents_per_step=self.k,
                model_path=gguf,
                n_ctx=self.n_ctx,
                max_tokens=self.max_tokens,
            )
            chain = _Chain(retriever, gguf, self.n_ctx, self.max_tokens)
            figures = _compare(chain, chat, given[: self.limit])
        figures["workload"] = {
            "passages": len(corpus.documents),
            "documents_per_step": self.k,
            "model": self.model,
            "embedding": self.embedding,
            "max_tokens": self.max_tokens,
        }
        _report(figures)
        if self.json:
            write_figures(self.json, figures)
        return figures


def found_the_same(figures: dict[str, Any]) -> bool:
    """Whether both have read the same documents for every question."""
    summary = figures["summary"]
    return bool(summary["same_documents"] == summary["questions"])


class _Chain:
    """Retriever, prompt and llama_cpp.Llama, as LangChain's ChatLlamaCpp calls it."""

    def __init__(self, retriever: Any, gguf: str, n_ctx: int, max_tokens: int) -> None:
        self._retriever, self._max_tokens = retriever, max_tokens
        self._llama = rival_of(gguf, n_ctx)

    def found(self, question: str) -> list[str | None]:
        return [document.id for document in self._retriever.invoke(question)]

    def stream(self, question: str) -> Iterable[str]:
        documents = self._retriever.invoke(question)
        context = "\n\n".join(document.page_content for document in documents)
        prompt = PROMPT.invoke({"context": context, "question": question})
        messages: Any = [{"role": "user", "content": prompt.to_messages()[0].content}]
        pieces: Any = self._llama.create_chat_completion(
            messages,
            stream=True,
            temperature=0.0,
            repeat_penalty=1.0,
            max_tokens=self._max_tokens,
        )
        for piece in pieces:
            yield piece["choices"][0]["delta"].get("content") or ""


def _compare(chain: _Chain, chat: ChatRaLMSpec, questions: list[str]) -> dict[str, Any]:
    asked: dict[str, Callable[[str], Iterable[str]]] = {
        "old": chain.stream,
        "new": lambda question: (str(piece.text) for piece in chat.stream(question)),
    }
    for stream in asked.values():
        _timed(stream("What is it about?"))  # loads everything
    turns = itertools.cycle([("old", "new"), ("new", "old")])
    answers: list[dict[str, Any]] = []
    for name, wording in ROUNDS.items():
        for question in questions:
            put = wording.format(question)
            times = {which: _timed(asked[which](put)) for which in next(turns)}
            answers.append({"round": name, "question": put, **times})
        say(f"round {name}: {len(questions)} questions")
    same = sum(
        [d.id for d in documents_of(chat.invoke(q, max_tokens=1))] == chain.found(q)
        for q in questions
    )
    rounds = {
        name: _summary([each for each in answers if each["round"] == name])
        for name in ROUNDS
    }
    summary = {"questions": len(questions), "same_documents": same, "rounds": rounds}
    return {"summary": summary, "answers": answers}


def _timed(pieces: Iterable[str]) -> dict[str, Any]:
    """Seconds of an answer, and those to its first text."""
    start, first, text = time.perf_counter(), None, ""
    for piece in pieces:
        if piece and first is None:
            first = time.perf_counter() - start
        text += piece
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "first_text": first or seconds, "text": text}


def _summary(answers: list[dict[str, Any]]) -> dict[str, float]:
    told: dict[str, float] = {}
    for part in ("seconds", "first_text"):
        pairs = [(each["old"][part], each["new"][part]) for each in answers]
        told[f"{part}_old"] = statistics.median(old for old, _ in pairs)
        told[f"{part}_new"] = statistics.median(new for _, new in pairs)
        told[f"{part}_ratio"] = statistics.median(old / new for old, new in pairs)
        told[f"{part}_ratio_of_sums"] = sum(old for old, _ in pairs) / sum(
            new for _, new in pairs
        )
    told["same_text"] = sum(e["old"]["text"] == e["new"]["text"] for e in answers)
    return told


def _report(figures: dict[str, Any]) -> None:
    summary = figures["summary"]
    table = new_table(
        f"the swap, {summary['questions']} questions, medians",
        "", "seconds before", "after", "speed-up", "of sums",
        "first text before", "first text after", "sooner", "same text",
    )  # fmt: skip
    for name, told in summary["rounds"].items():
        table.add_row(
            name,
            f"{told['seconds_old']:.2f}",
            f"{told['seconds_new']:.2f}",
            f"{told['seconds_ratio']:.2f}×",
            f"{told['seconds_ratio_of_sums']:.2f}×",
            f"{told['first_text_old']:.2f}",
            f"{told['first_text_new']:.2f}",
            f"{told['first_text_ratio']:.2f}×",
            f"{told['same_text']:.0f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"the same documents for {summary['same_documents']} of "
        f"{summary['questions']} questions"
    )
