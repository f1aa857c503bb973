"""``ralmspec bench engine``: our decode loop against ``llama_cpp.Llama``'s."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.bench.comparison import machine
from langchain_ralmspec.engine import Model
from langchain_ralmspec.engine.model import default_threads
from langchain_ralmspec.errors import MissingExtraError


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds for one prompt and for the tokens after it."""

    prompt: float
    decode: float


def run(
    gguf: str, *, n_prompt: int, n_decode: int, rounds: int, json_file: Path | None
) -> dict[str, Any]:
    """Time both, in turn, ``rounds`` times; print and return the figures.

    Greedy, the same tokens, threads, context and batch size for both, in turn
    first; neither stops at EOS. The ratios are the rival's seconds ÷ ours, pair by
    pair.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise MissingExtraError.of("llama_cpp", "llama") from error
    single, batch = default_threads()
    model = Model.load(gguf, n_ctx=2048, n_batch=512)
    rival = llama_cpp.Llama(
        gguf,
        n_ctx=2048,
        n_batch=512,
        n_threads=single,
        n_threads_batch=batch,
        flash_attn=True,
        verbose=False,
    )
    text = " ".join(f"{number} is a number." for number in range(n_prompt))
    prompt = model.weights.tokenize(text)[:n_prompt]
    pairs = []
    for number in range(rounds + 1):  # no progress bar: its thread would be timed too
        if number % 2:
            ours = _ours(model, prompt, n_decode)
            theirs = _theirs(rival, prompt, n_decode)
        else:
            theirs = _theirs(rival, prompt, n_decode)
            ours = _ours(model, prompt, n_decode)
        if number:  # the first one warms both up
            pairs.append((ours, theirs))
    summary = {
        "prompt_ratio": statistics.median(b.prompt / a.prompt for a, b in pairs),
        "decode_ratio": statistics.median(b.decode / a.decode for a, b in pairs),
    }
    _report(pairs, summary, n_prompt, n_decode)
    figures = {
        "summary": summary,
        "machine": machine(),
        "seconds": [{"ours": asdict(a), "theirs": asdict(b)} for a, b in pairs],
    }
    if json_file:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def _ours(model: Model, prompt: list[int], n_decode: int) -> Timing:
    sampler, sequence = Sampler(), model.new_sequence()
    answer: list[int] = []
    start = time.perf_counter()
    answer.append(sampler.sample(sequence.extend(prompt), answer))
    middle = time.perf_counter()
    for _ in range(n_decode):
        answer.append(sampler.sample(sequence.extend(answer[-1:]), answer))
    return Timing(middle - start, time.perf_counter() - middle)


def _theirs(rival: Any, prompt: list[int], n_decode: int) -> Timing:
    rival.reset()
    start = time.perf_counter()
    tokens = rival.generate(prompt, temp=0.0, repeat_penalty=1.0)
    next(tokens)
    middle = time.perf_counter()
    for _ in range(n_decode):
        next(tokens)
    return Timing(middle - start, time.perf_counter() - middle)


def _report(
    pairs: list[tuple[Timing, Timing]],
    summary: dict[str, float],
    n_prompt: int,
    n_decode: int,
) -> None:
    table = Table("", "ours, tokens/s", "llama_cpp.Llama, tokens/s", "ratio")
    for name, n_tokens in (("prompt", n_prompt), ("decode", n_decode)):
        ours = statistics.median(getattr(pair[0], name) for pair in pairs)
        theirs = statistics.median(getattr(pair[1], name) for pair in pairs)
        ratio = summary[f"{name}_ratio"]
        table.add_row(
            name, f"{n_tokens / ours:.0f}", f"{n_tokens / theirs:.0f}", f"{ratio:.2f}"
        )
    Console().print(table)
