"""Embeddings by a sentence-transformers model, many queries in a batch."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from langchain_core.embeddings import Embeddings

from langchain_ralmspec.arguments import require_text, several
from langchain_ralmspec.errors import (
    InvalidValueError,
    MissingExtraError,
    ModelFileError,
)
from langchain_ralmspec.files import absolute, is_folder
from langchain_ralmspec.machine import MAX_THREADS, cores
from langchain_ralmspec.registry import renewed_in_children
from langchain_ralmspec.stores.arguments import check_number

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MAX_BATCH = 2**20
"""Texts per forward pass; no memory takes more."""


class SentenceTransformerEmbeddings(Embeddings):
    """A sentence-transformers model that embeds many queries in one batch.

    The model is loaded at the first use. One object may be used from several
    threads; its calls then run one after the other. They raise MissingExtraError where
    sentence-transformers is not installed, ModelFileError where the model is not there.

    Args:
        model_path: folder of the model, or its name on the Hugging Face hub. A folder
            is never looked up online.
        batch_size: texts per forward pass, at least 1.
        normalize: whether vectors are scaled to length 1.
        n_threads: torch threads used during a call. None takes half of the usable
            cores at most for queries, which are embedded beside a model that writes,
            and keeps torch's setting for documents. The earlier number is restored
            after each call.
        device: torch device, e.g. ``"cpu"`` or ``"cuda"``.

    Raises:
        InvalidValueError: ``batch_size`` or ``n_threads`` is out of range, or
            ``model_path`` is none.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        batch_size: int = 32,
        normalize: bool = True,
        n_threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        for argument, value, most in (
            ("batch_size", batch_size, MAX_BATCH),
            ("n_threads", n_threads, MAX_THREADS),
        ):
            if value is not None:
                check_number(argument, value, 1, most, is_whole=True)
        if not isinstance(model_path, str | os.PathLike):
            msg = f"model_path must be a folder or a name, got {model_path!r:.80}"
            raise InvalidValueError(msg)
        self.model_path = os.path.expanduser(model_path)  # noqa: PTH111  or a hub name
        if is_folder(self.model_path):  # which it still is after a chdir
            self.model_path = str(absolute(model_path))
        self.batch_size = batch_size
        self.normalize = normalize
        self.n_threads = n_threads
        self.device = device
        self._model: SentenceTransformer | None = None
        self.renew_locks()
        renewed_in_children(self)

    def renew_locks(self) -> None:
        """Have a free lock: in a forked process, no thread gives the old one back."""
        # Fast tokenizers raise "Already borrowed" when two threads share one.
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        # As its arguments: who reads the pickle loads the model anew.
        names = ("batch_size", "normalize", "n_threads", "device")
        options = {name: getattr(self, name) for name in names}
        return partial(type(self), self.model_path, **options), ()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents, in batches."""
        return self._encode("encode_document", texts)

    def embed_query(self, text: str) -> list[float]:
        """Embed one query."""
        return self._encode("encode_query", [text])[0]

    def embed_queries(self, texts: list[str]) -> list[list[float]]:
        """Embed queries, in batches."""
        return self._encode("encode_query", texts)

    def _encode(self, method: str, texts: list[str]) -> list[list[float]]:
        texts = list(several("texts", texts, "strings"))
        if not texts:
            return []
        for text in texts:
            require_text("a text to embed", text)
        with self._lock:
            model = self._loaded()
            for_queries = method == "encode_query"
            with _torch_threads(self.n_threads, for_queries=for_queries):
                vectors = getattr(model, method)(
                    texts,
                    batch_size=self.batch_size,
                    normalize_embeddings=self.normalize,
                    convert_to_numpy=True,
                    show_progress_bar=False,
                )
        return cast("list[list[float]]", vectors.tolist())

    def count_tokens(self, texts: list[str]) -> tuple[list[int], int | None] | None:
        """How long texts are in the model's tokens, and how many of these it reads.

        None where it does not tell.
        """
        with self._lock:
            return count_tokens(self._loaded(), texts)

    def _loaded(self) -> SentenceTransformer:
        if self._model is None:
            self._model = self._load()
        return self._model

    def _load(self) -> SentenceTransformer:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as cause:
            raise MissingExtraError.of("sentence_transformers", "embeddings") from cause
        try:
            with _no_progress_bar():
                return SentenceTransformer(
                    self.model_path,
                    device=self.device,
                    local_files_only=is_folder(self.model_path),
                )
        except (OSError, ValueError) as cause:  # it is not there, or is no model
            reason = str(cause).strip().partition("\n")[0].rstrip(".")
            msg = f"cannot load the embedding model {self.model_path!r}: {reason}"
            if not is_folder(self.model_path):
                msg += (
                    ". Give the path of its folder (of the packaged one: "
                    "`ralmspec models path minilm`); a name is looked for on the "
                    "Hugging Face hub, which takes a network"
                )
            raise ModelFileError(msg) from cause


def count_tokens(
    model: SentenceTransformer, texts: list[str]
) -> tuple[list[int], int | None] | None:
    """Numbers of a model's tokens in documents, and how many it reads of each.

    None of a model of another kind than transformers, such as static embeddings, whose
    tokenizer counts otherwise.
    """
    if not callable(model.tokenizer):
        return None
    prompt = _prompt_of_documents(model)
    texts = [prompt + text for text in texts]
    read = model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    return list(map(len, read)), model.max_seq_length


def _prompt_of_documents(model: SentenceTransformer) -> str:
    """What such a model puts before a document; it is read as part of it."""
    prompts: dict[str | None, str] = getattr(model, "prompts", None) or {}
    default = getattr(model, "default_prompt_name", None)
    named = [name for name in ("document", "passage", "corpus") if name in prompts]
    return prompts.get([*named, default][0]) or ""


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from showing how it loads a hundred small tensors."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _torch_threads(wanted: int | None, *, for_queries: bool) -> Iterator[None]:
    """Use ``wanted`` torch threads inside the block, and the earlier number after.

    Without a wish queries get half of the usable cores, or fewer if torch is set to
    fewer: one thread embeds one short query as fast as two do (18 ms, MiniLM on two
    cores), and leaves the other core to the thread that generates.

    The number belongs to the calling thread, but a new thread starts with the one
    that was set last, in whatever thread. So one that starts meanwhile has
    ``wanted`` already, and must not put that back for all those that come later.
    """
    import torch

    earlier = torch.get_num_threads()
    if wanted is None:
        wanted = min(earlier, max(1, cores() // 2)) if for_queries else earlier
    if wanted == earlier:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(earlier)
