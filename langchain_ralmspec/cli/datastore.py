"""``ralmspec datastore``: read texts with a model, and keep what it saw.

A kNN-LM that generates with that model looks things up there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from langchain_ralmspec.assets.progress import bar
from langchain_ralmspec.assets.targets import find_gguf
from langchain_ralmspec.bench.knnlm.text import text_of
from langchain_ralmspec.engine import Model
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import read_text
from langchain_ralmspec.knnlm import IndexKind, KNNDatastore
from langchain_ralmspec.knnlm.entries import KeyType
from langchain_ralmspec.knnlm.keys import load_reader


def datastore(
    files: Annotated[
        list[Path],
        typer.Argument(help="A text each, in UTF-8 (or .gz).", dir_okay=False),
    ],
    *,
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
        IndexKind,
        typer.Option(help="Exact, or one of the approximate ones, made now."),
    ] = "flat",
    key_type: Annotated[
        KeyType,
        typer.Option(help="Numbers of the keys on disk; with --append as they are."),
    ] = "float16",
    append: Annotated[
        bool,
        typer.Option("--append", help="Add to the datastore instead of replacing it."),
    ] = False,
    limit_tokens: Annotated[
        int | None, typer.Option(help="Read about so many at most.", min=2)
    ] = None,
) -> None:
    """Read texts into the datastore of a kNN-LM."""
    if out is None:
        raise InvalidValueError("a datastore is kept in a folder; name one with --out")
    before = KNNDatastore.load(out, index=index) if append else None
    texts = [read_text(file) for file in files]
    gguf = find_gguf(model)
    # With the datastore's own settings, so that it reads with this very object.
    reader = load_reader(gguf)
    texts, n_tokens = _limited(texts, reader, limit_tokens)
    n_before, n_read = 0 if before is None else len(before), 0
    start = read_at = time.perf_counter()
    with bar("reading") as advance:

        def progress(n: int) -> None:
            nonlocal n_read, read_at
            n_read, read_at = n_read + n, time.perf_counter()
            advance(n_read, n_tokens)

        if before is not None:
            store = before
            store.append(texts, model_path=gguf, progress=progress)
        else:
            store = KNNDatastore.build(
                texts,
                model_path=gguf,
                path=out,
                index=index,
                key_type=key_type,
                progress=progress,
            )
    store.prepare()  # which build() does as well
    n_added, seconds = len(store) - n_before, read_at - start
    typer.echo(
        f"{n_added:,} entries read in {seconds:.1f} s "
        f"({n_added / seconds:,.0f} tokens/s)"
    )
    typer.echo(f"{index} index made in {time.perf_counter() - read_at:.1f} s")
    n_bytes = sum(each.stat().st_size for each in store.path.iterdir())
    typer.echo(f"{out} holds {len(store):,} entries, {n_bytes / 1e6:.0f} MB")


def _limited(
    texts: Sequence[str], model: Model, limit: int | None
) -> tuple[list[str], int]:
    """The texts up to a number of tokens, and how many these are."""
    kept, n_tokens = [], 0
    for text in texts:
        tokens = model.weights.tokenize(text)
        if limit is not None and n_tokens + len(tokens) >= limit:
            tokens = tokens[: limit - n_tokens]
            kept.append(text_of(tokens, model.weights))
            return kept, limit
        kept.append(text)
        n_tokens += len(tokens)
    return kept, n_tokens
