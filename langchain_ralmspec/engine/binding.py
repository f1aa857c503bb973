"""The only module that imports llama.cpp, and what is asked of it without a model."""

from __future__ import annotations

import logging
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.errors import (
    DecodeError,
    MissingExtraError,
    ModelFileError,
)
from langchain_ralmspec.files import absolute

if TYPE_CHECKING:
    from collections.abc import Callable

_GGUF_MAGIC = b"GGUF"
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
    except OSError as error:
        if isinstance(error, ModelFileError):
            raise
        # There is no right to read it, or its name is too long.
        msg = f"the model file {str(file)!r} may not be read: {error.strerror}"
        raise ModelFileError(msg) from error
    if magic != _GGUF_MAGIC:
        msg = f"{str(file)!r} is not a GGUF file (it starts with {magic!r})"
        raise ModelFileError(msg)
    return file


def schema_converter(literal: Callable[[str], str]) -> Any:
    """llama-cpp-python's converter of JSON schemas, with another writer of literals."""
    library()
    from llama_cpp.llama_grammar import SchemaConverter

    make: Any = SchemaConverter
    converter = make(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
    converter._format_literal = literal  # noqa: SLF001  it has no other hook
    return converter


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
