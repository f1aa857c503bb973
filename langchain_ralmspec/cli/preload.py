"""``ralmspec preload``: read a long text now, so that its first question is a second.

The KV goes into a folder that ``RapidChain(kv_cache_dir=…)`` reads; it fits only
where the model, its settings and llama.cpp are the same.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from langchain_ralmspec.assets.targets import find_target
from langchain_ralmspec.bench.figures import check_folder
from langchain_ralmspec.chains import RapidChain
from langchain_ralmspec.errors import InvalidValueError


@dataclass(frozen=True, slots=True)
class Preloaded:
    """What was done.

    Attributes:
        tokens: of the text.
        seconds: that it took, without loading the model.
        folder_bytes: that the folder's files take together.
    """

    tokens: int
    seconds: float
    folder_bytes: int


def preload(
    file: Path,
    target: str,
    kv_cache_dir: Path | None,
    *,
    n_ctx: int = 8192,
    n_batch: int = 512,
    n_threads: int | None = None,
    exact_batches: bool = False,
) -> Preloaded:
    """Read a text file into a folder.

    Args:
        file: the text, in UTF-8.
        target: who will be asked about it: a GGUF file, a packaged name, or
            ``NAME:QUANTISATION``.
        kv_cache_dir: the folder.
        n_ctx: as the chain will have it.
        n_batch: as the chain will have it.
        n_threads: as the chain will have it.
        exact_batches: as the chain will have it.

    Raises:
        InvalidValueError: there is no folder, or no text in the file.
        ContextOverflowError: the text does not fit.
    """
    if kv_cache_dir is None:
        raise InvalidValueError(
            "preload keeps what it reads in a folder; name one with --kv-cache-dir"
        )
    text = _text(file)
    check_folder(kv_cache_dir)
    chain = RapidChain(
        model_path=find_target(target),
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_threads=n_threads,
        exact_batches=exact_batches,
        kv_cache_dir=str(kv_cache_dir),
    )
    chain.get_num_tokens("")  # loads the model
    start = time.perf_counter()
    tokens = chain.preload(text)
    seconds = time.perf_counter() - start
    sizes = (each.stat().st_size for each in kv_cache_dir.rglob("*") if each.is_file())
    return Preloaded(tokens, seconds, sum(sizes))


def _text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(f"{str(file)!r} cannot be read: {error}") from error
    if not text.strip():
        raise InvalidValueError(f"{str(file)!r} is empty; give a text to be read")
    return text
