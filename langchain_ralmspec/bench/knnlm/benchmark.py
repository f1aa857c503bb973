"""``ralmspec bench knnlm``: a search a token against guessed and verified tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from langchain_ralmspec.assets.targets import find_gguf
from langchain_ralmspec.bench.contest import SEQUENTIAL
from langchain_ralmspec.bench.figures import check_file, say, write_figures
from langchain_ralmspec.bench.knnlm.contest import AUTO, TokenContest, figures
from langchain_ralmspec.bench.knnlm.distractors import check_entries, distracted
from langchain_ralmspec.bench.knnlm.perplexity import SeenText, perplexities
from langchain_ralmspec.bench.knnlm.report import report
from langchain_ralmspec.bench.knnlm.text import prompts
from langchain_ralmspec.bench.options import JsonOption, chosen_rows
from langchain_ralmspec.engine import Model
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import read_text
from langchain_ralmspec.knnlm import IndexKind, KNNDatastore
from langchain_ralmspec.llms import KNNLMSpecLLM

ROWS: dict[str, dict[str, Any]] = {
    "Spec": {"speculation_stride": 3},
    AUTO: {"speculation_stride": "auto"},
}
"""What each row sets. ``Spec`` is the stride that the paper starts with, fixed; in +S
the scheduler chooses it."""

_N_CTX = 2048  # as KNNLMSpecLLM has it, unless more is needed
_READ_CTX, _READ_BATCH = 1024, 512  # as keys were read


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Time a kNN-LM's search a token against guessing and verifying in batches."""

    datastore: Annotated[
        Path, typer.Option(help="What `ralmspec datastore` made.", file_okay=False)
    ]
    text: Annotated[
        Path,
        typer.Option(
            help="A text that is not in it, in UTF-8 (or .gz); prompts are its parts.",
            dir_okay=False,
        ),
    ]
    model: Annotated[
        str,
        typer.Option(
            help="The model that made it: a GGUF file, a name that `models list` "
            "shows, or NAME:F16 and the like."
        ),
    ] = "smollm2-135m"
    k: Annotated[
        list[int] | None,
        typer.Option(help="Neighbours; may be repeated. 1 and 16 by default."),
    ] = None
    index: Annotated[
        IndexKind, typer.Option(help="Exact, or one of the approximate ones.")
    ] = "flat"
    limit: Annotated[int, typer.Option(help="Prompts at most.", min=1)] = 20
    prompt_tokens: Annotated[int, typer.Option(help="Length of each.", min=1)] = 64
    max_tokens: Annotated[int, typer.Option(help="Written behind each.", min=1)] = 128
    interpolation: Annotated[
        float, typer.Option(help="λ, the share of the neighbours.", min=0, max=1)
    ] = 0.25
    entries: Annotated[
        int | None,
        typer.Option(
            help="Add noise to the datastore, in a copy, up to so many entries: an "
            "exact search then costs what a datastore of that size costs.",
            min=1,
        ),
    ] = None
    rows: Annotated[
        str | None,
        typer.Option(
            help="Only these, with commas between. Spec: always three guesses; +S: as "
            "many as measured costs say."
        ),
    ] = None
    perplexity_tokens: Annotated[
        int, typer.Option(help="Of the text, for perplexity by λ; 0 for none.", min=0)
    ] = 2048
    json: JsonOption = None

    def run(self) -> dict[str, Any]:
        """Measure; print, write and return the figures; errors come before any work."""
        rows = chosen_rows(self.rows, list(ROWS))
        self._check()
        text = read_text(self.text)
        gguf = find_gguf(self.model)
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
            for k in self._ks:
                contests[k] = self._contest(gguf, store, k, rows)
                contests[k].warm_up([warm_up])
                for number, prompt in enumerate(asked, start=1):
                    contests[k].ask(prompt)
                    say(f"k = {k}, {number}. {contests[k].last_speedups()}")
            measured = self._described(contests, perplexity)
        report(measured, Console())
        if self.json:
            write_figures(self.json, measured)
        return measured

    def _check(self) -> None:
        if self.perplexity_tokens == 1:
            raise InvalidValueError(
                "perplexity takes at least 2 tokens, or 0 for none, got 1"
            )
        store = self._opened
        for k in self._ks:
            store.require(k)
        check_entries(store, self.entries)
        check_file(self.json)

    @property
    def _ks(self) -> list[int]:
        """Numbers of neighbours, each measured on its own."""
        return list(dict.fromkeys(self.k or (1, 16)))

    @property
    def _opened(self) -> KNNDatastore:
        """The real datastore, without an index in memory."""
        return KNNDatastore.load(self.datastore, index=self.index)

    @contextmanager
    def _timed(self) -> Iterator[KNNDatastore]:
        """The datastore as it is searched, distractors and index included."""
        with distracted(self._opened, self.entries) as folder:
            store = KNNDatastore.load(folder, index=self.index)
            say(f"preparing the search of {len(store):,} entries")
            store.prepare()
            yield store

    def _perplexity(self, gguf: str, model: Model, text: str) -> dict[str, Any] | None:
        if not self.perplexity_tokens:
            return None
        tokens = [*model.weights.text_start, *model.weights.tokenize(text)]
        tokens = tokens[: self.perplexity_tokens]
        store, ks = self._opened, self._ks
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

    def _contest(
        self, gguf: str, store: KNNDatastore, k: int, rows: list[str]
    ) -> TokenContest:
        models = {SEQUENTIAL: self._llm(gguf, store, k, speculation=False)}
        models |= {row: self._llm(gguf, store, k, **ROWS[row]) for row in rows}
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
            "k": self._ks,
            "knn_temperature": llm.mixture.temperature,
            "real_entries": n_real,
            "distractors": n_noise,
        }
        del settings["json"]
        return {
            "summary": measured.pop("summary"),
            "workload": settings,
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
    doubt = (
        "An approximate index visits noise otherwise than texts: what its searches "
        "cost here says little about a real datastore of that size."
    )
    return [said] if is_exact else [said, doubt]
