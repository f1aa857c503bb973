"""Texts into entries: the hidden state at every token, and the token behind it."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.documents import Document

from langchain_ralmspec.arguments import several
from langchain_ralmspec.engine import Model
from langchain_ralmspec.errors import DecodeError, InvalidValueError
from langchain_ralmspec.knnlm.entries import (
    Entries,
    EntryWriter,
    Manifest,
    reported,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY_CONTEXT = 1024
"""Tokens of context that a key has at most."""

# A text's first token stays, BOS or not: attention rests there (arXiv 2309.17453).
# Without it the cosine of SmolLM2's keys and those of a longer context is 0.80, not
# 0.996.
_KEPT = 1

_CALIBRATED = 256  # keys whose nearest neighbours tell the typical distance
_CALIBRATED_AMONG = 1 << 16  # keys at most, evenly over the corpus
_NOT_NEIGHBOURS = 64  # entries around a key that share its context
_COMPARED_ROWS = 1 << 15

Progress = Callable[[int], None]


def load_reader(
    model_path: str | os.PathLike[str],
    *,
    n_threads: int | None = None,
    n_gpu_layers: int = 0,
) -> Model:
    """Load a model as it reads texts for a datastore."""
    return Model.load(
        model_path,
        n_ctx=KEY_CONTEXT,
        n_batch=KEY_CONTEXT // 2,
        n_threads=n_threads,
        n_gpu_layers=n_gpu_layers,
        n_slots=1,
        hidden_only=True,
    )


def read_texts(
    folder: Path,
    manifest: Manifest,
    model: Model,
    texts: Iterable[str | Document],
    progress: Progress | None,
    *,
    target: Path,
) -> None:
    """Add the entries of texts to a folder, and write its manifest.

    Args:
        folder: with the files; made if need be.
        manifest: of the entries that are there.
        model: reads the texts.
        texts: to be read.
        progress: as of ``KNNDatastore.build``.
        target: the folder that it will be, for messages.

    Raises:
        DatastoreError: the disk is full, or may not be written to.
        InvalidValueError: a text cannot be read, the texts have no entries, or keys
            are too large to keep.
    """
    several("texts", texts, "strings or Documents")
    named: Iterator[tuple[str, Sequence[int]]] = (
        _tokens(model, *each) for each in enumerate(texts)
    )
    if isinstance(texts, Sequence):  # all, before the first is read, which takes long
        named = iter(list(named))
    on_disk = partial(reported, target)
    with on_disk():
        writer = EntryWriter(folder, manifest)
    try:
        for name, tokens in named:
            with _named(name):
                for keys, following in entries_of(model, tokens):
                    with on_disk():
                        writer.add(keys, following)
                    if progress:
                        progress(len(following))
    except BaseException:
        writer.undo()
        raise
    finally:
        with on_disk():
            writer.close()
    if writer.n_entries == manifest.n_entries:
        msg = "the texts have no two tokens in a row, so there is nothing to learn"
        raise InvalidValueError(msg)
    grown = replace(manifest, n_entries=writer.n_entries)
    if not manifest.n_entries:
        typical = typical_distance(Entries(folder, grown).keys)
        grown = replace(grown, typical_distance=typical)
    with on_disk():
        grown.write(folder)


def entries_of(
    model: Model, tokens: Sequence[int]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """Keys and next tokens of one text, call by call.

    A text longer than the context is read in steps of half of it, the first half
    making room each time: a key has seen at least half a context before it, and no
    token is computed twice.

    Args:
        model: whose ``n_ctx`` is the longest context of a key.
        tokens: of the text, BOS included where the model wants one.

    Yields:
        ``(n, dimension)`` keys and ``(n,)`` tokens.
    """
    sequence = model.new_sequence()
    step = max(1, min(model.n_batch, model.n_ctx // 2))
    for start in range(0, len(tokens) - 1, step):
        part = tokens[start : min(start + step, len(tokens) - 1)]
        excess = sequence.length + len(part) - model.n_ctx
        if excess <= 0:
            _, keys = sequence.observe(part, n_logits=0)
        else:
            old = min(sequence.length - _KEPT, max(excess, step))
            try:
                _, keys = sequence.observe(part, n_logits=0, forget=old, keep=_KEPT)
            except DecodeError:  # a memory that cannot be cut: begin again
                sequence = model.new_sequence()
                _, keys = sequence.observe(part, n_logits=0)
        following = tokens[start + 1 : start + 1 + len(part)]
        yield keys, np.asarray(following, np.int32)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say which text it is that cannot be read."""
    try:
        yield
    except (InvalidValueError, DecodeError) as error:
        msg = f"{name} (counted from 0): {error}"
        raise type(error)(msg) from error


def _tokens(
    model: Model, place: int, text: str | Document
) -> tuple[str, Sequence[int]]:
    """The name of a text, and its tokens, in four bytes each."""
    id_ = getattr(text, "id", None)
    name = f"text {place}" if id_ is None else f"text {place}, document {id_!r}"
    content = text.page_content if isinstance(text, Document) else text
    with _named(name):
        if not isinstance(content, str):
            msg = f"a text must be a string or a Document, got {content!r:.60}"
            raise InvalidValueError(msg)
        weights = model.weights
        return name, array("i", [*weights.text_start, *weights.tokenize(content)])


def typical_distance(keys: NDArray[Any]) -> float:
    """Median squared distance of a key to the nearest at another place.

    Both the keys and those that they are compared with are a sample.
    """
    last = len(keys) - 1
    others = np.unique(np.linspace(0, last, _CALIBRATED_AMONG, dtype=np.int64))
    places = np.unique(np.linspace(0, last, _CALIBRATED, dtype=np.int64))
    queries = keys[places].astype(np.float32)
    nearest = np.full(len(places), np.inf)
    squares = np.einsum("qd,qd->q", queries, queries)
    for start in range(0, len(others), _COMPARED_ROWS):
        rows = others[start : start + _COMPARED_ROWS]
        part = keys[rows].astype(np.float32)
        distances = np.einsum("nd,nd->n", part, part) - 2 * (queries @ part.T)
        distances += squares[:, np.newaxis]
        near = np.abs(rows - places[:, np.newaxis]) <= _NOT_NEIGHBOURS
        distances[near] = np.inf
        nearest = np.minimum(nearest, distances.min(axis=1))
    apart = nearest[np.isfinite(nearest) & (nearest > 0)]
    # One short text has no other place; then its own length is all there is.
    return float(np.median(apart)) if len(apart) else float(squares.mean())
