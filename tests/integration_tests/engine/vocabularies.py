"""Tiny GGUF files of a vocabulary alone, of kinds that no test model has."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

from langchain_ralmspec.engine.binding import library
from langchain_ralmspec.engine.weights import Weights

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
Value = str | int | bool | list[str] | list[int] | list[float]


def load(path: Path) -> Weights:
    """The vocabulary of a file without tensors."""
    lib = library()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    with mock.patch.object(lib, "llama_model_default_params", return_value=params):
        return Weights(path)


def write_bpe(
    path: Path, kind: str, special: Mapping[str, int], template: str = ""
) -> Path:
    """A vocabulary of bytes and special tokens; ``kind`` says how it cuts words."""
    tokens = [*_byte_letters(), *special]
    fields: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": kind,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [NORMAL] * 256 + list(special.values()),
        "tokenizer.ggml.merges": ["a b"],
    }
    return _write(path, fields, template)


def write_spm(path: Path, words: Sequence[str], template: str = "") -> Path:
    """A vocabulary as SentencePiece makes them, that puts a space in front of texts."""
    units = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *units, *words]
    kinds = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(words)
    fields: dict[str, Value] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [float(-number) for number in range(len(tokens))],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
    }
    return _write(path, fields, template)


def _byte_letters() -> list[str]:
    """The letters by which GPT-2 writes the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [*map(chr, shown), *(chr(256 + number) for number in range(len(hidden)))]


def _write(path: Path, fields: dict[str, Value], template: str) -> Path:
    fields = {"general.architecture": "llama", **fields}
    if template:
        fields["tokenizer.chat_template"] = template
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(fields))
    for key, value in fields.items():
        data += _string(key) + _typed(value)
    path.write_bytes(data)
    return path


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    head = struct.pack("<I", 9)
    if isinstance(value[0], str):
        strings = b"".join(_string(str(item)) for item in value)
        return head + struct.pack("<IQ", 8, len(value)) + strings
    kind, letter = (6, "f") if isinstance(value[0], float) else (5, "i")
    return head + struct.pack(f"<IQ{len(value)}{letter}", kind, len(value), *value)
