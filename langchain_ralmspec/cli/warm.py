"""``ralmspec warm``: read the passages of a corpus now, so that no answer has to.

The KV goes into a folder that ``ChatRaLMSpec(kv_cache_dir=…)`` or ``RaLMSpecLLM``
reads; it fits only where the model, its settings and llama.cpp are the same.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from langchain_ralmspec.assets.corpus import load_passages
from langchain_ralmspec.assets.progress import bar
from langchain_ralmspec.assets.targets import find_gguf
from langchain_ralmspec.base.warming import bytes_of, read_ahead
from langchain_ralmspec.bench.figures import check_folder
from langchain_ralmspec.chat_models import ChatRaLMSpec
from langchain_ralmspec.cli.keeping import not_kept, require_folder
from langchain_ralmspec.engine.limits import known_kv_type
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import absolute, is_file, read_text
from langchain_ralmspec.llms import RaLMSpecLLM

if TYPE_CHECKING:
    from array import array

_TEXTS = (".txt", ".md")


def warm(
    corpus: Annotated[
        Path,
        typer.Argument(
            help='JSON lines with a "text" each (.jsonl, .jsonl.gz), or a folder of '
            "texts (.txt, .md), a passage each: as the retriever gives them."
        ),
    ],
    *,
    model: Annotated[
        str,
        typer.Option(
            help="Who will read them: a GGUF file, a name that `models list` shows, or "
            "NAME:F16 and the like."
        ),
    ] = "smollm2-135m",
    kv_cache_dir: Annotated[
        Path | None,
        typer.Option(help="Required: the folder that the model is given."),
    ] = None,
    completion: Annotated[
        bool,
        typer.Option("--completion", help="For RaLMSpecLLM instead of ChatRaLMSpec."),
    ] = False,
    n_ctx: Annotated[int, typer.Option(help="As the model is given.", min=1)] = 2048,
    n_batch: Annotated[int, typer.Option(help="As the model is given.", min=1)] = 512,
    n_threads: Annotated[
        int | None, typer.Option(help="As the model is given.", min=1)
    ] = None,
    n_gpu_layers: Annotated[
        int, typer.Option(help="As the model is given.", min=-1)
    ] = 0,
    kv_type: Annotated[str, typer.Option(help="As the model is given.")] = "f16",
    max_document_tokens: Annotated[
        int | None, typer.Option(help="As the model is given.", min=1)
    ] = None,
) -> None:
    """Read the passages of a corpus ahead of the questions about them."""
    if kv_cache_dir is None:
        raise InvalidValueError(
            "warm keeps what it reads in a folder; name one with --kv-cache-dir"
        )
    documents = _documents(corpus)
    folder = absolute(kv_cache_dir)
    check_folder(folder)
    kind = RaLMSpecLLM if completion else ChatRaLMSpec
    face = kind(
        model_path=find_gguf(model),
        retriever=RunnableLambda(_nothing),  # is never asked
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_threads=n_threads,
        n_gpu_layers=n_gpu_layers,
        kv_type=known_kv_type(kv_type),
        max_document_tokens=max_document_tokens,
        kv_cache_dir=str(folder),
    )
    require_folder(face.engine, kv_cache_dir)
    passages = face.passages_of(documents)
    _tell(face, passages.prefixes)
    start = time.perf_counter()
    with face, bar("reading") as advance:
        warmed = read_ahead(passages, face.engine, advance)
    if not warmed.documents:
        raise not_kept(kv_cache_dir, f"any of {len(documents):,} passages")
    typer.echo(
        f"{warmed.read_tokens:,} tokens of {warmed.read_documents:,} passages read in "
        f"{time.perf_counter() - start:.1f} s; {kv_cache_dir} has "
        f"{warmed.documents:,} of {len(documents):,}"
    )


def _nothing(_: str) -> list[Document]:
    return []


def _documents(corpus: Path) -> list[Document]:
    """The passages of a file, or those of a folder, in the order of their names."""
    folder = absolute(corpus)
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_folder = False
    except OSError as error:
        msg = f"{str(corpus)!r} cannot be read: {error}"
        raise InvalidValueError(msg) from error
    if not is_folder:
        return [
            Document(passage.text, id=passage.id, metadata={"title": passage.title})
            for passage in load_passages(corpus)
        ]
    texts = (each for each in folder.rglob("*") if each.suffix.lower() in _TEXTS)
    files = sorted(filter(is_file, texts))
    if not files:
        msg = f"{str(corpus)!r} holds no text; put files in it that end in .txt or .md"
        raise InvalidValueError(msg)
    return [
        Document(read_text(file), id=str(corpus / file.relative_to(folder)))
        for file in files
    ]


def _tell(face: RaLMSpecLLM | ChatRaLMSpec, prefixes: Sequence[array[int]]) -> None:
    """Say what will be read, and what that takes on the disk."""
    model = face.engine
    lengths = list(map(len, prefixes))
    n_bytes = sum(bytes_of(prefix, model) for prefix in prefixes)
    typer.echo(
        f"{len(prefixes):,} passages of {sum(lengths) / len(lengths):.0f} tokens, "
        f"{max(lengths)} at most, with what stands before them: "
        f"{n_bytes / max(1, sum(lengths)) / 1e3:.1f} KB a token, "
        f"{n_bytes / 1e6:,.0f} MB in all; the folder holds "
        f"{model.room_for_prefixes / 1e6:,.0f} MB at most"
    )
