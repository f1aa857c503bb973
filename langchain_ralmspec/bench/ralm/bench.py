"""``ralmspec bench ralm``: the sequential loop against speculation, booster by booster.

Every question is answered by all rows in turn, in one process, each going first as
often as the others. No other thread of ours runs meanwhile.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from langchain_ralmspec.assets.corpus import load_questions
from langchain_ralmspec.assets.progress import find_gguf
from langchain_ralmspec.bench import plots
from langchain_ralmspec.bench.comparison import machine
from langchain_ralmspec.bench.demo import QUESTIONS
from langchain_ralmspec.bench.figures import check_file, check_folder, write_figures
from langchain_ralmspec.bench.ralm.contest import NARROW, SEQUENTIAL, Contest
from langchain_ralmspec.bench.ralm.report import report
from langchain_ralmspec.bench.ralm.workload import Corpus, Workload
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
ROWS: dict[str, dict[str, Any]] = {
    "Spec": _SPEC,
    "+P": _SPEC | {"prefetch_k": None},
    "+S": _SPEC | {"speculation_stride": "auto"},
    "+A": _SPEC | {"asynchronous": True},
    "+PS": {"asynchronous": False},
    "+PSA": {},
}
"""What each row sets; the rest is the default, which has every booster on.

``Spec`` is the paper's plain speculation. +P, +S and +A add one of its boosters
each: prefetching, the stride scheduler, asynchronous verification. In +PS and +PSA
the scheduler chooses the guess policy as well.
"""

PROMPT = "Question: {}\nAnswer:"
"""Plain completion, as the paper has it: a chat model's answers often end early."""

N_WARM = 2
"""Untimed questions for each row, so that "auto" knows its costs, as it does in a
process that lives longer than one answer."""


@dataclass(frozen=True, kw_only=True)
class RalmBench:
    """What to measure.

    Attributes:
        workload: the store.
        corpus: JSON lines of passages; Python's docstrings when None.
        embedding: a sentence-transformers model, by packaged name or folder.
        questions: JSON lines of questions; some about Python when None.
        limit: ask so many at most.
        model: a GGUF file or the name of a packaged model.
        max_tokens: length of an answer.
        rows: names from ``ROWS``.
    """

    workload: Workload
    corpus: Path | None = None
    embedding: str = "minilm"
    questions: Path | None = None
    limit: int = 20
    model: str = "smollm2-135m"
    max_tokens: int = 64
    rows: tuple[str, ...] = tuple(ROWS)

    def run(
        self, json_file: Path | None = None, plot_folder: Path | None = None
    ) -> dict[str, Any]:
        """Measure; print, write, plot and return the figures.

        Raises:
            InvalidValueError: something cannot be served; said before any work.
            MissingExtraError: a package that this needs is not installed.
        """
        self._check(json_file, plot_folder)
        gguf = find_gguf(self.model)
        questions = load_questions(self.questions) if self.questions else QUESTIONS
        asked = [PROMPT.format(question) for question in questions]
        corpus = Corpus.load(self.corpus, self.embedding)
        with self._contest(gguf, corpus) as contest:
            contest.warm_up(asked[self.limit :][:N_WARM] or asked[:N_WARM])
            for number, question in enumerate(asked[: self.limit], start=1):
                contest.ask(question)
                _say(f"{number}. {questions[number - 1]}  {contest.last_speedups()}")
        figures = self._figures(contest, corpus)
        report(figures, Console())
        if json_file:
            write_figures(json_file, figures)
            _say(f"figures written to {json_file}")
        if plot_folder:
            for file in plots.draw([figures], plot_folder):
                _say(f"plotted {file}")
        return figures

    def _check(self, json_file: Path | None, plot_folder: Path | None) -> None:
        self.workload.check()
        for row in self.rows:
            if row not in ROWS:
                raise InvalidValueError(
                    f"unknown row {row!r}; known: {', '.join(ROWS)}"
                )
        check_file(json_file)
        check_folder(plot_folder)
        if plot_folder:
            plots.require()

    @contextmanager
    def _contest(self, gguf: str, corpus: Corpus) -> Iterator[Contest]:
        with self.workload.opened(corpus) as store:
            retriever = RaLMSpecRetriever(vectorstore=store)

            def llm(**settings: Any) -> RaLMSpecLLM:
                return RaLMSpecLLM(
                    model_path=gguf,
                    retriever=retriever,
                    max_tokens=self.max_tokens,
                    **settings,
                )

            models = {SEQUENTIAL: llm(speculation=False)}
            narrow = any(ROWS[row].get("prefetch_k") == 1 for row in self.rows)
            if narrow and not retriever.store.top_k_is_stable:
                models[NARROW] = llm(speculation=False, prefetch_k=1)
            models |= {row: llm(**ROWS[row]) for row in self.rows}
            yield Contest(models)

    def _figures(self, contest: Contest, corpus: Corpus) -> dict[str, Any]:
        in_flight = max(IN_FLIGHT) if self.workload.is_remote else 1
        rows = contest.comparisons(in_flight)
        chosen = rows["+PSA" if "+PSA" in rows else list(rows)[-1]]
        identical = all(row.n_identical == len(row.pairs) for row in rows.values())
        return {
            "summary": {**chosen.summary(), "identical": identical},
            "retrieval_share": chosen.retrieval_share,
            "workload": {
                **asdict(self.workload),
                "passages": len(corpus.passages),
                "corpus": str(self.corpus or "docstrings of the standard library"),
                "embedding": self.embedding,
                "model": Path(self.model).name,
                "max_tokens": self.max_tokens,
                "warm_up_questions": contest.n_warm,
            },
            "machine": machine(),
            "command": shlex.join(["ralmspec", *sys.argv[1:]]),
            SEQUENTIAL: contest.sequential(SEQUENTIAL),
            NARROW: contest.sequential(NARROW) if NARROW in contest.models else None,
            "rows": {
                name: row.as_dict() | {"seconds": contest.seconds(name)}
                for name, row in rows.items()
            },
            "timeline": contest.timeline(chosen),
        }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201  no thread, unlike a bar
