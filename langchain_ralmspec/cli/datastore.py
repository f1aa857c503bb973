"""``ralmspec datastore``: read texts with a model, and keep what it saw.

A kNN-LM that generates with that model looks things up there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_ralmspec.assets.progress import bar
from langchain_ralmspec.assets.targets import find_target
from langchain_ralmspec.bench.knnlm.text import read_text, text_of
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.knnlm import KNNDatastore
from langchain_ralmspec.knnlm.keys import load_reader

if TYPE_CHECKING:
    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.knnlm import IndexKind
    from langchain_ralmspec.knnlm.entries import KeyType


@dataclass(frozen=True, slots=True)
class Built:
    """What was done.

    Attributes:
        added: entries that are new.
        entries: in all.
        folder_bytes: that the datastore's files take together.
        seconds: of reading the texts, without loading the model.
        index_seconds: of making the index; 0 for the exact one, which has no file.
    """

    added: int
    entries: int
    folder_bytes: int
    seconds: float
    index_seconds: float


def make(
    files: Sequence[Path],
    out: Path | None,
    *,
    model: str = "smollm2-135m",
    index: IndexKind = "flat",
    key_type: KeyType = "float16",
    append: bool = False,
    limit_tokens: int | None = None,
) -> Built:
    """Read files into a datastore.

    Args:
        files: a text each, in UTF-8 or ``.gz``.
        out: the datastore's folder.
        model: who reads: a GGUF file, a packaged name, or ``NAME:QUANTISATION``.
        index: over the keys; an approximate one is made now.
        key_type: of the numbers on disk, unless they are appended to others.
        append: to the datastore that is there, instead of replacing it.
        limit_tokens: read about so many at most, from the first file on.

    Raises:
        InvalidValueError: a file cannot be read or has no text, or the folder holds
            something else.
        DatastoreError: there is nothing to append to, or another model made it.
    """
    if out is None:
        raise InvalidValueError("a datastore is kept in a folder; name one with --out")
    before = KNNDatastore.load(out, index=index) if append else None
    texts = [read_text(file) for file in files]
    gguf = find_target(model)
    # With the datastore's own settings, so that it reads with this very object.
    reader = load_reader(gguf)
    texts, n_tokens = _limited(texts, reader, limit_tokens)
    n_before, n_read = 0 if before is None else len(before), 0
    start = time.perf_counter()
    with bar("reading") as advance:

        def progress(n: int) -> None:
            nonlocal n_read
            n_read += n
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
    read = time.perf_counter()
    if index != "flat":
        store.prepare()
    indexed = time.perf_counter()
    sizes = (each.stat().st_size for each in store.path.iterdir())
    return Built(
        added=len(store) - n_before,
        entries=len(store),
        folder_bytes=sum(sizes),
        seconds=read - start,
        index_seconds=indexed - read if index != "flat" else 0.0,
    )


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
