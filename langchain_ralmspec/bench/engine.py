"""``ralmspec bench engine``: our decode loop against ``llama_cpp.Llama``'s."""

from __future__ import annotations

import statistics
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.assets.targets import find_gguf
from langchain_ralmspec.bench.figures import check_file, write_figures
from langchain_ralmspec.bench.options import JsonOption, ModelOption
from langchain_ralmspec.engine import Model
from langchain_ralmspec.engine.threads import default_threads
from langchain_ralmspec.errors import MissingExtraError

Timing = dict[str, float]
"""Seconds for one ``prompt``, and to ``decode`` the tokens after it."""


def rival_of(gguf: str, n_ctx: int) -> Any:
    """A ``llama_cpp.Llama`` with all that makes it fast.

    Our threads, large batches, flash attention.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise MissingExtraError.of("llama_cpp", "llama") from error
    single, batch = default_threads()
    return llama_cpp.Llama(
        gguf,
        n_ctx=n_ctx,
        n_batch=512,
        n_threads=single,
        n_threads_batch=batch,
        flash_attn=True,
        verbose=False,
    )


def engine(
    *,
    model: ModelOption = "smollm2-135m",
    n_prompt: Annotated[int, typer.Option(help="Tokens of the prompt.", min=2)] = 512,
    n_decode: Annotated[int, typer.Option(help="Tokens after it.", min=1)] = 64,
    rounds: Annotated[int, typer.Option(help="Pairs of timings.", min=1)] = 9,
    json: JsonOption = None,
) -> None:
    """Time our decode loop against llama_cpp.Llama's, one after the other."""
    # Greedy, the same tokens, threads, context and batch size for both, in turn
    # first; neither stops at EOS. The ratios are the rival's seconds ÷ ours, pair by
    # pair.
    check_file(json)
    gguf, n_ctx = find_gguf(model), max(2048, n_prompt + n_decode)
    rival = rival_of(gguf, n_ctx)
    own = Model.load(gguf, n_ctx=n_ctx, n_batch=512)
    text = " ".join(f"{number} is a number." for number in range(n_prompt))
    prompt = own.weights.tokenize(text)[:n_prompt]
    pairs = []
    for number in range(rounds + 1):  # no progress bar: its thread would be timed too
        if number % 2:
            ours = _ours(own, prompt, n_decode)
            theirs = _theirs(rival, prompt, n_decode)
        else:
            theirs = _theirs(rival, prompt, n_decode)
            ours = _ours(own, prompt, n_decode)
        if number:  # the first one warms both up
            pairs.append((ours, theirs))
    summary = {
        f"{part}_ratio": statistics.median(b[part] / a[part] for a, b in pairs)
        for part in ("prompt", "decode")
    }
    _report(pairs, summary, n_prompt, n_decode)
    if json:
        seconds = [{"ours": ours, "theirs": theirs} for ours, theirs in pairs]
        write_figures(json, {"summary": summary, "seconds": seconds})


def _ours(model: Model, prompt: list[int], n_decode: int) -> Timing:
    sampler, sequence = Sampler(), model.new_sequence()
    answer: list[int] = []
    start = time.perf_counter()
    answer.append(sampler.sample(sequence.extend(prompt), answer))
    middle = time.perf_counter()
    for _ in range(n_decode):
        answer.append(sampler.sample(sequence.extend(answer[-1:]), answer))
    return {"prompt": middle - start, "decode": time.perf_counter() - middle}


def _theirs(rival: Any, prompt: list[int], n_decode: int) -> Timing:
    rival.reset()
    start = time.perf_counter()
    tokens = rival.generate(prompt, temp=0.0, repeat_penalty=1.0)
    next(tokens)
    middle = time.perf_counter()
    for _ in range(n_decode):
        next(tokens)
    return {"prompt": middle - start, "decode": time.perf_counter() - middle}


def _report(
    pairs: list[tuple[Timing, Timing]],
    summary: dict[str, float],
    n_prompt: int,
    n_decode: int,
) -> None:
    table = Table("", "ours, tokens/s", "llama_cpp.Llama, tokens/s", "ratio")
    for name, n_tokens in (("prompt", n_prompt), ("decode", n_decode)):
        ours = statistics.median(pair[0][name] for pair in pairs)
        theirs = statistics.median(pair[1][name] for pair in pairs)
        ratio = summary[f"{name}_ratio"]
        table.add_row(
            name, f"{n_tokens / ours:.0f}", f"{n_tokens / theirs:.0f}", f"{ratio:.2f}"
        )
    Console().print(table)
