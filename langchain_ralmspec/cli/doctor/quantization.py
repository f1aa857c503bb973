"""Whether llama.cpp has a fast kernel for a model's numbers."""

from __future__ import annotations

import shlex
from pathlib import Path

from langchain_ralmspec.assets.models import MODELS
from langchain_ralmspec.cli.doctor.facts import Facts
from langchain_ralmspec.cli.doctor.finding import Finding

# On x86 with AVX2, by llama.cpp's repacked kernels or its matrix product (SmolLM2 on
# two shared cores reads prompts at 1, 0.81, 0.79, 0.68 and 0.65 of the speed of Q4_0
# as Q4_0, Q8_0, IQ4_NL, F16 and Q5_0); those of K-quants are in its source.
_FAST = {"Q4_0", "Q8_0", "IQ4_NL", "Q5_0", "F16", "BF16", "F32", "Q4_K_S", "Q4_K_M"}
# At 0.36 and 0.30 of it there, 0.25 on a quiet machine.
_SLOW = {"Q4_1", "Q5_1"}


def quantization(facts: Facts) -> Finding | None:
    """Judge it; None where the kernels meant here are not used."""
    model = facts.model
    if model.n_gpu_layers:
        return None  # the kernels meant here are those of CPUs
    kind, rate = model.quantization, facts.costs.prefill_rate
    what = f"{Path(model.file).name} is {kind or 'of an unknown quantization'}"
    if kind in _FAST:
        return Finding("fine", f"{what}, which has a fast kernel")
    if kind in _SLOW:
        return Finding(
            "slow",
            f"{what}: llama.cpp has no fast CPU kernel for it",
            f"prompts are read at {rate:.0f} tokens/s; as Q4_0 a model of this size "
            "reads 3 to 4 times as many (385 against 1519 tokens/s, SmolLM2-135M)",
            _requantize(model.file),
        )
    return Finding(
        "worth knowing",
        f"{what}: llama.cpp may have no fast CPU kernel for it",
        f"prompts are read at {rate:.0f} tokens/s, and every new document is one",
        f"compare it with Q4_0 or Q8_0: {_requantize(model.file)}",
    )


def _requantize(file: str) -> str:
    """The command that gives a faster file, by hand or for a model of ours."""
    path = Path(file)
    for model in MODELS.values():
        if model.file_name == path.name:
            return f"ralmspec models path {model.name} --quantization Q4_0"
    other = path.with_name(f"{path.stem}.to-Q4_0.gguf")
    paths = shlex.join([str(path), str(other)])
    return f"llama.cpp's own tool: llama-quantize --allow-requantize {paths} Q4_0"
