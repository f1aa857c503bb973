"""``ralmspec demo``: watch a local model answer, and see what speculation saves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from langchain_ralmspec.assets.corpus import QUESTIONS, load_questions
from langchain_ralmspec.assets.targets import find_gguf
from langchain_ralmspec.bench.comparison import Comparison, Pair, ask
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


@dataclass(frozen=True)
class _Far:
    """A stack that waits for a network.

    Attributes:
        key: of its figures, in JSON.
        title: of its table.
        about: what it is.
        n_questions: the first ones, which it is asked.
    """

    key: str
    workload: Workload
    title: str
    about: str
    n_questions: int


_FAR = (
    _Far(
        "remote",
        Workload(store="chroma-http", latency=0.025),
        "Chroma server at a round trip of 50 ms",
        "The same passages in a Chroma server, as if it were elsewhere: behind a round "
        "trip of 50 ms.",
        3,
    ),
    _Far(
        "hosted",
        Workload(store="faiss-flat", embedding_server=0.15),
        "FAISS, embeddings at a round trip of 150 ms",
        "The same passages in FAISS here, but queries are embedded by a service, as if "
        "it were elsewhere: behind a round trip of 150 ms.",
        2,
    ),
)


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
        """Answer every question with both loops; print and write the figures.

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
        corpus = Corpus.load(self.corpus)
        questions = (asked or QUESTIONS)[: self.limit]
        store: StoreName = "faiss-flat" if self.store == "faiss" else "chroma"
        console.print(
            f"{len(corpus.passages)} passages in {store}, model "
            f"{Path(gguf).name}, guess policy {self.guess_policy!r}, speculation "
            f"stride {self._stride!r}. A small model: judge its speed only.",
            style="dim",
        )
        near = self._compare(Workload(store=store), gguf, corpus, questions, console)
        _report(near, f"sequential against speculative, {store}", console)
        far: dict[str, Comparison] = {}
        for each in _FAR:
            asked = questions[: each.n_questions]
            console.print(f"\n{each.about}")
            try:
                compared = self._compare(each.workload, gguf, corpus, asked, console)
            except MissingExtraError as error:
                said = f"No table, {each.title}: {error}"
                console.print(said, markup=False, soft_wrap=True)
            else:
                _report(compared, each.title, console)
                far[each.key] = compared
        if self.json:
            told = {key: compared.as_dict() for key, compared in far.items()}
            write_figures(self.json, near.as_dict() | told)
        everything = [near, *far.values()]
        identical = all(each.summary()["identical"] for each in everything)
        console.print(f"identical: {'yes' if identical else 'NO'}")
        return identical

    @property
    def _stride(self) -> int | Literal["auto"]:
        return auto_or_number("speculation stride", self.speculation_stride)

    def _compare(
        self,
        workload: Workload,
        gguf: str,
        corpus: Corpus,
        questions: list[str],
        console: Console,
    ) -> Comparison:
        """Answer every question from one store with both loops."""
        workload.check()
        with workload.opened(corpus) as store:
            chat = ChatRaLMSpec(
                model_path=gguf,
                retriever=RaLMSpecRetriever(vectorstore=store),
                max_tokens=self.max_tokens,
                speculation_stride=self._stride,
                guess_policy=self.guess_policy,
            )
            ask(chat, _WARM_UP)  # untimed: pages in the model, learns what things cost
            pairs = []
            for number, question in enumerate(questions, start=1):
                console.print()
                console.print(Text(f"{number}. {question}", style="bold"))
                pairs.append(_answered_by_both(chat, number, question, console))
        return Comparison(pairs, max(IN_FLIGHT) if workload.is_remote else 1)


def _answered_by_both(
    chat: ChatRaLMSpec, number: int, question: str, console: Console
) -> Pair:
    def show(text: str) -> None:
        console.print(text, end="", highlight=False, markup=False, soft_wrap=True)

    slow = chat.model_copy(update={"speculation": False})
    answers = {}
    # In turn first.
    for loop in (chat, slow) if number % 2 else (slow, chat):
        shown: Callable[[str], None] | None = show if loop is chat else None
        answers[loop.speculation] = ask(loop, question, shown)
    pair = Pair(question, sequential=answers[False], speculative=answers[True])
    verdict = "yes" if pair.identical else "NO"
    console.print(f"\n[dim]identical: {verdict}, {pair.speedup:.2f}×[/dim]")
    return pair


def _report(comparison: Comparison, title: str, console: Console) -> None:
    table = new_table(
        title, "", "sequential", "speculative", "speed-up", "identical",
        "right guesses", "store calls",
    )  # fmt: skip
    for number, pair in enumerate(comparison.pairs, start=1):
        slow, fast = pair.sequential, pair.speculative
        table.add_row(
            str(number),
            f"{slow.seconds:.2f} s",
            f"{fast.seconds:.2f} s",
            f"{pair.speedup:.2f}×",
            "yes" if pair.identical else "NO",
            f"{fast.stats.right_guesses} of {fast.stats.guesses}",
            f"{slow.stats.store_calls} → {fast.stats.store_calls}",
        )
    console.print()
    console.print(table)
    _explain(comparison, console)


def _explain(comparison: Comparison, console: Console) -> None:
    summary, bounds = comparison.summary(), comparison.bounds
    console.print(
        f"speed-up {summary['speedup_median']:.2f}× (median of "
        f"{summary['questions']}), ceiling 1 + b/a = {summary['ceiling']:.2f}× with "
        f"a = {1e3 * bounds.generation:.0f} ms to generate a step and "
        f"b = {1e3 * bounds.retrieval:.0f} ms to retrieve; attainable "
        f"{summary['attainable']:.2f}×",
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
    console.print(f"store calls: {slow:.0f} → {fast:.0f}", highlight=False)
    console.print(f"plans: {plans}", highlight=False)
    if not is_sequential:
        console.print(_PLANS, style="dim", highlight=False)
