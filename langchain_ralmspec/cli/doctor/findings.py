"""What the facts about a stack mean: what is slow, why, and what to set."""

from __future__ import annotations

import math
from dataclasses import replace

from langchain_ralmspec.cli.doctor.costs import BATCH
from langchain_ralmspec.cli.doctor.facts import Facts
from langchain_ralmspec.cli.doctor.finding import Finding, Severity
from langchain_ralmspec.cli.doctor.gains import Gains, is_hosted, is_remote, rehearse
from langchain_ralmspec.cli.doctor.quantization import quantization
from langchain_ralmspec.machine import OPENMP_ENVIRONMENT

WORTHWHILE = 1.1
"""A speed-up below this is not worth a setting."""

_LONG_CONTEXT = 4096  # tokens, from which on attention is most of a short batch
_LARGE_SHARE = 0.25
_SCAN_WORTH_BATCHING = 0.005  # seconds; a shorter search gains nothing from a batch
_CONTENTION = 1.5
_STRONG_CONTENTION = 3.0
_MOST_SPINS = 10_000  # of OpenMP's idle threads; of more, others' work suffers
_OPENMP = " ".join(f"{name}={value}" for name, value in OPENMP_ENVIRONMENT.items())


def findings(facts: Facts, gains: Gains) -> list[Finding]:
    """Judge every part of a stack, the slow ones first."""
    judged: dict[str, Finding | None] = {"retrieval": _once(facts)}
    if not facts.settings.retrieves_once:
        judged = {about: check(facts, gains) for about, check in _OF_SETTINGS.items()}
    judged |= {about: check(facts) for about, check in _CHECKS.items()}
    found = [replace(each, about=about) for about, each in judged.items() if each]
    order: list[Severity] = ["slow", "worth knowing", "fine"]
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _once(facts: Facts) -> Finding:
    what = "documents are looked up once, before the answer: nothing is speculated on"
    if not facts.settings.question_leads:
        return Finding(
            "fine",
            f"{what}; what prompts begin with alike is read once",
        )
    return Finding(
        "worth knowing",
        what,
        "the question stands in front of {context}, so that only the same question "
        "finds anything that need not be read again",
        "put {context} in front of the question: then the same passages are read once",
    )


def _gain(_: Facts, gains: Gains) -> Finding:
    share = 1 - 1 / gains.ceiling
    what = f"retrieval is {share:.0%} of a step of the sequential loop"
    if gains.best < WORTHWHILE:
        return Finding(
            "worth knowing",
            f"{what}: there is nothing to win with this stack",
            f"the scheduler is expected to be no more than {gains.best:.2f}× as fast",
            'nothing: speculation_stride="auto", the default, turns speculation down; '
            "it pays with exact search in many documents and remote stores",
        )
    return Finding("fine", f"{what}; up to {gains.best:.1f}× can be won")


def _flash_attention(facts: Facts) -> Finding | None:
    model = facts.model
    if model.n_gpu_layers:
        return None
    what = f"flash attention is {model.flash_attention!r}, at n_ctx={model.n_ctx}"
    if model.flash_attention == "disabled" or model.n_ctx < _LONG_CONTEXT:
        return Finding("fine", what)
    return Finding(
        "worth knowing",
        what,
        "on a CPU it makes short batches behind a long context slower (8 tokens "
        "behind 8000: 139 ms with it, 59 without, SmolLM2-135M)",
        "this package leaves it to llama.cpp; a smaller n_ctx or max_document_tokens "
        "keeps contexts short",
    )


def _threads(facts: Facts) -> Finding | None:
    threads = facts.threads
    if facts.model.n_gpu_layers:
        return None
    what = (
        f"{threads.single} for single tokens and {threads.batch} for batches, on "
        f"{threads.cores} usable cores"
    )
    unset = "leave n_threads unset: half of the cores for tokens, all for batches"
    if threads.batch > threads.cores:
        limited = threads.cores < threads.usable_cores
        return Finding(
            "slow",
            what,
            "threads wait for one another at the end of each of hundreds of operations "
            "a token, and those without a core hold up the others"
            + (" (the container's CPU limit hides behind its cores)" * limited),
            f"n_threads={threads.cores}" if limited else unset,
        )
    if threads.batch < threads.cores:
        why = "documents are read in batches, and could be read on all cores"
        return Finding("worth knowing", what, why, unset)
    if threads.single > max(1, threads.cores // 2):
        why = (
            "a token is bound by memory and gains little from the second half of the "
            "cores, which verifications need meanwhile"
        )
        return Finding("worth knowing", what, why, unset)
    return Finding("fine", what)


def _wait_policy(facts: Facts) -> Finding | None:
    threads = facts.threads
    if len(threads.openmp_users) < 2:  # noqa: PLR2004  one has nobody to disturb
        return None
    users = ", ".join(threads.openmp_users)
    copies = len(threads.openmp_copies or ())
    runtimes = f" ({copies} OpenMP runtimes)" if copies else ""
    given, policy = threads.openmp, threads.openmp.get("OMP_WAIT_POLICY", "").upper()
    said = ", ".join(f"{name}={value}" for name, value in given.items())
    what = f"how OpenMP's threads wait: {said or 'unset'}, with {users} in the process"
    spins = given.get("GOMP_SPINCOUNT", "")
    n_spins = int(spins) if spins.isdecimal() else math.inf
    advice = (
        f"{_OPENMP} in the environment before Python starts; once the libraries are "
        "loaded neither you nor this package can set it"
    )
    if policy == "ACTIVE" and 0 < n_spins <= _MOST_SPINS and "KMP_BLOCKTIME" in given:
        if not threads.openmp_is_ours:
            return Finding("fine", what + runtimes)
        what = f"{_OPENMP} was set by this command; in your shell it isn't"
        why = "what is measured here holds for your programs if they have it as well"
        return Finding("worth knowing", what + runtimes, why, advice)
    if n_spins <= _MOST_SPINS or (policy == "PASSIVE" and not spins):
        why = (
            "threads that sleep at once are woken behind each of hundreds of "
            "operations a batch: two tokens of SmolLM2-135M took 20 ms, and 7 where "
            "they spin first"
        )
        return Finding("worth knowing", what + runtimes, why, advice)
    why = (
        "their idle threads spin and keep the others from working: where cores are "
        "shared, a step of 4 tokens took 906 ms with nothing set, 3081 ms with ACTIVE "
        "alone, and 57 ms where they slept"
    )
    return Finding("slow", what + runtimes, why, advice)


def _repeatable(facts: Facts) -> Finding:
    if facts.model.repeatable:
        return Finding("fine", "decoding gives the same bits again")
    layers = facts.model.n_gpu_layers
    return Finding(
        "slow",
        "decoding the same tokens again gives other numbers",
        "speculation could change answers, so it stays off",
        f"n_gpu_layers=0 instead of {layers} usually helps"
        if layers
        else "another model: recurrent ones cannot be rolled back",
    )


def _speculation(facts: Facts, gains: Gains) -> Finding | None:
    if facts.settings.speculation:
        return None
    if (best := gains.best) < WORTHWHILE:
        return Finding("fine", "speculation=False loses nothing here")
    why = f"the same answers could come up to {best:.1f}× as fast"
    return Finding("slow", "speculation=False", why, "leave speculation unset")


def _asynchronous(facts: Facts, gains: Gains) -> Finding | None:
    settings = facts.settings
    if not settings.speculation:
        return None
    if settings.asynchronous:
        return Finding("fine", "the model writes on while it verifies")
    won = gains.asynchronous / gains.synchronous
    if won < WORTHWHILE:
        return Finding("fine", "asynchronous=False loses nothing here")
    where = "the store is remote: " if is_remote(facts) else ""
    where = "queries are embedded elsewhere: " if is_hosted(facts) else where
    return Finding(
        "slow",
        "asynchronous=False",
        f"{where}the model waits where it could write; {gains.asynchronous:.1f}× "
        f"instead of {gains.synchronous:.1f}× could be reached",
        "leave asynchronous unset",
    )


def _stride(facts: Facts, gains: Gains) -> Finding | None:
    settings, stride = facts.settings, facts.settings.speculation_stride
    if not settings.speculation or stride == "auto":
        return None
    useless = gains.best < WORTHWHILE
    return Finding(
        "slow" if useless else "worth knowing",
        f"speculation_stride={stride}",
        "a fixed stride speculates even where that costs more than it saves"
        + (", as it does here" if useless else ""),
        'speculation_stride="auto", which measures and turns itself down',
    )


def _guess_policy(facts: Facts, gains: Gains) -> Finding | None:
    settings, chosen = facts.settings, facts.settings.guess_policy
    if not settings.speculation or chosen == "auto":
        return None
    both = gains.asynchronous if settings.asynchronous else gains.synchronous
    alone = rehearse(facts, policy=chosen, asynchronous=settings.asynchronous).speedup
    if both < WORTHWHILE * alone:
        return Finding("fine", f"guess_policy={chosen!r} suits")
    return Finding(
        "slow",
        f"guess_policy={chosen!r}",
        f"it can reach {alone:.1f}×, another one {both:.1f}×: looking up needs every "
        "query embedded, repeating the same documents does not",
        'guess_policy="auto"',
    )


def _one_by_one(facts: Facts) -> Finding | None:
    store, costs = facts.store, facts.costs
    if not store.one_by_one:
        return None
    large = costs.retrieval > _LARGE_SHARE * costs.step
    return Finding(
        "slow" if large else "worth knowing",
        f"{store.name} searches for each query in a call of its own",
        f"{BATCH} of them cost {_ms(costs.call(BATCH).seconds)}, one "
        f"{_ms(costs.call(1).seconds)}; nothing else is known of such a store",
        "FAISS, Chroma, PGVector, Qdrant, Milvus or BM25Store, or a class that follows "
        "langchain_ralmspec.stores.Store over your store's own batch call",
    )


def _embeddings(facts: Facts) -> Finding | None:
    store, call = facts.store, facts.costs.call(BATCH)
    if store.embeddings is None or store.one_by_one:
        return None
    if store.embeds_in_batches:
        what = f"{store.embeddings} embeds many queries in one call"
        return Finding("fine", what)
    large = call.embedding > _LARGE_SHARE * call.seconds
    return Finding(
        "slow" if large else "worth knowing",
        f"{store.embeddings} embeds each query in a call of its own",
        f"of {_ms(call.seconds)} for {BATCH} queries, {_ms(call.embedding)} are theirs",
        "give it a method embed_queries(texts), or symmetric_embeddings=True to the "
        "RaLMSpecRetriever where queries are embedded as documents are, or use "
        "SentenceTransformerEmbeddings of this package or langchain-huggingface's "
        "HuggingFaceEmbeddings",
    )


def _index(facts: Facts) -> Finding | None:
    store, costs = facts.store, facts.costs
    what = f"{store.index} over {store.n_documents} documents"
    if store.index is None or is_remote(facts):
        return None
    if store.is_exact:
        return Finding("fine", f"{what}: exact")
    return Finding(
        "worth knowing",
        f"{what}: approximate",
        f"a search takes {_ms(costs.call(1).searching)} and many in one call save "
        "little, so there is little to win but the embedding",
        "nothing, if its answers are good enough; exact search (IndexFlatIP) gains "
        "most from speculation",
    )


def _scan(facts: Facts) -> Finding | None:
    store = facts.store
    if store.blas_threshold is None or not store.is_exact:
        return None
    itself = (
        f"FAISS itself scans query by query under {store.blas_threshold} numbers of "
        "all queries, or queries in older releases "
        "(faiss.cvar.distance_compute_blas_threshold)"
    )
    if store.scans_by_product:
        what = f"{itself}; batches here are one matrix product, the fastest in a trial"
        return Finding("fine", what)
    what = f"{itself}; batches here are left to that scan"
    one, eight = facts.costs.call(1).searching, facts.costs.call(BATCH).searching
    if one < _SCAN_WORTH_BATCHING or eight < BATCH / 2 * one:
        return Finding("fine", what)
    return Finding(
        "worth knowing",
        what,
        f"{BATCH} queries take {_ms(eight)}, one takes {_ms(one)}",
        "a plain IndexFlatIP or IndexFlatL2, and torch in the process: batches are one "
        "matrix product (numpy, torch or bfloat16) where a trial finds that faster",
    )


def _remote(facts: Facts) -> Finding | None:
    if not is_remote(facts):
        return None
    took = _ms(facts.costs.call(1).searching)
    what = f"the store is remote: a search takes {took}, most of it waiting"
    return Finding("fine", what)


def _hosted(facts: Facts) -> Finding | None:
    if not is_hosted(facts):
        return None
    waiting, call = facts.costs.parts["waiting for embeddings"], facts.costs.call(1)
    return Finding(
        "fine",
        f"queries are embedded elsewhere: of {_ms(call.embedding)} for one, "
        f"{_ms(waiting)} are waiting",
    )


def _contention(facts: Facts) -> Finding | None:
    settings, costs = facts.settings, facts.costs
    speculates = settings.speculation and not settings.retrieves_once
    if not (speculates and settings.asynchronous):
        return None
    overlap = min(costs.overlap.values())  # the scheduler may choose
    what = f"beside a verification a token takes {overlap:.1f}× as long"
    if overlap < _CONTENTION:
        return Finding("fine", what)
    return Finding(
        "slow" if overlap >= _STRONG_CONTENTION else "worth knowing",
        what,
        "model, embeddings and search want the same cores, so that writing on while "
        "a verification is out gains less",
        f"{_OPENMP}, and no other load on these cores; the scheduler measures this "
        "too, and overlaps only where it pays",
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


_OF_SETTINGS = {
    "gain": _gain,
    "speculation": _speculation,
    "asynchronous": _asynchronous,
    "stride": _stride,
    "guess policy": _guess_policy,
}
_CHECKS = {
    "quantization": quantization,
    "threads": _threads,
    "wait policy": _wait_policy,
    "repeatable": _repeatable,
    "queries one by one": _one_by_one,
    "embeddings": _embeddings,
    "index": _index,
    "FAISS threshold": _scan,
    "remote": _remote,
    "hosted encoder": _hosted,
    "overlap": _contention,
    "flash attention": _flash_attention,
}
