"""``ralmspec bench together``: requests at the same time, in one model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from langchain_core.documents import Document
from rich.console import Console

from langchain_ralmspec.assets.corpus import many_questions, stdlib_passages
from langchain_ralmspec.assets.targets import find_gguf
from langchain_ralmspec.bench.figures import check_file, say, write_figures
from langchain_ralmspec.bench.options import (
    JsonOption,
    LengthOption,
    ModelOption,
)
from langchain_ralmspec.bench.table import new_table
from langchain_ralmspec.chat_models import ChatRaLMSpec
from langchain_ralmspec.engine.context import Context
from langchain_ralmspec.engine.model import Model
from langchain_ralmspec.stores.bm25_store import BM25Store

Size = tuple[int, int]
"""Tokens that a request reads, and tokens that it writes."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Time requests at the same time against a bare loop of llama.cpp."""

    # The bare loop reads prompts of the same lengths one after the other, and decodes
    # as many tokens of as many sequences in each call, without retrieval, chat or
    # sampling: what a machine can do. "one by one" is joint_decoding=False.
    requests: Annotated[
        list[int] | None,
        typer.Option(help="May be repeated. 1, 8 and 16 by default.", min=1),
    ] = None
    model: ModelOption = "smollm2-135m"
    max_tokens: LengthOption = 64
    rounds: Annotated[int, typer.Option(help="Timings of each.", min=1)] = 3
    json: JsonOption = None

    def run(self) -> dict[str, Any]:
        """Time each number of requests in each way, in turn; report."""
        check_file(self.json)
        # Its search takes next to nothing.
        store = BM25Store.from_documents(
            [Document(each.text, id=each.id) for each in stdlib_passages()]
        )
        chats = {
            name: ChatRaLMSpec(
                retriever=store,
                retrieval_policy="once",
                documents_per_step=1,
                model_path=find_gguf(self.model),
                max_tokens=self.max_tokens,
                joint_decoding=joint,
            )
            for name, joint in (("together", None), ("one by one", False))
        }
        numbers = self.requests or (1, 8, 16)
        rows = [_row(chats, n, self.rounds) for n in numbers]
        figures = {
            "rows": {f"{row['requests']}": row for row in rows},
            "summary": {"identical": all(row["identical"] for row in rows)},
        }
        _report(rows)
        if self.json:
            write_figures(self.json, figures)
        return figures


def _row(chats: dict[str, ChatRaLMSpec], n: int, rounds: int) -> dict[str, Any]:
    """Seconds of ``n`` requests in each way, of each round; the first warms up."""
    questions = many_questions(n)
    lone = [_asked(chats["one by one"], question) for question in questions]
    sizes = [size for _, size in lone]
    seconds: dict[str, list[float]] = {name: [] for name in (*chats, "bare")}
    identical = True
    for number in range(rounds + 1):
        for name, chat in chats.items():
            chat.engine.forget_prefixes()
            start = time.perf_counter()
            with ThreadPoolExecutor(n) as pool:
                answers = list(pool.map(lambda q, c=chat: _asked(c, q), questions))
            if number:
                seconds[name].append(time.perf_counter() - start)
            identical &= answers == lone
        took = _bare(chats["together"].engine, sizes)
        if number:
            seconds["bare"].append(took)
    n_tokens = sum(n_written for _, n_written in sizes)
    rates = {k: n_tokens / statistics.median(each) for k, each in seconds.items()}
    return {
        "requests": n,
        "identical": identical,
        "tokens": n_tokens,
        "seconds": seconds,
        "tokens_per_second": rates,
        "of_bare": rates["together"] / rates["bare"],
        "of_one_by_one": rates["together"] / rates["one by one"],
    }


def _asked(chat: ChatRaLMSpec, question: str) -> tuple[str, Size]:
    message = chat.invoke(question)
    usage = message.usage_metadata
    assert usage is not None  # noqa: S101  ours always tell
    return message.text, (usage["input_tokens"], usage["output_tokens"])


def _bare(model: Model, sizes: Sequence[Size]) -> float:
    """Seconds to read and write as much by llama.cpp alone, all sequences in each call.

    Its context is there before, as ours are.
    """
    context = Context(
        model.weights,
        n_ctx=max(map(sum, sizes)) + 1,
        n_slots=len(sizes),
        n_batch=model.n_batch,
        n_threads=model.n_threads,
    )
    context.grow(max(map(sum, sizes)) + 1, len(sizes))
    start = time.perf_counter()
    for slot, (n_read, _) in enumerate(sizes):
        for at in range(0, n_read, model.n_batch):
            n = min(model.n_batch, n_read - at)
            context.decode(slot, [0] * n, at, n_logits=1)
    for step in range(max(n_written for _, n_written in sizes)):
        slots = [slot for slot, (_, n) in enumerate(sizes) if step < n]
        context.decode_each(
            slots, [0] * len(slots), [sizes[slot][0] + step for slot in slots]
        ).argmax(axis=1)
    return time.perf_counter() - start


def _report(rows: list[dict[str, Any]]) -> None:
    table = new_table(
        "Requests at the same time, tokens a second",
        "requests",
        "one by one",
        "together",
        "bare llama.cpp",
        "of bare",
        "identical",
    )
    for row in rows:
        rates = row["tokens_per_second"]
        table.add_row(
            f"{row['requests']}",
            *(f"{rates[name]:.1f}" for name in ("one by one", "together", "bare")),
            f"{row['of_bare']:.0%}",
            "yes" if row["identical"] else "no",
        )
    Console().print(table)
    say("medians over rounds; retrieval, template and sampling are in the first two")
