"""``ralmspec bench rapid``: plain decoding of long contexts against drafting.

Every question is answered by all rows in turn, in one process and on one target
model. A context's KV is there for all rows but in the timing of the first token of
its first question.
"""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from langchain_ralmspec.assets.targets import find_embeddings, find_target
from langchain_ralmspec.bench import plots
from langchain_ralmspec.bench.comparison import machine
from langchain_ralmspec.bench.figures import check_file, check_folder, write_figures
from langchain_ralmspec.bench.rapid import plots as rapid_plots
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

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

    from langchain_ralmspec.speculation import Transfer

ROWS = (PLAIN, RAG, SD, RAPID)
"""Plain decoding; the same on retrieved passages only; drafting without transfer of
knowledge, which is lossless; and with it, a row for each strength η."""

_NAMED = ("auto", "lookup", "self")
_TEXT = "text:"
_MADE_UP = "What is this text about?"
_BESIDE = 512  # tokens of question and template at most, and of rounding


@dataclass(frozen=True, kw_only=True)
class RapidBench:
    """What to measure.

    Attributes:
        target: a GGUF file, the name of a packaged model, or ``NAME:QUANTISATION``.
        drafter: as ``RapidChain`` takes it; models by packaged name as well.
        documents: JSON lines of samples; Python's docstrings when None.
        task: answer the questions, or quote a paragraph of every context.
        limit: ask so many at most.
        n_ctx: tokens of context, question and answer together.
        max_tokens: length of an answer.
        draft_length: tokens drafted in a round; ``"auto"`` measures.
        etas: strengths of the transfer of knowledge, a row each.
        transfer: how these rows transfer it.
        embedding: a sentence-transformers model, by packaged name or folder.
        exact_batches: load the target so that batches cannot change an answer.
        n_threads: of a decode; None leaves it to the chains.
        n_gpu_layers: layers on a GPU; -1 for all.
        kv_cache_dir: a folder in which KV is kept for the time of the run.
        rows: of ``ROWS``; the plain one is always there.
    """

    target: str = "smollm2-135m"
    drafter: str = "auto"
    documents: Path | None = None
    task: Literal["qa", "quote"] = "qa"
    limit: int = 20
    n_ctx: int = 8192
    max_tokens: int = 64
    draft_length: int | Literal["auto"] = "auto"
    etas: tuple[float, ...] = (5.0,)
    transfer: Transfer = "paper"
    embedding: str = "minilm"
    exact_batches: bool = False
    n_threads: int | None = None
    n_gpu_layers: int = 0
    kv_cache_dir: Path | None = None
    rows: tuple[str, ...] = ROWS

    def run(
        self, json_file: Path | None = None, plot_folder: Path | None = None
    ) -> dict[str, Any]:
        """Measure; print, write, plot and return the figures.

        Raises:
            InvalidValueError: something cannot be served; said before any work.
            MissingExtraError: a package that this needs is not installed.
        """
        self._check(json_file, plot_folder)
        samples, others = self._samples()
        with self._contest() as contest:
            to_ask = self._asked(contest, samples, others)
            with _kept_if_interrupted(contest):
                for number, (sample, warm_up) in enumerate(to_ask, 1):
                    asked = contest.ask(sample, warm_up)
                    question = " ".join(sample.question.split())
                    _say(f"{number}. {question}  {_rates(asked)}")
            measured = self._described(contest, figures(contest))
        report(measured, Console())
        if json_file:
            write_figures(json_file, measured)
            _say(f"figures written to {json_file}")
        if plot_folder:
            for file in rapid_plots.draw(measured, plot_folder):
                _say(f"plotted {file}")
        return measured

    def _check(self, json_file: Path | None, plot_folder: Path | None) -> None:
        for row in self.rows:
            if row not in ROWS:
                raise InvalidValueError(
                    f"unknown row {row!r}; known: {', '.join(ROWS)}"
                )
        for eta in self.etas:
            if not eta >= 0:
                raise InvalidValueError(f"eta must be at least 0, got {eta}")
        check_file(json_file)
        check_folder(plot_folder)
        check_folder(self.kv_cache_dir)
        if plot_folder:
            plots.require()

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
            if len(tokens) <= room:
                return context
            pieces = b"".join(weights.piece(token) for token in tokens[:room])
            return pieces.decode("utf-8", "ignore")

        return seen

    @contextmanager
    def _contest(self) -> Iterator[LongContest]:
        target, drafter = find_target(self.target), self._found_drafter
        embeddings: Embeddings | None = None
        if RAG in self.rows or self._drafts_by_model:
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
            if RAG in self.rows:
                chains[RAG] = RapidChain(**shared, draft_length=0)
            shared |= {"drafter": drafter, "draft_length": self.draft_length}
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
            prefix="bench-rapid-", dir=self.kv_cache_dir
        ) as folder:
            yield folder

    @property
    def _found_drafter(self) -> str:
        """The drafter, with the path of a model in the place of its name."""
        if self.drafter in _NAMED:
            return self.drafter
        if self.drafter.startswith(_TEXT):
            return _TEXT + find_target(self.drafter.removeprefix(_TEXT))
        return find_target(self.drafter)

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
        if SD in self.rows:
            rows[SD] = {"transfer": "off"}
        if RAPID in self.rows and self._has_transfer:
            for eta in self.etas:
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
            "contexts": sum(asked.is_first for asked in contest.asked),
            "threads": contest.chains[PLAIN].engine.n_threads,
        }
        notes = []
        if RAPID in self.rows and not self._has_transfer:
            notes.append(
                f"No {RAPID} row: the drafter {self.drafter!r} has no probabilities "
                "here to transfer knowledge from, so that row would be SD again. Use "
                "--drafter self, or a model of the target's vocabulary."
            )
        return {
            "summary": measured.pop("summary"),
            "workload": settings,
            "machine": machine(),
            "command": shlex.join(["ralmspec", *sys.argv[1:]]),
            "notes": notes,
            **measured,
        }


@contextmanager
def _kept_if_interrupted(contest: LongContest) -> Iterator[None]:
    """Let Ctrl-C or SIGTERM end the questions, and keep what was asked by then."""
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        if not contest.asked:
            raise
        _say(f"interrupted; the figures are of {len(contest.asked)} questions")
    finally:
        signal.signal(signal.SIGTERM, earlier or signal.SIG_DFL)


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


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201  no thread, unlike a bar
