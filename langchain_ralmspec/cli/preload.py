"""``ralmspec preload``: read a long text now, so that its first question is a second.

The KV goes into a folder that ``RapidChain(kv_cache_dir=…)`` reads; it fits only
where the model, its settings and llama.cpp are the same.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from langchain_ralmspec.assets.targets import find_gguf
from langchain_ralmspec.bench.figures import check_folder
from langchain_ralmspec.chains import RapidChain
from langchain_ralmspec.cli.keeping import not_kept, require_folder
from langchain_ralmspec.engine.limits import known_kv_type
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import absolute, read_text


def preload(
    file: Annotated[Path, typer.Argument(help="A text, in UTF-8.")],
    *,
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
    n_gpu_layers: Annotated[
        int, typer.Option(help="As RapidChain is given.", min=-1)
    ] = 0,
    kv_type: Annotated[str, typer.Option(help="As RapidChain is given.")] = "f16",
    exact_batches: Annotated[
        bool, typer.Option("--exact-batches", help="As RapidChain is given.")
    ] = False,
) -> None:
    """Read a long text ahead of its first question."""
    if kv_cache_dir is None:
        raise InvalidValueError(
            "preload keeps what it reads in a folder; name one with --kv-cache-dir"
        )
    text = read_text(file)
    folder = absolute(kv_cache_dir)
    check_folder(folder)
    chain = RapidChain(
        model_path=find_gguf(target),
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_threads=n_threads,
        n_gpu_layers=n_gpu_layers,
        kv_type=known_kv_type(kv_type),
        exact_batches=exact_batches,
        kv_cache_dir=str(folder),
    )
    model = chain.engine  # loads it
    require_folder(model, kv_cache_dir)
    start = time.perf_counter()
    tokens = chain.preload(text)
    seconds = time.perf_counter() - start
    read = chain.start("?", text).request.document
    if not model.keeps(read):
        raise not_kept(kv_cache_dir, f"the KV of {str(file)!r}, {tokens:,} tokens")
    typer.echo(
        f"{tokens:,} tokens are ready after {seconds:.1f} s; {kv_cache_dir} has their "
        f"KV, {model.kv_bytes(len(read)) / 1e6:.0f} MB"
    )
