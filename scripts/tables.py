"""Which tables the pages have: their rows' result files, and what each cell shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from columns import Cell, Row, Table, find, interval, number, spread
from gains import GAINS


def _plans(figures: Any, _: str) -> str:
    plans = find(figures, "rows/+PSA/plans").items()
    return ", ".join(f"{plan} {share:.0%}" for plan, share in [*plans][:3])


def _differ(figures: Any, at: str) -> str:
    row = find(figures, f"rows/SD{at}")
    return f"{row['n_answers'] - row['n_identical']}"


def _as_plain(figures: Any, at: str) -> str:
    row = find(figures, f"rows/{at}")
    return f"{row['n_identical']} of {row['n_answers']}"


def _times_a_token(n_tokens: int) -> Cell:
    def cell(figures: Any, _: str) -> str:
        seconds = find(figures, "batch_costs/-1/seconds")
        return f"{seconds[f'{n_tokens}'] / seconds['1']:.2f}"

    return cell


def _token_and_guess(figures: Any, at: str) -> str:
    costs = find(figures, f"by_k/{at}/rows/+S/costs_seconds")
    token, guess = (f"{1e3 * costs[name]:.1f}" for name in ("generation", "guess"))
    return f"{token}, {guess} ms" if costs["guess"] else f"{token} ms, –"


def _if_guessed(form: str, *paths: str, times: float = 1.0) -> Cell:
    """Numbers of a kNN-LM's row; a dash where it never guessed."""

    def cell(figures: Any, at: str) -> str:
        row = find(figures, f"by_k/{at}/rows/+S")
        if not row["costs_seconds"]["guess"]:
            return "–"
        return form.format(*(times * find(row, path) for path in paths))

    return cell


def _perplexity(interpolation: float) -> Cell:
    def cell(figures: Any, at: str) -> str:
        (row,) = (
            row
            for row in find(figures, "perplexity/rows")
            if (row["k"], row["interpolation"]) == (int(at), interpolation)
            and row["default_temperatures"] == 1
        )
        bold = "**" if row["is_best"] else ""
        return f"{bold}{row['perplexity']:.2f}{bold}"

    return cell


_PSA, _AUTO = "rows/+PSA", "by_k/{}/rows/+S"
_STORES = tuple(
    Row((label,), f"ralm-{file}")
    for label, file in (
        ("exact FAISS, 1 M vectors", "faiss-1m"),
        ("exact FAISS, 3 M vectors", "faiss-3m"),
        ("exact FAISS, 8 M vectors", "faiss-8m"),
        ("HNSW, 50 k passages", "hnsw-50k"),
        ("Chroma in the process, 50 k", "chroma-50k"),
        ("BM25, 200 k passages", "bm25-200k"),
        ("Chroma server, 10 ms each way", "chroma-10ms"),
        ("Chroma server, 25 ms each way", "chroma-25ms"),
        ("Chroma server, 50 ms each way", "chroma-50ms"),
        ("Chroma server, 100 ms each way", "chroma-100ms"),
    )
)
_QWEN, _SMOL = "Qwen2.5-Coder-1.5B Q4_K_M", "SmolLM2-135M"
_QUOTE_QWEN, _QUOTE, _QA = (
    "rapid-qwen-quote",
    "rapid-smollm2-f16-quote",
    "rapid-smollm2-qa",
)

_NEAR = "exact FAISS and encoder here"
_FAR = "Chroma server 50 ms each way, encoder 150 ms away"

_POLICIES = {
    "never": "none",
    "once, k = 1": "once k=1",
    "once, k = 4": "once k=4",
    "every 16 tokens": "stride 16",
    "every 8 tokens": "stride 8",
    "every 4 tokens": "stride 4",
    "FLARE": "flare",
    "Iter-RetGen": "iter-retgen",
}
_PERPLEXITY = {
    "never": "none",
    "once": "once",
    "every 64 tokens": "every 64",
    "every 16 tokens": "every 16",
    "every 4 tokens": "every 4",
}


def _by_model(looked_up: Mapping[str, str]) -> tuple[Row, ...]:
    """Rows of the benchmark of quality, by model and by how often was looked up."""
    models = {_SMOL: "quality-smollm2", "Qwen2.5-Coder-1.5B": "quality-qwen"}
    return tuple(
        Row((model, label), file, at)
        for model, file in models.items()
        for label, at in looked_up.items()
    )


TABLES = GAINS | {
    "swap": Table(
        ("a question …",),
        {
            "whole answer, before": number("summary/rounds/{}/seconds_old", "{:.2f} s"),
            "after": number("summary/rounds/{}/seconds_new", "{:.2f} s"),
            "sooner": number("summary/rounds/{}/seconds_ratio", "**{:.2f}×**"),
            "first text, before": number(
                "summary/rounds/{}/first_text_old", "{:.2f} s"
            ),
            "after ": number("summary/rounds/{}/first_text_new", "{:.2f} s"),
            "sooner ": number("summary/rounds/{}/first_text_ratio", "**{:.2f}×**"),
        },
        (
            Row(("whose passages are new",), "swap-smollm2", "new"),
            Row(("that is asked again",), "swap-smollm2", "again"),
            Row(('with "Be brief." behind it',), "swap-smollm2", "reworded"),
        ),
    ),
    "ralm-short": Table(
        ("store",),
        {
            "retrieval's share of the sequential time": number(
                "retrieval_share", "{:.0%}"
            ),
            "ceiling": number("summary/ceiling", "{:.2f}"),
            "speed-up": number("summary/speedup_median", "**{:.2f}**"),
        },
        _STORES,
    ),
    "ralm": Table(
        ("store",),
        {
            "*a*": number(f"{_PSA}/costs_seconds/generation", "{:.0f} ms", 1e3),
            "*b*": number(f"{_PSA}/costs_seconds/retrieval", "{:.0f} ms", 1e3),
            "retrieval": number("retrieval_share", "{:.0%}"),
            "ceiling": number("summary/ceiling", "{:.2f}"),
            "right": number("summary/guess_accuracy", "{:.0%}", nothing="–"),
            "proven": number(f"{_PSA}/proven", "{:.0%}", nothing="–"),
            "speed-up, median (quartiles)": spread(f"{_PSA}/speedup_quartiles"),
            "of sums": number("summary/speedup_sums", "{:.2f}"),
            "attainable": number("summary/attainable", "{:.2f}"),
            "reached": number(f"{_PSA}/reached", "{:.0%}"),
        },
        _STORES,
    ),
    "boosters": Table(
        ("store",),
        {
            row: number(f"rows/{row}/summary/speedup_median", "{:.2f}")
            for row in ("Spec", "+A", "+PS", "+PSA")
        }
        | {"plans that +PSA followed most": _plans},
        _STORES,
    ),
    "hosted": Table(
        ("the network to the encoder adds",),
        {
            "*a*": number(f"{_PSA}/costs_seconds/generation", "{:.0f} ms", 1e3),
            "*b*": number(f"{_PSA}/costs_seconds/retrieval", "{:.0f} ms", 1e3),
            "speed-up, median (quartiles)": spread(f"{_PSA}/speedup_quartiles"),
            "of sums": number(f"{_PSA}/summary/speedup_sums", "{:.2f}"),
            "attainable": number(f"{_PSA}/summary/attainable", "{:.2f}"),
            "reached": number(f"{_PSA}/reached", "{:.0%}"),
            "first text, sooner": number(f"{_PSA}/first_text/sooner", "{:.2f}"),
            "right": number(f"{_PSA}/summary/guess_accuracy", "{:.0%}"),
        },
        tuple(Row((f"{ms} ms",), f"ralm-hosted-{ms}") for ms in (50, 150, 300)),
    ),
    "one-scheduler": Table(
        ("plans by",),
        {
            "speed-up, median (quartiles)": spread(f"{_PSA}/speedup_quartiles"),
            "of sums": number(f"{_PSA}/summary/speedup_sums", "{:.2f}"),
            "reached": number(f"{_PSA}/reached", "{:.0%}"),
            "first text, sooner": number(f"{_PSA}/first_text/sooner", "{:.2f}"),
        },
        tuple(
            Row((f"{kinds} of scheduler",), f"ralm-hosted-150-{n}-scheduler")
            for kinds, n in (("two kinds", "two"), ("one kind", "one"))
        ),
    ),
    "replica": Table(
        ("store", "guesses from"),
        {
            "speed-up, median (quartiles)": spread("rows/{}/speedup_quartiles"),
            "of sums": number("rows/{}/summary/speedup_sums", "{:.2f}"),
            "attainable": number("rows/{}/summary/attainable", "{:.2f}"),
            "first text, sooner": number("rows/{}/first_text/sooner", "{:.2f}"),
            "right": number("rows/{}/summary/guess_accuracy", "{:.1%}"),
        },
        tuple(
            Row((store, guesser), file, row)
            for store, file in (
                ("exact FAISS, 1 M vectors", "ralm-replica-1m"),
                ("exact FAISS, 3 M vectors", "ralm-faiss-3m"),
                ("Chroma server, 50 ms each way", "ralm-chroma-50ms"),
                ("Chroma server, 100 ms each way", "ralm-chroma-100ms"),
            )
            for guesser, row in (("the session", "+PSA"), ("a replica, too", "+PSAR"))
        ),
    ),
    "read-before": Table(
        ("stack", "row"),
        {
            "speed-up, median": number("{}/over_unread/median", "**{:.2f}**"),
            "of sums": number("{}/over_unread/sums", "{:.2f}"),
            "first text, sooner": number("{}/first_text/sooner", "{:.2f}"),
            "an answer": number("{}/seconds/all", "{:.1f} s"),
        },
        (
            Row((_NEAR, "sequential, read before"), "ralm-read-before-50k", "W"),
            Row((_NEAR, "speculative, too"), "ralm-read-before-50k", "rows/+PSAW"),
            Row((_FAR, "sequential, read before"), "ralm-everything", "W"),
            Row((_FAR, "and a replica"), "ralm-everything", "rows/+PSARW"),
        ),
    ),
    "scans": Table(
        ("queries",),
        {
            n: number(f"milliseconds/{{}}/{n}", "{:.0f}")
            for n in ("2", "4", "8", "16", "32")
        },
        tuple(
            Row((scan,), "scan-faiss-1m", scan)
            for scan in (
                "inner product, float32",
                "inner product, bfloat16",
                "L2, FAISS",
                "L2, bfloat16",
            )
        ),
    ),
    "rapid": Table(
        ("model, task",),
        {
            "answers": number("rows/SD{}/n_answers", "{:.0f}"),
            "plain, tokens/s": number("rows/plain{}/decode_tokens_a_second", "{:.1f}"),
            "speed-up, median (quartiles)": spread("rows/SD{}/decode/quartiles"),
            "of totals": number("rows/SD{}/decode_of_totals", "{:.2f}"),
            "best fixed": number("rows/SD{}/attainable", "{:.2f}"),
            "reached": number("rows/SD{}/reached", "{:.0%}"),
            "oracle": number("rows/SD{}/oracle", "{:.2f}"),
            "acceptance": number("rows/SD{}/acceptance", "{:.0%}"),
            "differ": _differ,
        },
        (
            Row((f"{_QWEN}, quoting",), _QUOTE_QWEN),
            Row((f"{_SMOL} F16, quoting",), _QUOTE),
            Row(("of these, answers that do quote",), _QUOTE, "/where_quoting"),
            Row(("of these, the others",), _QUOTE, "/where_not_quoting"),
            Row((f"{_SMOL} Q4_0, questions",), _QA),
        ),
    ),
    "pass-costs": Table(
        ("",),
        {"one token": number("batch_costs/-1/seconds/1", "{:.0f} ms", 1e3)}
        | {f"{n}": _times_a_token(n) for n in (2, 4, 8, 16, 32)},
        (
            Row((_QWEN,), _QUOTE_QWEN),
            Row((f"{_SMOL} F16",), _QUOTE),
            Row((f"{_SMOL} Q4_0",), _QA),
        ),
    ),
    "first-token": Table(
        ("",),
        {
            heading: number(f"rows/SD/first_token_seconds/{at}", form)
            for heading, at, form in (
                ("first question about a text", "first", "{:.1f}"),
                ("a second one", "second", "{:.2f}"),
                ("with the KV read from `kv_cache_dir`", "disk", "{:.2f}"),
            )
        },
        (
            Row((_QWEN,), _QUOTE_QWEN),
            Row((f"{_SMOL} Q4_0",), _QA),
            Row((f"{_SMOL} F16",), _QUOTE),
        ),
    ),
    "quality": Table(
        ("",),
        {
            "F1": number("rows/{}/quality/f1", "{:.2f}"),
            "exact match": number("rows/{}/quality/exact", "{:.0%}"),
            "contains it": number("rows/{}/quality/contains", "{:.0%}"),
            "drafted tokens kept": number("rows/{}/acceptance", "{:.0%}"),
            "as plain decoding": _as_plain,
        },
        tuple(
            Row((label,), "rapid-qwen-squad", row)
            for label, row in (
                ("long context, plain", "plain"),
                ("RAG", "rag"),
                ("SD (transfer off)", "SD"),
                ("RAPID, η = 5", "RAPID η=5"),
                ("RAPID, η = 20", "RAPID η=20"),
            )
        ),
        frozenset({("plain", "as plain decoding")}),
    ),
    "lookup-quality": Table(
        ("model", "looked up"),
        {
            "exact match": number("rows/{}/exact/mean", "{:.0%}"),
            "F1": interval("rows/{}/f1", "{:.2f}"),
            "contains it": interval("rows/{}/contains", "{:.0%}"),
            "faithful": interval("rows/{}/faithful", "{:.0%}"),
            "gold read": number("rows/{}/found/mean", "{:.0%}"),
            "look-ups": number("rows/{}/lookups/mean", "{:.1f}"),
            "documents": number("rows/{}/documents/mean", "{:.1f}"),
            "tokens": number("rows/{}/tokens/mean", "{:.0f}"),
        },
        _by_model(_POLICIES),
    ),
    "lookup-gain": Table(
        ("model", "looked up"),
        {
            "F1": interval("rows/{}/to_once/f1", "{:+.2f}"),
            "contains it": interval("rows/{}/to_once/contains", "{:+.2f}"),
            "faithful": interval("rows/{}/to_once/faithful", "{:+.2f}"),
        },
        _by_model({name: at for name, at in _POLICIES.items() if at != "once k=1"}),
    ),
    "lookup-perplexity": Table(
        ("model", "looked up"),
        {
            "perplexity": interval("perplexity/rows/{}/perplexity", "{:.2f}"),
            "÷ that of never": interval("perplexity/rows/{}/to_none", "{:.3f}"),
        },
        _by_model(_PERPLEXITY),
    ),
    "knnlm": Table(
        ("index, entries", "*k*"),
        {
            "*a*, a guess": _token_and_guess,
            "*b(1)*": number(f"{_AUTO}/costs_seconds/retrieval", "{:.1f} ms", 1e3),
            "*b(s)*": _if_guessed(
                "{:.0f} + {:.1f}·s ms",
                "costs_seconds/verification/base",
                "costs_seconds/verification/per_query",
                times=1e3,
            ),
            "search": number("by_k/{}/search_share", "{:.0%}"),
            "ceiling": number(f"{_AUTO}/summary/ceiling", "{:.2f}"),
            "+S, median (quartiles)": spread(f"{_AUTO}/speedup_quartiles"),
            "of sums": number(f"{_AUTO}/summary/speedup_sums", "{:.2f}"),
            "attainable": number(f"{_AUTO}/summary/attainable", "{:.2f}"),
            "reached": _if_guessed("{:.0%}", "reached"),
            "right": _if_guessed("{:.1%}", "summary/guess_accuracy"),
            "Spec": number("by_k/{}/rows/Spec/summary/speedup_median", "{:.2f}"),
        },
        tuple(
            Row((label, k), f"knnlm-{file}", k)
            for label, file in (
                ("exact, 500 k", "500k"),
                ("exact, 2 M", "2m"),
                ("IVF, 300 k", "ivf-300k"),
            )
            for k in ("1", "16", "1024")
        ),
    ),
    "perplexity": Table(
        ("*k*",),
        {
            f"λ = {share:g}": _perplexity(share)
            for share in (0.0, 0.05, 0.1, 0.15, 0.25, 0.4)
        },
        tuple(Row((k,), "knnlm-500k", k) for k in ("1", "16", "1024")),
    ),
    "serve": Table(
        ("model",),
        {
            "requests": number("requests", "{:.0f}"),
            "clients": number("clients", "{:.0f}"),
            "wrong": number("wrong", "{:.0f}"),
            "unanswered": number("unanswered", "{:.0f}"),
            "told that a replica is lost": number("errors/replica_lost", "{:.0f}"),
            "tokens/s, first": number("tokens_per_second/first", "{:.0f}"),
            "steady": number("tokens_per_second/steady", "{:.0f}"),
            "after the kill": number("tokens_per_second/after_the_kill", "{:.0f}"),
        },
        (Row(("SmolLM2-135M",), "serve-smollm2"),),
    ),
    "together": Table(
        ("model", "requests at once"),
        {
            "tokens/s, in turn": number(
                "rows/{}/tokens_per_second/one by one", "{:.0f}"
            ),
            "together": number("rows/{}/tokens_per_second/together", "{:.0f}"),
            "bare llama.cpp": number("rows/{}/tokens_per_second/bare", "{:.0f}"),
            "÷ in turn": number("rows/{}/of_one_by_one", "{:.2f}"),
            "÷ bare": number("rows/{}/of_bare", "{:.2f}"),
        },
        (
            *(Row((_SMOL, n), "together-smollm2", n) for n in ("1", "8", "16")),
            *(Row(("Qwen2.5-Coder-1.5B", n), "together-qwen", n) for n in ("1", "8")),
        ),
        # Where many read the same passages, it is no bound: a bare loop reads all.
        frozenset({("16", "÷ bare")}),
    ),
    "engine": Table(
        ("`llama_cpp.Llama`'s time ÷ ours",),
        {
            "prompt": number("summary/prompt_ratio", "{:.2f}"),
            "decode": number("summary/decode_ratio", "{:.2f}"),
        },
        (Row(("first run",), "engine-1"), Row(("second run",), "engine-2")),
    ),
}
