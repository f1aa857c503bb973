"""The tables that say, a row each, what there is to win, and where nothing is."""

from __future__ import annotations

from columns import Row, Table, number

_TIMES = {"times as fast": number("{}", "**{:.2f}×**")}
_MEDIAN = "summary/speedup_median"
_DECODE = "rows/SD/decode/quartiles/1"
_KNN = "by_k/1/rows/+S/speedup_quartiles/1"
_QUOTING = "rapid-qwen-quote"

GAINS = {
    "gains": Table(
        ("you wait for", "what was measured"),
        _TIMES,
        (
            Row(
                ("a slow store", "answers, Chroma server, 100 ms each way"),
                "ralm-chroma-100ms",
                _MEDIAN,
            ),
            Row(
                ("a slow store", "answers, exact search in 8 M vectors"),
                "ralm-faiss-8m",
                _MEDIAN,
            ),
            Row(
                ("a hosted encoder", "answers, encoder 300 ms away"),
                "ralm-hosted-300",
                "rows/+PSA/summary/speedup_median",
            ),
            Row(
                ("a long text", "first token of the second question about it"),
                _QUOTING,
                "summary/second_ttft_speedup",
            ),
            Row(("a long text", "writing answers that quote it"), _QUOTING, _DECODE),
            Row(
                ("the same passages", "first text of a question that is asked again"),
                "swap-smollm2",
                "summary/rounds/again/first_text_ratio",
            ),
            Row(
                ("some of the passages", 'first text of the question and "Be brief."'),
                "swap-smollm2",
                "summary/rounds/reworded/first_text_ratio",
            ),
            Row(
                ("a search at every token", "kNN-LM, 500,000 entries, k = 1"),
                "knnlm-500k",
                _KNN,
            ),
        ),
    ),
    "no-gains": Table(
        ("what", "what was measured"),
        _TIMES,
        (
            Row(
                ("a fast store", "answers, BM25, 200,000 passages"),
                "ralm-bm25-200k",
                _MEDIAN,
            ),
            Row(
                ("a fast store", "answers, HNSW, 50,000 passages"),
                "ralm-hnsw-50k",
                _MEDIAN,
            ),
            Row(
                ("new passages", "first text of a chain that retrieves once"),
                "swap-smollm2",
                "summary/rounds/new/first_text_ratio",
            ),
            Row(
                ("a long text", "writing answers in the model's own words"),
                "rapid-smollm2-qa",
                _DECODE,
            ),
            Row(
                ("an approximate index", "kNN-LM over IVF, 300,000 entries, k = 1"),
                "knnlm-ivf-300k",
                _KNN,
            ),
        ),
    ),
}
