"""``ralmspec bench ralm``: the sequential loop against speculation, by booster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console

from langchain_ralmspec.assets.corpus import QUESTIONS, load_questions
from langchain_ralmspec.assets.targets import find_gguf
from langchain_ralmspec.bench.contest import SEQUENTIAL
from langchain_ralmspec.bench.figures import check_file, say, write_figures
from langchain_ralmspec.bench.options import (
    CorpusOption,
    EmbeddingOption,
    JsonOption,
    LengthOption,
    LimitOption,
    ModelOption,
    chosen_rows,
)
from langchain_ralmspec.bench.ralm.contest import NARROW, READ, RowContest
from langchain_ralmspec.bench.ralm.report import report
from langchain_ralmspec.bench.ralm.workload import Corpus, StoreName, Workload
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.llms import RaLMSpecLLM
from langchain_ralmspec.retrievers import RaLMSpecRetriever
from langchain_ralmspec.speculation.plan import IN_FLIGHT

_SPEC: dict[str, Any] = {
    "speculation_stride": 3,
    "prefetch_k": 1,
    "guess_policy": "lookup",
    "asynchronous": False,
}
REPLICA = "+PSAR"
"""The row whose retriever has a replica."""

ROWS: dict[str, dict[str, Any]] = {
    "Spec": _SPEC,
    "+P": _SPEC | {"prefetch_k": None},
    "+S": _SPEC | {"speculation_stride": "auto"},
    "+A": _SPEC | {"asynchronous": True},
    "+PS": {"asynchronous": False},
    "+PSA": {},
    REPLICA: {},
    f"+PSA{READ}": {},
    f"{REPLICA}{READ}": {},
}
"""What each row sets; the rest is the default, which has every booster on.

``Spec`` is the paper's plain speculation. +P, +S and +A add one of its boosters
each: prefetching, the stride scheduler, asynchronous verification. In +PS and +PSA
the scheduler chooses the guess policy as well. +PSAR is +PSA with a replica of the
store. +PSAW and +PSARW are the same with passages that were read before; the sequential
loop W, which they are compared with, comes with them.
"""

USUAL_ROWS = [row for row in ROWS if not row.endswith(READ)]
"""The rows that are measured where none are named."""

PROMPT = "Question: {}\nAnswer:"
"""Plain completion, as the paper has it: a chat model's answers often end early."""

OTHERS = [
    PROMPT.format("How does the engine of a steamship work?"),
    PROMPT.format("Which animals live in the deep sea?"),
]
"""What warms up where there are no more questions than are timed."""

N_WARM = len(OTHERS)
"""Untimed questions for each row, so that "auto" knows its costs, as it does in a
process that lives longer than one answer."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Time the sequential loop against speculation, booster by booster."""

    store: Annotated[StoreName, typer.Option(help="Where to retrieve from.")] = (
        "faiss-flat"
    )
    corpus: CorpusOption = None
    questions: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines with a "question" each; some about Python by default.',
            dir_okay=False,
        ),
    ] = None
    limit: LimitOption = 20
    distractors: Annotated[
        int,
        typer.Option(
            help="Random unit vectors beside the passages, in FAISS: the search then "
            "costs what a corpus of that size costs.",
            min=0,
        ),
    ] = 0
    latency_ms: Annotated[
        float,
        typer.Option(
            help="Delay each way, in front of a real server (chroma-http).", min=0
        ),
    ] = 0.0
    embedding: EmbeddingOption = "minilm"
    embedding_server: Annotated[
        float | None,
        typer.Option(
            metavar="MS",
            help="Embed queries by a server that speaks OpenAI's API, in a process of "
            "its own, so many milliseconds of a round trip away.",
            min=0,
        ),
    ] = None
    model: ModelOption = "smollm2-135m"
    max_tokens: LengthOption = 64
    rows: Annotated[
        str | None,
        typer.Option(help="Only these, with commas between, e.g. Spec,+PSA."),
    ] = None
    json: JsonOption = None

    def run(self) -> dict[str, Any]:
        """Measure; print, write and return the figures; errors come before any work."""
        self._workload.check()
        rows = chosen_rows(self.rows or ",".join(USUAL_ROWS), list(ROWS))
        check_file(self.json)
        gguf = find_gguf(self.model)
        questions = load_questions(self.questions) if self.questions else QUESTIONS
        asked = [PROMPT.format(question) for question in questions]
        corpus = Corpus.load(self.corpus, self.embedding)
        with self._contest(gguf, corpus, rows) as contest:
            if READ in contest.models:
                contest.read(asked[: self.limit])
            # Of others, as "auto" learns how often guesses are right.
            contest.warm_up(asked[self.limit :][:N_WARM] or OTHERS)
            for number, question in enumerate(asked[: self.limit], start=1):
                contest.ask(question)
                say(f"{number}. {questions[number - 1]}  {contest.last_speedups()}")
        figures = self._figures(contest, corpus)
        report(figures, Console())
        if self.json:
            write_figures(self.json, figures)
        return figures

    @property
    def _workload(self) -> Workload:
        return Workload(
            store=self.store,
            distractors=self.distractors,
            latency=self.latency_ms / 1e3,
            embedding_server=None
            if self.embedding_server is None
            else self.embedding_server / 1e3,
        )

    @contextmanager
    def _contest(
        self, gguf: str, corpus: Corpus, rows: list[str]
    ) -> Iterator[RowContest]:
        with self._workload.opened(corpus) as store, TemporaryDirectory() as folder:
            plain = RaLMSpecRetriever(vectorstore=store)

            def llm(
                settings: dict[str, Any], retriever: RaLMSpecRetriever = plain
            ) -> RaLMSpecLLM:
                return RaLMSpecLLM(
                    model_path=gguf,
                    retriever=retriever,
                    max_tokens=self.max_tokens,
                    **settings,
                )

            known = {
                row: settings | ({"kv_cache_dir": folder} if row.endswith(READ) else {})
                for row, settings in ROWS.items()
            }
            models = {SEQUENTIAL: llm({"speculation": False})}
            narrow = any(ROWS[row].get("prefetch_k") == 1 for row in rows)
            if narrow and not plain.store.top_k_is_stable:
                models[NARROW] = llm({"speculation": False, "prefetch_k": 1})
            if any(row.endswith(READ) for row in rows):
                models[READ] = llm({"speculation": False, "kv_cache_dir": folder})
            twins = [row for row in rows if row.startswith(REPLICA)]
            models |= {row: llm(known[row]) for row in rows if row not in twins}
            if twins and (twin := self._twin(store, corpus)):
                models |= {row: llm(known[row], twin) for row in twins}
            yield RowContest(models)

    def _twin(self, store: Any, corpus: Corpus) -> RaLMSpecRetriever | None:
        """A retriever with a replica; None where none is built, and none was named."""
        replica = self._workload.replica(corpus)
        twin = RaLMSpecRetriever(vectorstore=store, replica=replica)
        if twin.new_session(k=1).wait_for_replica():
            return twin
        if not self.rows:
            return None
        msg = (
            f"{REPLICA} needs a replica, and of BM25, or of a FAISS index of fewer "
            "than 4 million numbers, none is built; add --distractors, or leave it out"
        )
        raise InvalidValueError(msg)

    def _figures(self, contest: RowContest, corpus: Corpus) -> dict[str, Any]:
        in_flight = max(IN_FLIGHT) if self._workload.is_remote else 1
        rows = contest.comparisons(in_flight)
        chosen = "+PSA" if "+PSA" in rows else list(rows)[-1]
        loops = {
            name: contest.sequential(name) if name in contest.models else None
            for name in (SEQUENTIAL, NARROW, READ)
        }
        identical = all(row.n_identical == len(row.pairs) for row in rows.values())
        if read := loops[READ]:
            identical &= read["n_identical"] == len(contest.questions)
        return {
            "summary": {**rows[chosen].summary(), "identical": identical},
            "summary_of": chosen,
            "retrieval_share": rows[chosen].retrieval_share,
            "workload": {
                **asdict(self._workload),
                "passages": len(corpus.passages),
                "corpus": str(self.corpus or "docstrings of the standard library"),
                "embedding": self.embedding,
                "model": Path(self.model).name,
                "max_tokens": self.max_tokens,
                "warm_up_questions": contest.n_warm,
            },
            **loops,
            "rows": {
                name: row.as_dict() | contest.times(name) for name, row in rows.items()
            },
        }
