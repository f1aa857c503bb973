"""``ralmspec demo``: watch a local model answer, and see what speculation saves."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from langchain_ralmspec.assets.corpus import QUESTIONS, load_questions
from langchain_ralmspec.assets.targets import find_gguf
from langchain_ralmspec.bench.comparison import Answer, Comparison, Pair, ask
from langchain_ralmspec.bench.figures import check_file, write_figures
from langchain_ralmspec.bench.options import (
    CorpusOption,
    JsonOption,
    LengthOption,
    ModelOption,
    auto_or_number,
)
from langchain_ralmspec.bench.ralm.workload import Corpus, StoreName, Workload
from langchain_ralmspec.bench.table import new_table
from langchain_ralmspec.chat_models import ChatRaLMSpec
from langchain_ralmspec.errors import MissingExtraError
from langchain_ralmspec.retrievers import RaLMSpecRetriever
from langchain_ralmspec.speculation.plan import IN_FLIGHT, SEQUENTIAL

_WORTHWHILE = 1.1  # speed-up, under which little can be won

_WARM_UP = "What is it about?"
_PLANS = (
    "A plan says how documents are guessed (look-up in a cache, or the same again), "
    "how many guesses go into a call (≤: or up to an unsure one) and, behind ×, how "
    "many calls are out while the model writes."
)

_N_QUESTIONS = 2  # of our own: what three stacks answer thrice in about a minute

# Modules that these questions are about, and others that many use: 40 s of embedding on
# two cores where all that have docstrings take three minutes.
_MODULES = frozenset({
    "argparse", "collections", "contextlib", "csv", "dataclasses", "datetime",
    "functools", "heapq", "itertools", "json", "math", "os", "pathlib", "queue",
    "random", "re", "shutil", "statistics", "subprocess", "tarfile", "tempfile",
    "textwrap", "threading", "time", "zipfile",
})  # fmt: skip


@dataclass(frozen=True)
class _Stack:
    """Where is retrieved from.

    Attributes:
        key: of its figures, in JSON.
        title: of its row.
    """

    key: str
    title: str
    workload: Workload


_FAR = (
    _Stack(
        "remote",
        "Chroma server, 50 ms away",
        Workload(store="chroma-http", latency=0.025),
    ),
    _Stack(
        "hosted",
        "embeddings, 150 ms away",
        Workload(store="faiss-flat", embedding_server=0.15),
    ),
)


@dataclass(frozen=True)
class Told:
    """What a stack's questions took.

    Attributes:
        compared: both loops, each as if it were asked for the first time.
        read: the speculative loop once more, the passages read by then.
    """

    compared: Comparison
    read: list[Answer]

    @property
    def again(self) -> Comparison:
        """The sequential loop against the one whose passages were read before."""
        pairs = zip(self.compared.pairs, self.read, strict=True)
        return replace(
            self.compared,
            pairs=[replace(pair, speculative=answer) for pair, answer in pairs],
        )

    @property
    def is_identical(self) -> bool:
        """Whether all answers are those of the sequential loop."""
        both = (self.compared, self.again)
        return all(each.n_identical == len(each.pairs) for each in both)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        again = self.again
        return self.compared.as_dict() | {
            "read_before": {
                "speedup_median": again.quartiles[1],
                "speedup_sums": again.speedup,
                "seconds": [answer.seconds for answer in self.read],
                "identical": again.n_identical == len(again.pairs),
            }
        }


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Answer with retrieval inside generation, by both loops in turn."""

    store: Annotated[
        Literal["faiss", "chroma"], typer.Option(help="Vector store to ask.")
    ] = "faiss"
    question: Annotated[
        list[str] | None, typer.Option(help="Ask this instead; may be repeated.")
    ] = None
    questions: Annotated[
        Path | None,
        typer.Option(help='JSON lines with a "question" each.', dir_okay=False),
    ] = None
    limit: Annotated[int | None, typer.Option(help="Ask so many at most.", min=1)] = (
        None
    )
    corpus: CorpusOption = None
    model: ModelOption = "smollm2-135m"
    max_tokens: LengthOption = 96
    speculation_stride: Annotated[
        str,
        typer.Option(help='Guesses verified in one store call; "auto" measures.'),
    ] = "auto"
    guess_policy: Annotated[
        Literal["auto", "lookup", "same"],
        typer.Option(help="How documents are guessed."),
    ] = "auto"
    json: JsonOption = None

    def run(self) -> bool:
        """Ask three stacks the same; print and write the figures.

        First with all in this process, then with a store and with an encoder at a
        distance. Returns whether all answers were identical.
        """
        asked = self.question or []
        if self.questions:
            asked = [*asked, *load_questions(self.questions)]
        _ = self._stride  # what may be mistyped goes before what is long
        check_file(self.json)
        console = Console()
        gguf = find_gguf(self.model)
        corpus = self._read_corpus()
        own = QUESTIONS[: self.limit or _N_QUESTIONS]
        questions = asked[: self.limit] or own
        store: StoreName = "faiss-flat" if self.store == "faiss" else "chroma"
        near = _Stack("near", f"{store} here", Workload(store=store))
        console.print(
            f"{len(corpus.passages)} passages, model {Path(gguf).name}, guess policy "
            f"{self.guess_policy!r}, speculation stride {self._stride!r}. A small "
            "model: judge its speed only.",
            style="dim",
        )
        told: dict[_Stack, Told] = {}
        for stack in (near, *_FAR):
            try:
                told[stack] = self._ask(stack, gguf, corpus, questions, console)
            except MissingExtraError as error:
                if stack is near:
                    raise
                said = f"{stack.title} is left out: {error}"
                console.print(said, markup=False, soft_wrap=True)
        _report(told, console)
        if self.json:
            figures = {stack.key: each.as_dict() for stack, each in told.items()}
            write_figures(self.json, figures)
        identical = all(each.is_identical for each in told.values())
        console.print(f"identical: {'yes' if identical else 'NO'}")
        return identical

    @property
    def _stride(self) -> int | Literal["auto"]:
        return auto_or_number("speculation stride", self.speculation_stride)

    def _read_corpus(self) -> Corpus:
        corpus = Corpus.load(self.corpus)
        if self.corpus:
            return corpus
        passages = [p for p in corpus.passages if p.title.split(".")[0] in _MODULES]
        return replace(corpus, passages=passages)

    def _ask(
        self,
        stack: _Stack,
        gguf: str,
        corpus: Corpus,
        questions: list[str],
        console: Console,
    ) -> Told:
        """Ask one stack every question, by both loops and once more."""
        stack.workload.check()
        console.print(f"\n[bold]{stack.title}[/bold]")
        with stack.workload.opened(corpus) as store:
            chat = ChatRaLMSpec(
                model_path=gguf,
                retriever=RaLMSpecRetriever(vectorstore=store),
                max_tokens=self.max_tokens,
                speculation_stride=self._stride,
                guess_policy=self.guess_policy,
            )
            ask(chat, _WARM_UP)  # untimed: pages in the model, learns what things cost
            pairs, read = [], []
            for number, question in enumerate(questions, start=1):
                console.print(Text(f"{number}. {question}"))
                show = _shown(console) if stack.key == "near" else None
                pair = _answered_by_both(chat, number, question, show)
                again = ask(chat, question, unread=False)
                console.print(
                    f"[dim]sequential {pair.sequential.seconds:.1f} s, speculative "
                    f"{pair.speculative.seconds:.1f} s, once more "
                    f"{again.seconds:.1f} s[/dim]"
                )
                pairs.append(pair)
                read.append(again)
        in_flight = max(IN_FLIGHT) if stack.workload.is_remote else 1
        return Told(Comparison(pairs, in_flight), read)


def _shown(console: Console) -> Callable[[str], None]:
    return partial(console.print, end="", highlight=False, markup=False, soft_wrap=True)


def _answered_by_both(
    chat: ChatRaLMSpec, number: int, question: str, show: Callable[[str], None] | None
) -> Pair:
    slow = chat.model_copy(update={"speculation": False})
    answers = {}
    # In turn first.
    for loop in (chat, slow) if number % 2 else (slow, chat):
        answers[loop.speculation] = ask(loop, question, show if loop is chat else None)
    if show:
        show("\n")
    return Pair(question, sequential=answers[False], speculative=answers[True])


def _report(told: dict[_Stack, Told], console: Console) -> None:
    """One table, and behind it why its numbers are what they are."""
    table = new_table(
        "speed-up over the sequential loop, and seconds of an answer; medians",
        "", "specu- lative", "passages read before", "sequen- tial", "specu- lative",
        "read before", "identical",
    )  # fmt: skip
    for stack, each in told.items():
        pairs = each.compared.pairs
        slow = [pair.sequential.seconds for pair in pairs]
        fast = [pair.speculative.seconds for pair in pairs]
        table.add_row(
            stack.title,
            f"{each.compared.quartiles[1]:.2f}×",
            f"{each.again.quartiles[1]:.2f}×",
            *(
                f"{statistics.median(seconds):.1f} s"
                for seconds in (slow, fast, [answer.seconds for answer in each.read])
            ),
            "yes" if each.is_identical else "NO",
        )
    console.print()
    console.print(table)
    for stack, each in told.items():
        console.print(f"\n{stack.title}:")
        _explain(each.compared, console)
    if any(set(each.compared.plans) - {SEQUENTIAL.label} for each in told.values()):
        console.print(_PLANS, style="dim", highlight=False)


def _explain(comparison: Comparison, console: Console) -> None:
    summary, bounds = comparison.summary(), comparison.bounds
    console.print(
        f"Ceiling 1 + b/a = {summary['ceiling']:.2f}× with "
        f"a = {1e3 * bounds.generation:.0f} ms to generate a step and "
        f"b = {1e3 * bounds.retrieval:.0f} ms to retrieve; attainable "
        f"{summary['attainable']:.2f}×.",
        highlight=False,
    )
    share = bounds.retrieval / (bounds.generation + bounds.retrieval)
    is_sequential = set(comparison.plans) <= {SEQUENTIAL.label}
    if max(summary["attainable"], summary["speedup_median"]) < _WORTHWHILE:
        console.print(
            f"Retrieval is only {share:.0%} of a sequential step with this store, so "
            "there is little to win here."
        )
    elif is_sequential:
        console.print(
            "Nothing was guessed, so both loops did almost the same: their times "
            "differ by this machine's noise."
        )
    elif summary["speedup_median"] < 1:
        console.print(
            "There was something to win, and it was not won: the scheduler learns what "
            "things cost while it answers, and these are few questions. Other work on "
            "this machine costs more still."
        )
    slow = comparison.total("store_calls", "sequential")
    fast = comparison.total("store_calls")
    plans = ", ".join(f"{p} {share:.0%}" for p, share in comparison.plans.items())
    right, guesses = (comparison.total(n) for n in ("right_guesses", "guesses"))
    console.print(
        f"store calls: {slow:.0f} → {fast:.0f}; right guesses: {right:.0f} of "
        f"{guesses:.0f}; plans: {plans}",
        highlight=False,
    )
