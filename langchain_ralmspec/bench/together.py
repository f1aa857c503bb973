"""``ralmspec bench together``: requests at the same time, in one model."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

from langchain_ralmspec.assets.corpus import QUESTIONS
from langchain_ralmspec.assets.targets import find_gguf
from langchain_ralmspec.bench.figures import check_file, say, write_figures
from langchain_ralmspec.bench.options import (
    JsonOption,
    LengthOption,
    ModelOption,
)
from langchain_ralmspec.bench.ralm.workload import Corpus, StoreName, Workload
from langchain_ralmspec.bench.table import new_table
from langchain_ralmspec.chat_models import ChatRaLMSpec
from langchain_ralmspec.engine.context import Context
from langchain_ralmspec.engine.model import Model

Size = tuple[int, int]
"""Tokens that a request reads, and tokens that it writes."""

_POLICIES: dict[str, dict[str, Any]] = {
    "bm25": {"retrieval_policy": "once"},  # its search takes next to nothing
    "others": {"retrieval_policy": "stride"},
}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Time requests at the same time against a bare loop of llama.cpp."""

    # The bare loop reads prompts of the same lengths one after the other, and decodes
    # as many tokens of as many sequences in each call, without retrieval, chat or
    # sampling: what a machine can do. "one by one" is joint_decoding=False.
    # Over BM25 a request retrieves once; over any other store as it writes.
    requests: Annotated[
        str, typer.Option(help="Numbers of requests, with commas between.")
    ] = "1,8,16"
    store: Annotated[StoreName, typer.Option(help="Where to retrieve from.")] = "bm25"
    latency_ms: Annotated[
        float,
        typer.Option(
            help="Delay each way, in front of a real server (chroma-http).", min=0
        ),
    ] = 0.0
    model: ModelOption = "smollm2-135m"
    max_tokens: LengthOption = 64
    rounds: Annotated[int, typer.Option(help="Timings of each.", min=1)] = 3
    json: JsonOption = None

    def run(self) -> dict[str, Any]:
        """Time each number of requests in each way, in turn; report."""
        check_file(self.json)
        workload = Workload(store=self.store, latency=self.latency_ms / 1e3)
        workload.check()
        numbers = [int(n) for n in self.requests.split(",")]
        with workload.opened(Corpus.load()) as store:
            chats = self._chats(store)
            rows = [_row(chats, n, self.rounds) for n in numbers]
        figures = {
            "rows": {f"{row['requests']}": row for row in rows},
            "summary": {"identical": all(row["identical"] for row in rows)},
        }
        _report(rows)
        if self.json:
            write_figures(self.json, figures)
        return figures

    def _chats(self, store: Any) -> dict[str, ChatRaLMSpec]:
        """The model that decodes together, and the one whose requests take turns."""
        return {
            name: ChatRaLMSpec(
                retriever=store,
                documents_per_step=1,
                model_path=find_gguf(self.model),
                max_tokens=self.max_tokens,
                joint_decoding=joint,
                **_POLICIES.get(self.store, _POLICIES["others"]),
            )
            for name, joint in (("together", None), ("one by one", False))
        }


def _row(chats: dict[str, ChatRaLMSpec], n: int, rounds: int) -> dict[str, Any]:
    """Seconds of ``n`` requests in each way, of each round; the first warms up."""
    questions = [
        f"{question} ({number})"
        for number, question in enumerate(
            itertools.islice(itertools.cycle(QUESTIONS), n)
        )
    ]
    lone, sizes, n_lone = _answered(_asked(chats["one by one"], q) for q in questions)
    calls: dict[str, list[int]] = {name: [] for name in chats}
    seconds: dict[str, list[float]] = {name: [] for name in (*chats, "bare")}
    identical = True
    for number in range(rounds + 1):
        for name, chat in chats.items():
            chat.engine.forget_prefixes()
            start = time.perf_counter()
            with ThreadPoolExecutor(n) as pool:
                answers = list(pool.map(lambda q, c=chat: _asked(c, q), questions))
            took = time.perf_counter() - start
            texts, _, n_calls = _answered(answers)
            if number:
                seconds[name].append(took)
                calls[name].append(n_calls)
            identical &= texts == lone
        start = time.perf_counter()
        _bare(chats["together"].engine, sizes)
        if number:
            seconds["bare"].append(time.perf_counter() - start)
    n_tokens = sum(n_written for _, n_written in sizes)
    rates = {k: n_tokens / statistics.median(each) for k, each in seconds.items()}
    return {
        "requests": n,
        "identical": identical,
        "tokens": n_tokens,
        "seconds": seconds,
        "store_calls": {"alone": n_lone, **calls},
        "tokens_per_second": rates,
        "of_bare": rates["together"] / rates["bare"],
        "of_one_by_one": rates["together"] / rates["one by one"],
    }


def _asked(chat: ChatRaLMSpec, question: str) -> tuple[str, Size, int]:
    message = chat.invoke(question)
    usage = message.usage_metadata
    assert usage is not None  # noqa: S101  ours always tell
    size = usage["input_tokens"], usage["output_tokens"]
    return message.text, size, message.response_metadata["speculation"]["store_calls"]


def _answered(
    answers: Iterable[tuple[str, Size, int]],
) -> tuple[list[str], list[Size], int]:
    """Texts of answers, their sizes, and the calls of the store that all made."""
    texts, sizes, n_calls = zip(*answers, strict=True)
    return list(texts), list(sizes), sum(n_calls)


def _bare(model: Model, sizes: Sequence[Size]) -> None:
    """Read and write as much by llama.cpp alone, all sequences in each call."""
    context = Context(
        model.weights,
        n_ctx=max(map(sum, sizes)) + 1,
        n_slots=len(sizes),
        n_batch=model.n_batch,
        n_threads=model.n_threads,
    )
    for slot, (n_read, _) in enumerate(sizes):
        for at in range(0, n_read, model.n_batch):
            n = min(model.n_batch, n_read - at)
            context.decode(slot, [0] * n, at, n_logits=1)
    for step in range(max(n_written for _, n_written in sizes)):
        slots = [slot for slot, (_, n) in enumerate(sizes) if step < n]
        context.decode_each(
            slots, [0] * len(slots), [sizes[slot][0] + step for slot in slots]
        ).argmax(axis=1)


def _report(rows: list[dict[str, Any]]) -> None:
    table = new_table(
        "Requests at the same time, tokens a second",
        "requests",
        "one by one",
        "together",
        "bare llama.cpp",
        "of bare",
        "store calls",
        "identical",
    )
    for row in rows:
        rates, calls = row["tokens_per_second"], row["store_calls"]
        table.add_row(
            f"{row['requests']}",
            *(f"{rates[name]:.1f}" for name in ("one by one", "together", "bare")),
            f"{row['of_bare']:.0%}",
            f"{statistics.median(calls['together']):g} of {calls['alone']}",
            "yes" if row["identical"] else "no",
        )
    Console().print(table)
    say(
        "medians over rounds; store calls: of those that the same requests make one "
        "after the other; reading, retrieval and sampling are part of the first two"
    )
