"""What can be seen of a stack without running it."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any, Literal

from langchain_ralmspec.base.chain_prompt import ChainPrompt
from langchain_ralmspec.cli.doctor.costs import Costs
from langchain_ralmspec.cli.doctor.target import Target
from langchain_ralmspec.engine.selftest import is_repeatable
from langchain_ralmspec.machine import (
    cpu_quota,
    openmp_environment,
    schedulable_cores,
    whole_cores,
)
from langchain_ralmspec.stores import (
    BM25Store,
    ChromaStore,
    FaissStore,
    GenericStore,
    Store,
)
from langchain_ralmspec.stores.one_call import OneCallStore

_OPENMP_USERS = {"torch": "torch", "faiss": "FAISS", "llama_cpp": "llama.cpp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The model, and how llama.cpp runs it.

    ``quantization`` is how most tensors are stored, None where the file is silent;
    ``flash_attention`` is how llama.cpp was asked for it; ``repeatable`` says whether
    decoding gives the same bits again.
    """

    file: str
    size: int
    quantization: str | None
    n_gpu_layers: int
    n_ctx: int
    flash_attention: str
    repeatable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadFacts:
    """Cores, and the threads that want them.

    Attributes:
        usable_cores: cores that the process may be scheduled on.
        cpu_quota: cores' worth of time that a container grants; None without limit.
        single: llama.cpp's threads for single tokens; ``batch`` are those for batches.
        openmp: the variables that say how OpenMP's idle threads wait.
        openmp_is_ours: whether this command set them.
        openmp_users: libraries in the process that compute with OpenMP.
        openmp_copies: files of the OpenMP runtimes in the process; None when
            threadpoolctl, which finds them, is not installed.
    """

    usable_cores: int
    cpu_quota: float | None
    single: int
    batch: int
    openmp: dict[str, str]
    openmp_is_ours: bool
    openmp_users: tuple[str, ...]
    openmp_copies: tuple[str, ...] | None

    @property
    def cores(self) -> int:
        """Cores that this process may keep busy."""
        return whole_cores(self.usable_cores, self.cpu_quota)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """The store; None stands where nothing is known.

    Attributes:
        name: class of the store as speculation sees it.
        index: kind of index.
        is_exact: whether a search looks at every document.
        is_remote: whether it answers over the network.
        one_by_one: whether each query is a search of its own.
        embeddings: class that embeds queries; None also without one.
        embeds_in_batches: whether several queries are known to be embedded in one call.
        blas_threshold: numbers of all queries, in older releases queries, from which on
            FAISS itself scans with one matrix product; None also for other stores.
        scans_by_product: whether batches are scanned with one matrix product of
            ours, where a trial found that faster than FAISS's own scan.
    """

    name: str
    n_documents: int
    index: str | None
    is_exact: bool | None
    is_remote: bool | None
    one_by_one: bool
    embeddings: str | None
    embeds_in_batches: bool
    blas_threshold: int | None = None
    scans_by_product: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user may set about speculation.

    Attributes:
        retrieves_once: whether documents are looked up once, before the answer.
        question_leads: whether the question then stands in front of them.
    """

    speculation: bool
    speculation_stride: int | Literal["auto"]
    asynchronous: bool
    guess_policy: str
    retrieves_once: bool = False
    question_leads: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is known of a stack."""

    model: ModelFacts
    threads: ThreadFacts
    store: StoreFacts
    settings: Settings
    costs: Costs


def inspect(target: Target, costs: Costs, *, openmp_is_ours: bool) -> Facts:
    """Look at a stack whose costs were measured, so that all libraries are loaded."""
    return Facts(
        model=_inspect_model(target),
        threads=_inspect_threads(target, openmp_is_ours=openmp_is_ours),
        store=inspect_store(target.retriever.store),
        settings=Settings(
            speculation=target.speculation,
            speculation_stride=target.speculation_stride,
            asynchronous=target.asynchronous,
            guess_policy=target.guess_policy,
            retrieves_once=target.retrieval_policy == "once",
            question_leads=_question_leads(target),
        ),
        costs=costs,
    )


def _question_leads(target: Target) -> bool:
    prompt = getattr(target, "prompt", None)
    return prompt is not None and ChainPrompt.of(prompt).question_leads


def _inspect_model(target: Target) -> ModelFacts:
    engine = target.engine
    return ModelFacts(
        file=str(engine.path),
        size=engine.path.stat().st_size,
        quantization=engine.weights.quantization,
        n_gpu_layers=target.n_gpu_layers,
        n_ctx=engine.n_ctx,
        flash_attention=engine.flash_attention,
        repeatable=is_repeatable(engine),
    )


def _inspect_threads(target: Target, *, openmp_is_ours: bool) -> ThreadFacts:
    single, batch = target.engine.n_threads
    return ThreadFacts(
        usable_cores=schedulable_cores(),
        cpu_quota=cpu_quota(),
        single=single,
        batch=batch,
        openmp=openmp_environment(),
        openmp_is_ours=openmp_is_ours,
        openmp_users=tuple(
            name for module, name in _OPENMP_USERS.items() if module in sys.modules
        ),
        openmp_copies=_openmp_copies(),
    )


def _openmp_copies() -> tuple[str, ...] | None:
    try:
        # It comes with sentence-transformers, and is no dependency of ours.
        pools = importlib.import_module("threadpoolctl").threadpool_info()
    except ImportError:
        return None
    return tuple(p["filepath"] for p in pools if p["user_api"] == "openmp")


def inspect_store(store: Store) -> StoreFacts:
    """Look at a store; counts its documents."""
    # No public name. How a store of the user's own embeds is not known.
    embeddings, batch = None, None
    if isinstance(store, FaissStore | GenericStore | OneCallStore):
        embeddings = store._embeddings  # noqa: SLF001
        if embeddings is not None:
            batch = store._encoding.batch(embeddings)  # noqa: SLF001
    told = getattr(store, "is_remote", None)  # as far as it tells
    facts: dict[str, Any] = {"index": None, "is_exact": None, "is_remote": told}
    if isinstance(store, FaissStore):
        facts = _faiss_facts(store)
    elif isinstance(store, ChromaStore):
        facts = {"index": "HNSW", "is_exact": False, "is_remote": _is_server(store)}
    elif isinstance(store, BM25Store):
        facts = {"index": "BM25", "is_exact": True, "is_remote": False}
    return StoreFacts(
        name=type(store).__name__,
        n_documents=store.count(),
        one_by_one=getattr(store, "one_call_a_query", False),
        embeddings=None if embeddings is None else type(embeddings).__name__,
        embeds_in_batches=batch is not None,
        **facts,
    )


def _faiss_facts(store: FaissStore) -> dict[str, Any]:
    import faiss

    ours = store._index  # noqa: SLF001  the doctor looks inside
    return {
        "index": type(ours._index).__name__,  # noqa: SLF001
        "is_exact": ours._is_flat,  # noqa: SLF001
        "is_remote": False,
        "blas_threshold": getattr(faiss.cvar, "distance_compute_blas_threshold", None),
        "scans_by_product": ours.scans_by_product,
    }


def _is_server(store: ChromaStore) -> bool | None:
    client = store._store._client  # noqa: SLF001  the doctor looks inside
    try:
        implementation: str = client.get_settings().chroma_api_impl
    except AttributeError:  # a client of somebody else's
        return None
    return implementation.endswith("FastAPI")
