"""``ralmspec bench quality``: answers by how often documents are looked up for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from langchain_ralmspec.assets.corpus import Passage
from langchain_ralmspec.assets.targets import find_gguf
from langchain_ralmspec.bench.contest import Contest
from langchain_ralmspec.bench.figures import (
    check_file,
    kept_if_interrupted,
    say,
    write_figures,
)
from langchain_ralmspec.bench.options import (
    EmbeddingOption,
    JsonOption,
    LengthOption,
    LimitOption,
    ModelOption,
    chosen_rows,
)
from langchain_ralmspec.bench.quality.perplexity import (
    Piece,
    load_paragraphs,
    parted,
    perplexities,
)
from langchain_ralmspec.bench.quality.policies import (
    ONCE,
    POLICIES,
    SHARED,
    is_once,
    retriever_of,
)
from langchain_ralmspec.bench.quality.questions import Question, load
from langchain_ralmspec.bench.quality.report import report
from langchain_ralmspec.bench.quality.scores import (
    COSTS,
    QUALITY,
    Judged,
    difference,
    function_words,
    interval,
    judged,
)
from langchain_ralmspec.bench.ralm.workload import Corpus, Workload
from langchain_ralmspec.chat_models import ChatRaLMSpec
from langchain_ralmspec.engine import Model

INSTRUCTION = "Answer the question in one sentence. Use the text above, if any."
"""The system prompt of all rows. A sentence is long enough to look up within it."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Compare answers, and perplexity, by how often documents are looked up."""

    questions: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines with "question", a list of "answers" and "context", the '
            "passage that answers it; the contexts of all lines are retrieved from. "
            "About the standard library by default.",
            dir_okay=False,
        ),
    ] = None
    text: Annotated[
        Path | None,
        typer.Option(
            help="A text, a paragraph a line, in UTF-8 (or .gz): some paragraphs are "
            "scored, the others retrieved from; docstrings by default.",
            dir_okay=False,
        ),
    ] = None
    limit: LimitOption = 20
    max_tokens: LengthOption = 48
    perplexity_tokens: Annotated[
        int, typer.Option(help="Of the text that are scored; 0 for none.", min=0)
    ] = 2048
    rows: Annotated[
        str | None,
        typer.Option(
            help=f"Only these, with commas between: {','.join(POLICIES)}.",
        ),
    ] = None
    embedding: EmbeddingOption = "minilm"
    model: ModelOption = "smollm2-135m"
    json: JsonOption = None

    def run(self) -> dict[str, Any]:
        """Measure; print, write and return the figures; errors come before any work."""
        rows = chosen_rows(self.rows, list(POLICIES))
        check_file(self.json)
        function_words()  # and what else is not installed is told now
        Workload(store="faiss-flat").check()
        questions, passages = load(self.questions)
        paragraphs = load_paragraphs(self.text) if self.perplexity_tokens else []
        gguf = find_gguf(self.model)
        corpus = Corpus.of(passages, self.embedding)
        weights = Model.load(gguf).weights
        held_out = parted(paragraphs, weights, self.perplexity_tokens)
        asked = questions[: self.limit]
        perplexity = None
        with Workload(store="faiss-flat").opened(corpus) as store:
            contest = self._contest(gguf, store, rows)
            with kept_if_interrupted(lambda: contest.questions):
                for number, question in enumerate(asked, start=1):
                    contest.ask(question.text)
                    say(f"{number}. {question.text} {list(question.answers)}")
                    for row, answers in contest.answers.items():
                        say(f"   {row}: {' '.join(answers[-1].text.split())}")
                perplexity = _perplexity(gguf, corpus, *held_out)
        measured = {
            "workload": self._workload(len(contest.questions), corpus),
            "rows": figures(contest, asked),
            "perplexity": perplexity,
        }
        report(measured, Console())
        if self.json:
            write_figures(self.json, measured)
        return measured

    def _contest(self, gguf: str, store: Any, rows: list[str]) -> Contest:
        models = {
            row: ChatRaLMSpec(
                model_path=gguf,
                retriever=retriever_of(row, store),
                system_prompt=INSTRUCTION,
                max_tokens=self.max_tokens,
                **SHARED | POLICIES[row],
            )
            for row in rows
        }
        for model in models.values():
            model.warm_up()
        return Contest(models)

    def _workload(self, n_questions: int, corpus: Corpus) -> dict[str, Any]:
        library = "docstrings of the standard library"
        settings = asdict(self) | {
            "questions": Path(self.questions).name if self.questions else library,
            "text": Path(self.text).name if self.text else library,
            "model": Path(self.model).name,
            "asked": n_questions,
            "passages": len(corpus.passages),
            "instruction": INSTRUCTION,
        }
        del settings["json"]
        return settings


def _perplexity(
    gguf: str, corpus: Corpus, pieces: list[Piece], others: list[Passage]
) -> dict[str, Any] | None:
    if not pieces:
        return None
    held = replace(corpus, passages=others)
    with Workload(store="faiss-flat").opened(held) as store:
        scored = perplexities(gguf, store, pieces)
    return scored and {"passages": len(others)} | scored


def figures(contest: Contest, asked: Sequence[Question]) -> dict[str, Any]:
    """What the answers of every row are worth, also beside those of ``ONCE``.

    Questions and answers are somebody's; what is kept of them are numbers.
    """
    n_asked = len(contest.questions)  # an interrupted row may have answered one more
    values = {
        row: _by_measure(
            [
                judged(answer, question, is_once=is_once(POLICIES[row]))
                for answer, question in zip(
                    contest.answers[row][:n_asked], asked[:n_asked], strict=True
                )
            ]
        )
        for row in contest.models
    }
    return {
        row: {
            **{name: interval(of_row[name]) for name in (*QUALITY, *COSTS)},
            "to_once": {
                name: difference(of_row[name], values[ONCE][name]) for name in QUALITY
            }
            if ONCE in values
            else None,
            "by_question": of_row,
        }
        for row, of_row in values.items()
    }


def _by_measure(answers: Sequence[Judged]) -> dict[str, list[float | None]]:
    columns = zip(*map(astuple, answers), strict=True)
    return dict(zip((*QUALITY, *COSTS), map(list, columns), strict=True))
