"""``ralmspec bench rapid``: plain decoding of long contexts against drafting.

Every question is answered by all rows in turn, in one process and on one target
model. A context's KV is there for all rows but in the timing of the first token of
its first question.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from langchain_core.embeddings import Embeddings
from rich.console import Console

from langchain_ralmspec.assets.targets import find_embeddings, find_gguf
from langchain_ralmspec.bench.figures import (
    check_file,
    check_folder,
    kept_if_interrupted,
    say,
    write_figures,
)
from langchain_ralmspec.bench.knnlm.text import text_of
from langchain_ralmspec.bench.options import (
    EmbeddingOption,
    JsonOption,
    LengthOption,
    LimitOption,
    auto_or_number,
    chosen_rows,
)
from langchain_ralmspec.bench.rapid.contest import (
    PLAIN,
    RAG,
    RAPID,
    SD,
    Asked,
    Library,
    LongContest,
)
from langchain_ralmspec.bench.rapid.documents import (
    QUOTE_TEMPLATE,
    Sample,
    grouped,
    load_samples,
    python_samples,
    quotes,
)
from langchain_ralmspec.bench.rapid.figures import figures
from langchain_ralmspec.bench.rapid.report import report
from langchain_ralmspec.chains import RapidChain
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import absolute

ROWS = (PLAIN, RAG, SD, RAPID)
"""Plain decoding; the same on retrieved passages only; drafting without transfer of
knowledge, which is lossless; and with it, a row for each strength η."""

_NAMED = ("auto", "lookup", "self")
_TEXT = "text:"
_MADE_UP = "What is this text about?"
_BESIDE = 512  # tokens of question and template at most, and of rounding


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Time plain decoding of long contexts against drafting."""

    target: Annotated[
        str,
        typer.Option(
            help="A GGUF file, a name that `models list` shows, or NAME:F16 and the "
            "like for another quantisation."
        ),
    ] = "smollm2-135m"
    drafter: Annotated[
        str,
        typer.Option(
            help="lookup, self, auto, a model of the target's vocabulary, or "
            "text:MODEL for one of any; models as for --target."
        ),
    ] = "auto"
    documents: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines with "context", "question" and, if known, a list of '
            '"answers"; modules of the standard library by default.',
            dir_okay=False,
        ),
    ] = None
    task: Annotated[
        Literal["qa", "quote"],
        typer.Option(help="Answer questions, or go on with a paragraph of the text."),
    ] = "qa"
    limit: LimitOption = 20
    n_ctx: Annotated[
        int, typer.Option(help="Tokens of context, question and answer.", min=1)
    ] = 8192
    max_tokens: LengthOption = 64
    draft_length: Annotated[
        str, typer.Option(help='Tokens drafted in a round; "auto" measures.')
    ] = "auto"
    eta: Annotated[
        list[float] | None,
        typer.Option(help="Strength of the transfer; may be repeated. 5 by default."),
    ] = None
    transfer: Annotated[
        Literal["paper", "exact"],
        typer.Option(help="How the RAPID rows let the drafter change the answer."),
    ] = "paper"
    embedding: EmbeddingOption = "minilm"
    exact_batches: Annotated[
        bool,
        typer.Option(
            "--exact-batches",
            help="Load the target so that batches cannot change an answer; fails if "
            "one differs.",
        ),
    ] = False
    n_threads: Annotated[
        int | None,
        typer.Option(help="Threads of a decode, in all rows.", min=1),
    ] = None
    n_gpu_layers: Annotated[
        int, typer.Option(help="Layers on a GPU; -1 for all.", min=-1)
    ] = 0
    kv_cache_dir: Annotated[
        Path | None,
        typer.Option(
            help="Time reading the KV from a folder in this one, removed afterwards.",
            file_okay=False,
        ),
    ] = None
    rows: Annotated[
        str | None,
        typer.Option(help="Only these, with commas between: plain,rag,SD,RAPID."),
    ] = None
    json: JsonOption = None

    def run(self) -> dict[str, Any]:
        """Measure; print, write and return the figures; errors come before any work."""
        self._check()
        samples, others = self._samples()
        with self._contest() as contest:
            to_ask = self._asked(contest, samples, others)
            with kept_if_interrupted(lambda: contest.asked):
                for number, (sample, warm_up) in enumerate(to_ask, 1):
                    asked = contest.ask(sample, warm_up)
                    question = " ".join(sample.question.split())
                    say(f"{number}. {question}  {_rates(asked)}")
            measured = self._described(contest, figures(contest))
        report(measured, Console())
        if self.json:
            write_figures(self.json, measured)
        return measured

    @staticmethod
    def kept_its_promise(measured: dict[str, Any]) -> bool:
        """Whether answers are equal where they must be.

        Without exact batches, kernels that round otherwise may part answers.
        """
        must = measured["workload"]["exact_batches"] and SD in measured["rows"]
        return not must or measured["summary"]["identical"]

    @property
    def _rows(self) -> list[str]:
        return chosen_rows(self.rows, list(ROWS))

    @property
    def _etas(self) -> list[float]:
        """Strengths of the transfer of knowledge, a row each."""
        return self.eta or [5.0]

    def _check(self) -> None:
        _ = self._rows, auto_or_number("draft length", self.draft_length)
        for eta in self._etas:
            if not eta >= 0:
                raise InvalidValueError(f"eta must be at least 0, got {eta}")
        check_file(self.json)
        check_folder(self.kv_cache_dir)

    def _samples(self) -> tuple[list[Sample], list[Sample]]:
        """Those to be asked, and the others."""
        if self.documents is None:
            samples = python_samples()
        else:
            samples = load_samples(self.documents, with_questions=self.task != "quote")
        return grouped(samples[: self.limit]), samples[self.limit :]

    def _asked(
        self, contest: LongContest, samples: list[Sample], others: list[Sample]
    ) -> list[tuple[Sample, Sample]]:
        """What to ask, and what to warm up with."""
        if self.task == "quote":
            seen = self._seen(contest.chains[PLAIN])
            samples = quotes(samples, seen)
            first = [one for one in samples if one.context == samples[0].context]
            # Asked for once more, its context gives a paragraph that is left, if any.
            others = quotes([*first, samples[0]], seen)[len(first) :]
        warm_up = warm_up_question(samples, others)
        return [(sample, warm_up) for sample in samples]

    def _seen(self, chain: RapidChain) -> Callable[[str], str]:
        """Gives the part of a context that fits."""
        weights = chain.engine.weights
        room = max(1, chain.engine.n_ctx - self.max_tokens - _BESIDE)

        def seen(context: str) -> str:
            tokens = weights.tokenize(context)
            return context if len(tokens) <= room else text_of(tokens[:room], weights)

        return seen

    @contextmanager
    def _contest(self) -> Iterator[LongContest]:
        target, drafter = find_gguf(self.target), self._found_drafter
        embeddings: Embeddings | None = None
        if RAG in self._rows or self._drafts_by_model:
            embeddings = find_embeddings(self.embedding)
            embeddings.embed_query("loads it")  # before anything is timed
        with self._kv_folder() as folder:
            shared: dict[str, Any] = {
                "model_path": target,
                "n_ctx": self.n_ctx,
                "max_tokens": self.max_tokens,
                "temperature": 0.0,
                "exact_batches": self.exact_batches,
                "n_threads": self.n_threads,
                "n_gpu_layers": self.n_gpu_layers,
                "kv_cache_dir": folder,
                "truncation": "end",
            }
            if self.task == "quote":
                shared["prompt_template"] = QUOTE_TEMPLATE
            chains = {PLAIN: RapidChain(**shared, draft_length=0)}
            if RAG in self._rows:
                chains[RAG] = RapidChain(**shared, draft_length=0)
            length = auto_or_number("draft length", self.draft_length)
            shared |= {"drafter": drafter, "draft_length": length}
            if self._drafts_by_model:
                shared["embeddings"] = embeddings
            for row, settings in self._drafting_rows.items():
                chains[row] = RapidChain(**shared, **settings)
            library = Library(embeddings) if RAG in chains and embeddings else None
            yield LongContest(chains, library, reads_disk=folder is not None)

    @contextmanager
    def _kv_folder(self) -> Iterator[str | None]:
        """An empty folder in that of the user, so that no KV is there before."""
        if self.kv_cache_dir is None:
            yield None
            return
        with tempfile.TemporaryDirectory(
            prefix="bench-rapid-", dir=absolute(self.kv_cache_dir)
        ) as folder:
            yield folder

    @property
    def _found_drafter(self) -> str:
        """The drafter, with the path of a model in the place of its name."""
        if self.drafter in _NAMED:
            return self.drafter
        if self.drafter.startswith(_TEXT):
            return _TEXT + find_gguf(self.drafter.removeprefix(_TEXT))
        return find_gguf(self.drafter)

    @property
    def _drafts_by_model(self) -> bool:
        if self.drafter == "auto":
            return self.n_gpu_layers != 0
        return self.drafter != "lookup"

    @property
    def _has_transfer(self) -> bool:
        """Whether the drafter has distributions to transfer knowledge from."""
        return self._drafts_by_model and not self.drafter.startswith(_TEXT)

    @property
    def _drafting_rows(self) -> dict[str, dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        if SD in self._rows:
            rows[SD] = {"transfer": "off"}
        if RAPID in self._rows and self._has_transfer:
            for eta in self._etas:
                settings = {"transfer": self.transfer, "eta": eta}
                rows[f"{RAPID} η={eta:g}"] = settings
        return rows

    def _described(
        self, contest: LongContest, measured: dict[str, Any]
    ) -> dict[str, Any]:
        settings = asdict(self) | {
            "target": Path(self.target).name,
            "documents": str(self.documents or "docstrings of the standard library"),
            "kv_cache_dir": self.kv_cache_dir and str(self.kv_cache_dir),
            "eta": self._etas,
            "rows": self._rows,
            "contexts": sum(asked.is_first for asked in contest.asked),
            "threads": contest.chains[PLAIN].engine.n_threads,
        }
        notes = []
        if RAPID in self._rows and not self._has_transfer:
            notes.append(
                f"No {RAPID} row: the drafter {self.drafter!r} has no probabilities "
                "here to transfer knowledge from, so that row would be SD again. Use "
                "--drafter self, or a model of the target's vocabulary."
            )
        del settings["json"]
        return {
            "summary": measured.pop("summary"),
            "workload": settings,
            "notes": notes,
            **measured,
        }


def warm_up_question(samples: Sequence[Sample], others: Sequence[Sample]) -> Sample:
    """A question about the first context that is not among the measured ones.

    Rows learn from it. From a measured one they would learn its own answer.
    """
    context = samples[0].context
    measured = {sample.question for sample in samples if sample.context == context}
    left = (
        one for one in others if one.context == context and one.question not in measured
    )
    return next(left, Sample(context, _MADE_UP))


def _rates(asked: Asked) -> str:
    """Tokens a second by row, for a line of progress."""
    rates = (
        (row, answer.n_decoded / answer.decoding if answer.n_decoded else 0.0)
        for row, answer in asked.answers.items()
    )
    return "  ".join(f"{row} {rate:.1f}/s" for row, rate in rates)
