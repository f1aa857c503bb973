"""Numbers that llama.cpp would die of are refused; those that look like it are served.

Each runs in a process of its own kind, one for all, as the failure is its end.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

_SCRIPT = """
import json, sys
from langchain_ralmspec.engine import Model

gguf, cases = sys.argv[1], json.loads(sys.argv[2])
kept = Model.load(gguf)  # the weights are loaded once
tokens = kept.weights.tokenize("A heap is a tree whose parents are smaller.")
for case in cases:
    try:
        model = Model.load(gguf, **case)
        sequence = model.new_sequence()
        for part in (tokens[:5], tokens[5:]):
            logits = sequence.extend(part)
        told = int(logits.argmax())
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    print(json.dumps(told), flush=True)
"""
_MOST = str(2**24)
CASES: list[tuple[dict[str, Any], str | None]] = [
    ({"n_ctx": 1}, "ContextOverflowError: .*n_ctx=1"),
    ({"n_ctx": 3}, "ContextOverflowError: .*n_ctx=3"),
    ({"n_ctx": 16}, None),
    *[
        ({"n_ctx": value}, f"InvalidValueError: n_ctx.*at most {_MOST}, got {value}")
        for value in (10**9, 2**31, 10**12)
    ],
    ({"n_ctx": 2**24}, r"InvalidValueError: n_ctx=16777216 .* GiB .*lower"),
    *[({"n_batch": value}, None) for value in (1, 2, 3, 10**6)],
    (
        {"n_batch": 10**10},
        f"InvalidValueError: n_batch.*at most {_MOST}, got 1{'0' * 10}",
    ),
    ({"n_batch": 1, "n_slots": 256, "n_ctx": 32}, None),
    ({"n_slots": 257}, "InvalidValueError: n_slots.*at most 256, got 257"),
    *[
        ({"n_threads": value}, f"InvalidValueError: n_threads.*at most .*, got {value}")
        for value in (600, 10**6, 2**31)
    ],
    ({"n_gpu_layers": -2}, "InvalidValueError: n_gpu_layers.*at least -1.*, got -2"),
    ({"n_gpu_layers": 2**31}, "InvalidValueError: n_gpu_layers.*, got 2147483648"),
    ({"kv_cache_bytes": 10**30}, None),
    ({"n_batch": True}, "InvalidValueError: n_batch.*whole number, got True"),
]


def test_no_number_ends_the_process(gguf: str) -> None:
    settings = json.dumps([case for case, _ in CASES])
    done = subprocess.run(  # noqa: S603  our own script
        [sys.executable, "-c", _SCRIPT, gguf, settings],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"died at {CASES[len(told)][0]}: {done.stderr[-300:]}"
    assert "llama_context" not in done.stderr, "it is told what it would do anyway"
    usual = told[2]
    assert isinstance(usual, int)
    for (case, refusal), answer in zip(CASES, told, strict=True):
        if refusal is None:
            assert answer == usual, case
        else:
            assert re.search(refusal, str(answer)), (case, answer)
