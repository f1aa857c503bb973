"""The only module that imports llama.cpp, and what is asked of it without a model."""

from __future__ import annotations

import json
import logging
import os
import re
import reprlib
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.engine.schemas import Reader
from langchain_ralmspec.errors import (
    DecodeError,
    GrammarError,
    MissingExtraError,
    ModelFileError,
)
from langchain_ralmspec.files import absolute
from langchain_ralmspec.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Mapping

_GGUF_MAGIC = b"GGUF"
_ANY_LETTER = r'char ::= [^"\\]'  # in a string, by llama-cpp-python's converter
_logger = logging.getLogger("llama-cpp-python")

_first_process: int | None = None  # that loaded a model, in this line of forks

QUANTIZATIONS = ("Q4_0", "Q8_0", "F16")
"""What a GGUF can be turned into."""


def library() -> Any:
    """llama.cpp's functions; a :class:`MissingExtraError` if they are not installed."""
    try:
        import llama_cpp
    except ImportError as error:
        raise MissingExtraError.of("llama_cpp", "llama") from error
    # Its default, and whoever has made a verbose llama_cpp.Llama, print every tensor.
    if _logger.level < logging.ERROR:
        _logger.setLevel(logging.ERROR)
    return llama_cpp.llama_cpp


def require_no_forked_gpu() -> None:
    """Raise a :class:`DecodeError` where a parent had a GPU, which no fork copies.

    Called before each model is loaded, by one thread at a time.
    """
    global _first_process  # noqa: PLW0603  of the process, as a GPU is
    _first_process = _first_process or os.getpid()
    if _first_process != os.getpid() and library().llama_supports_gpu_offload():
        msg = (
            f"a model was loaded by process {_first_process}, from which this one was "
            "forked, and a GPU cannot be used by both; start processes by 'spawn', or "
            "load no model before a fork"
        )
        raise DecodeError(msg)


def check_file(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a GGUF; anything else is a :class:`ModelFileError`."""
    file = absolute(path)
    try:
        if not file.is_file():
            found = "a folder" if file.is_dir() else "no model file"
            msg = f"{found} at {os.fspath(path)!r}; give model_path the path of a GGUF"
            raise ModelFileError(msg)
        with file.open("rb") as stream:
            magic = stream.read(len(_GGUF_MAGIC))
    except PermissionError as error:
        msg = f"the model file {str(file)!r} may not be read: {error.strerror}"
        raise ModelFileError(msg) from error
    if magic != _GGUF_MAGIC:
        msg = f"{str(file)!r} is not a GGUF file (it starts with {magic!r})"
        raise ModelFileError(msg)
    return file


_REPETITIONS = frozenset({"minLength", "maxLength", "minItems", "maxItems"})
_MOST_REPETITIONS = 10_000
"""More than a context holds tokens, mostly; each takes a few bytes of the grammar."""


def gbnf_of(schema: Mapping[str, Any]) -> str:
    """The grammar of a JSON schema, by llama-cpp-python's converter.

    Raises:
        GrammarError: it cannot convert the schema.
    """
    library()
    try:
        converter = _converter()
        plain = json.loads(json.dumps(schema))
        _require_moderate(plain)
        reader = Reader(plain)
        said = reader.plain(plain, plain)
        converter._refs = reader.parts  # noqa: SLF001  its own search takes all for refs
        converter.visit(said, "")
        converted: str = converter.format_grammar()
    except Exception as error:  # whatever it stumbles over
        shown = reprlib.repr(schema)
        msg = (
            f"llama-cpp-python cannot make a grammar of the JSON schema {shown}: "
            f"{type(error).__name__}: {error}; simplify the schema, or give a grammar"
        )
        raise GrammarError(msg) from error
    # As llama.cpp's own converter has it: no JSON string holds a line break as such.
    return converted.replace(_ANY_LETTER, _ANY_LETTER[:-1] + "\\x7F\\x00-\\x1F]")


def _require_moderate(schema: Any) -> None:
    """Refuse numbers of repetitions that the converter would write out one by one.

    Raises:
        ValueError: one is over ``_MOST_REPETITIONS``.
    """
    parts: list[Any] = [schema]
    for part in parts:
        named = part.items() if isinstance(part, dict) else ()
        parts += part if isinstance(part, list) else (value for _, value in named)
        for name, value in named:
            numbers = [value] if name in _REPETITIONS else []
            if name == "pattern" and isinstance(value, str):
                numbers = list(map(int, re.findall(r"(?<=[{,])\d+", value)))
            if any(
                isinstance(n, int | float) and n > _MOST_REPETITIONS for n in numbers
            ):
                raise ValueError(f"{name} is more than {_MOST_REPETITIONS}")


def _converter() -> Any:
    """llama-cpp-python's converter of JSON schemas, whose literals are right."""
    from llama_cpp.llama_grammar import SchemaConverter

    make: Any = SchemaConverter
    converter = make(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
    converter._format_literal = _literal  # noqa: SLF001  it has no other hook
    return converter


def _literal(said: str) -> str:
    """The literal of GBNF that is a JSON value, with its characters as they are.

    The converter's own would be the halves of what is beyond 16 bits, and what
    backslashes stand for.
    """
    with suppress(ValueError):  # some letter, and no JSON
        said = json.dumps(json.loads(said), ensure_ascii=False)
    escaped = re.sub(r'["\\]', r"\\\g<0>", well_formed(said))
    return '"' + escaped.replace("\n", r"\n").replace("\r", r"\r") + '"'


def build_info() -> dict[str, str]:
    """What the bits that llama.cpp computes depend on: its version, the processor."""
    system: bytes = library().llama_print_system_info()
    return {
        "llama_cpp": metadata.version("llama-cpp-python"),
        "system": system.decode(),
    }


def requantize(source: Path, target: Path, quantization: str) -> None:
    """Write a GGUF once more, with one of ``QUANTIZATIONS``.

    Raises:
        ModelFileError: llama.cpp could not do it.
    """
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{quantization}")
    params.allow_requantize = True
    level = _logger.level
    _logger.setLevel(logging.CRITICAL)  # else llama.cpp prints a line per tensor
    try:
        lib.llama_backend_init()
        code = lib.llama_model_quantize(
            os.fsencode(source), os.fsencode(target), params
        )
    finally:
        _logger.setLevel(level)
    if code != 0:
        msg = (
            f"llama.cpp could not turn {str(source)!r} into {quantization} "
            f"(code {code}); is there room in {str(target.parent)!r}?"
        )
        raise ModelFileError(msg)
