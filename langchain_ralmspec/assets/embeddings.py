"""Embeddings on disk, found again by the text they were made from.

One model's vectors are two files: an ``.npy`` of rows and a JSON index with the
SHA-256 of each row's text. The index also has a checksum of the rows, so that a
pair that does not belong together, because a process died or two wrote at once,
is thrown away rather than believed.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langchain_ralmspec.errors import DimensionMismatchError, InvalidValueError
from langchain_ralmspec.files import is_file, replacing_file

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from numpy.typing import NDArray

    from langchain_ralmspec.assets.cache import Progress

BATCH_SIZE = 64
"""Texts in one call of the embedding model."""


def embed_cached(
    texts: Sequence[str],
    embeddings: Embeddings,
    model_name: str,
    folder: Path,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Embed texts, computing only what the cache has not seen.

    What was computed is kept even when the call is interrupted. Where it cannot be
    written, a warning says so.

    Args:
        texts: repeated ones are allowed.
        embeddings: computes what is missing.
        model_name: keeps the vectors of different models apart.
        folder: where the cache lives; it is made if need be.
        progress: called with the texts that are ready and the texts in all,
            counting equal ones once.

    Returns:
        One row for each text, shape ``(len(texts), dimension)``; ``(0, 0)`` when
        there is no text.

    Raises:
        DimensionMismatchError: the model gave vectors of different lengths.
        InvalidValueError: the model did not give one vector for each text.
    """
    keys = [_key(text) for text in texts]
    by_key = dict(zip(keys, texts, strict=True))
    stem = folder / _file_stem(model_name)
    known, computed = _load(stem), False
    missing = deque(key for key in by_key if key not in known)
    try:
        while missing:
            if progress:
                progress(len(by_key) - len(missing), len(by_key))
            batch = [missing.popleft() for _ in range(min(BATCH_SIZE, len(missing)))]
            rows = _embed([by_key[key] for key in batch], embeddings, model_name)
            before = len(next(iter(known.values()), rows[0]))
            if rows.shape[1] != before:
                message = (
                    f"model {model_name!r} gave vectors of {rows.shape[1]} numbers, "
                    f"but had given {before} before"
                )
                if computed:
                    raise DimensionMismatchError(message)
                _warn(f"{message}; the cached ones are discarded")
                missing.extend(key for key in by_key if key in known)
                known.clear()
            known.update(zip(batch, rows, strict=True))
            computed = True
    finally:
        if computed:
            _save(stem, known)
    if progress:
        progress(len(by_key), len(by_key))
    if not keys:
        return np.empty((0, 0), dtype=np.float32)
    return np.stack([known[key] for key in keys])


def _key(text: str) -> str:
    # A lone surrogate, which UTF-8 refuses, must not stop a whole corpus.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _file_stem(model_name: str) -> str:
    """Make a file name to read, and unique: names may differ in a slash alone."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", model_name)[-48:]
    return f"{readable}-{_key(model_name)[:8]}"


def _embed(
    texts: list[str], embeddings: Embeddings, model_name: str
) -> NDArray[np.float32]:
    vectors = embeddings.embed_documents(texts)
    if len(vectors) != len(texts):
        raise InvalidValueError(
            f"model {model_name!r} gave {len(vectors)} vectors for {len(texts)} texts"
        )
    lengths = {len(vector) for vector in vectors}
    if len(lengths) > 1:
        raise DimensionMismatchError(
            f"model {model_name!r} gave vectors of different lengths, {sorted(lengths)}"
        )
    return np.asarray(vectors, dtype=np.float32)


def _load(stem: Path) -> dict[str, NDArray[np.float32]]:
    index_path, rows_path = _paths(stem)
    if not is_file(index_path):
        return {}
    try:
        index = json.loads(index_path.read_text(encoding="utf-8"))
        # Mapped: a header may ask for any memory.
        there = np.load(rows_path, mmap_mode="r", allow_pickle=False)
        keys = index["keys"]
        rows = np.array(there[: len(keys)])  # may be more than it has: they go first
        is_right = rows.dtype == np.float32 and _checksum(rows) == index["rows_sha256"]
        known = dict(zip(keys, rows, strict=True))
    except Exception as error:  # noqa: BLE001  files may hold anything
        _warn(f"embedding cache {str(index_path)!r} is discarded: {error!r}")
        return {}
    if not is_right:
        what = f"{rows_path.name} is not what it describes"
        _warn(f"embedding cache {str(index_path)!r} is discarded: {what}")
        return {}
    return known


def _save(stem: Path, known: dict[str, NDArray[np.float32]]) -> None:
    index_path, rows_path = _paths(stem)
    rows = np.stack(list(known.values()))
    index = {"rows_sha256": _checksum(rows), "keys": list(known)}
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(rows_path) as temporary, temporary.open("xb") as file:
            np.lib.format.write_array(file, rows, allow_pickle=False)
        with replacing_file(index_path) as temporary:
            temporary.write_text(json.dumps(index), encoding="utf-8")
    except OSError as error:
        _warn(
            f"embeddings are not kept in {str(stem.parent)!r}, and will be computed "
            f"again: {error}; RALMSPEC_CACHE names another folder"
        )


def _paths(stem: Path) -> tuple[Path, Path]:
    # with_suffix() would cut a model's name at its last dot.
    return stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.npy")


def _checksum(rows: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)
