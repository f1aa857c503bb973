"""``ralmspec bench knnlm``: a search a token against guessed and verified tokens.

Every prompt is continued by all rows in turn, in one process, over one datastore,
each row going first as often as the others. No other thread of ours runs meanwhile.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from langchain_ralmspec.assets.targets import find_target
from langchain_ralmspec.bench import plots
from langchain_ralmspec.bench.comparison import machine
from langchain_ralmspec.bench.figures import check_file, check_folder, write_figures
from langchain_ralmspec.bench.knnlm import plots as knnlm_plots
from langchain_ralmspec.bench.knnlm.contest import SEQUENTIAL, TokenContest
from langchain_ralmspec.bench.knnlm.distractors import check_entries, distracted
from langchain_ralmspec.bench.knnlm.figures import AUTO, figures
from langchain_ralmspec.bench.knnlm.perplexity import SeenText, perplexities
from langchain_ralmspec.bench.knnlm.report import report
from langchain_ralmspec.bench.knnlm.text import prompts, read_text
from langchain_ralmspec.engine import Model
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.knnlm import KNNDatastore
from langchain_ralmspec.llms import KNNLMSpecLLM

if TYPE_CHECKING:
    from langchain_ralmspec.knnlm import IndexKind

ROWS: dict[str, dict[str, Any]] = {
    "Spec": {"speculation_stride": 3},
    AUTO: {"speculation_stride": "auto"},
}
"""What each row sets. ``Spec`` is the stride that the paper starts with, fixed; in +S
the scheduler chooses it."""

_N_CTX = 2048  # as KNNLMSpecLLM has it, unless more is needed
_READ_CTX, _READ_BATCH = 1024, 512  # as keys were read


@dataclass(frozen=True, kw_only=True)
class KNNBench:
    """What to measure.

    Attributes:
        datastore: its folder.
        text: a file that the datastore has not seen, to take prompts from.
        model: who made the datastore: a GGUF file, the name of a packaged model, or
            ``NAME:QUANTISATION``.
        ks: numbers of neighbours, each measured on its own.
        index: over the keys.
        limit: prompts.
        prompt_tokens: of each.
        max_tokens: written behind each.
        interpolation: λ.
        entries: distractors are added up to so many; None for none.
        rows: names from ``ROWS``.
        perplexity_tokens: of the text, over which perplexity is taken; 0 for none.
    """

    datastore: Path
    text: Path
    model: str = "smollm2-135m"
    ks: tuple[int, ...] = (1, 16)
    index: IndexKind = "flat"
    limit: int = 20
    prompt_tokens: int = 64
    max_tokens: int = 128
    interpolation: float = 0.25
    entries: int | None = None
    rows: tuple[str, ...] = tuple(ROWS)
    perplexity_tokens: int = 2048

    def run(
        self, json_file: Path | None = None, plot_folder: Path | None = None
    ) -> dict[str, Any]:
        """Measure; print, write, plot and return the figures.

        Raises:
            InvalidValueError: something cannot be served; said before any work.
            DatastoreError: there is no datastore, or another model has made it.
            MissingExtraError: a package that this needs is not installed.
        """
        self._check(json_file, plot_folder)
        text = read_text(self.text)
        gguf = find_target(self.model)
        model = Model.load(gguf, n_ctx=_READ_CTX, n_batch=_READ_BATCH, n_slots=1)
        self._opened.require_model(model)
        # One more than are measured, to warm up with.
        warm_up, *asked = prompts(
            text, model.weights, limit=self.limit + 1, n_tokens=self.prompt_tokens
        )
        perplexity = self._perplexity(gguf, model, text)
        del model  # its context
        contests = {}
        with self._timed() as store:
            for k in dict.fromkeys(self.ks):
                contests[k] = self._contest(gguf, store, k)
                contests[k].warm_up(warm_up)
                for number, prompt in enumerate(asked, start=1):
                    contests[k].ask(prompt)
                    _say(f"k = {k}, {number}. {contests[k].last_speedups()}")
            measured = self._described(contests, perplexity)
        report(measured, Console())
        if json_file:
            write_figures(json_file, measured)
            _say(f"figures written to {json_file}")
        if plot_folder:
            for file in knnlm_plots.draw(measured, plot_folder):
                _say(f"plotted {file}")
        return measured

    def _check(self, json_file: Path | None, plot_folder: Path | None) -> None:
        for row in self.rows:
            if row not in ROWS:
                raise InvalidValueError(
                    f"unknown row {row!r}; known: {', '.join(ROWS)}"
                )
        if self.perplexity_tokens == 1:
            raise InvalidValueError(
                "perplexity takes at least 2 tokens, or 0 for none, got 1"
            )
        store = self._opened
        for k in self.ks:
            store.require(k)
        check_entries(store, self.entries)
        check_file(json_file)
        check_folder(plot_folder)
        if plot_folder:
            plots.require()

    @property
    def _opened(self) -> KNNDatastore:
        """The real datastore, without an index in memory."""
        return KNNDatastore.load(self.datastore, index=self.index)

    @contextmanager
    def _timed(self) -> Iterator[KNNDatastore]:
        """The datastore as it is searched, distractors and index included."""
        with distracted(self._opened, self.entries) as folder:
            store = KNNDatastore.load(folder, index=self.index)
            _say(f"preparing the search of {len(store):,} entries")
            store.prepare()
            yield store

    def _perplexity(self, gguf: str, model: Model, text: str) -> dict[str, Any] | None:
        if not self.perplexity_tokens:
            return None
        tokens = [*model.weights.text_start, *model.weights.tokenize(text)]
        tokens = tokens[: self.perplexity_tokens]
        store, ks = self._opened, list(dict.fromkeys(self.ks))
        seen = SeenText.of(tokens, model, store, max(ks))
        temperature = self._llm(gguf, store, ks[0]).mixture.temperature
        return {
            "tokens": len(seen.p_lm),
            "rows": perplexities(seen, ks, temperature),
        }

    def _llm(
        self, gguf: str, store: KNNDatastore, k: int, **settings: Any
    ) -> KNNLMSpecLLM:
        return KNNLMSpecLLM(
            model_path=gguf,
            datastore=store,
            k=k,
            interpolation=self.interpolation,
            max_tokens=self.max_tokens,
            temperature=0.0,
            # Twice the prompt, whose text may have more tokens when it stands alone.
            n_ctx=max(_N_CTX, 2 * self.prompt_tokens + self.max_tokens),
            **settings,
        )

    def _contest(self, gguf: str, store: KNNDatastore, k: int) -> TokenContest:
        models = {SEQUENTIAL: self._llm(gguf, store, k, speculation=False)}
        models |= {row: self._llm(gguf, store, k, **ROWS[row]) for row in self.rows}
        return TokenContest(models)

    def _described(
        self,
        contests: dict[int, TokenContest],
        perplexity: dict[str, Any] | None,
    ) -> dict[str, Any]:
        measured, n_real = figures(contests), len(self._opened)
        n_noise = (self.entries or n_real) - n_real
        llm = next(iter(contests.values())).models[SEQUENTIAL]
        settings = asdict(self) | {
            "datastore": str(self.datastore),
            "text": str(self.text),
            "model": Path(self.model).name,
            "knn_temperature": llm.mixture.temperature,
            "real_entries": n_real,
            "distractors": n_noise,
        }
        return {
            "summary": measured.pop("summary"),
            "workload": settings,
            "machine": machine(),
            "command": shlex.join(["ralmspec", *sys.argv[1:]]),
            "notes": _notes(n_noise, is_exact=self.index == "flat"),
            "perplexity": perplexity,
            **measured,
        }


def _notes(n_noise: int, *, is_exact: bool) -> list[str]:
    if not n_noise:
        return []
    said = (
        f"{n_noise:,} distractors are noise around the mean of the real keys, of three "
        "times their deviation, with random real tokens: they make an exact scan cost "
        "what a datastore of that size costs, and are practically never neighbours. "
        "Perplexity is that of the real entries alone."
    )
    if is_exact:
        return [said]
    doubt = (
        "An approximate index visits noise otherwise than texts: what its searches "
        "cost here says little about a real datastore of that size."
    )
    return [said, doubt]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201  no thread, unlike a bar
