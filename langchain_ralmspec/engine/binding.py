"""The only module that imports llama.cpp, and what is asked of it without a model.

``Weights`` and ``Context`` are thin, checked layers over the ctypes functions of
:func:`library`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from langchain_ralmspec.errors import MissingExtraError, ModelFileError

_GGUF_MAGIC = b"GGUF"

QUANTIZATIONS = {
    "Q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0",
    "Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "F16": "LLAMA_FTYPE_MOSTLY_F16",
}
"""What a GGUF can be turned into, and llama.cpp's constant for it."""


def library() -> Any:
    """llama.cpp's functions.

    Raises:
        MissingExtraError: llama-cpp-python is not installed.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise MissingExtraError.of("llama_cpp", "llama") from error
    logger = logging.getLogger("llama-cpp-python")
    if logger.level == logging.NOTSET:  # its default prints every tensor to stderr
        logger.setLevel(logging.ERROR)
    return llama_cpp.llama_cpp


def check_file(path: str | os.PathLike[str]) -> Path:
    """Check that ``path`` is a readable GGUF file before llama.cpp sees it.

    Returns:
        Its absolute path, links resolved.

    Raises:
        ModelFileError: no such file, or its first bytes are not a GGUF's.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        msg = f"no model file at {str(file)!r}; give model_path the path of a GGUF"
        raise ModelFileError(msg)
    with file.open("rb") as stream:
        magic = stream.read(len(_GGUF_MAGIC))
    if magic != _GGUF_MAGIC:
        msg = f"{str(file)!r} is not a GGUF file (it starts with {magic!r})"
        raise ModelFileError(msg)
    return file.resolve()


def version() -> str:
    """The version of llama-cpp-python, and so of the bits that llama.cpp computes."""
    library()
    return metadata.version("llama-cpp-python")


def system_info() -> str:
    """The instructions of the processor that this llama.cpp uses."""
    text: bytes = library().llama_print_system_info()
    return text.decode()


def requantize(source: Path, target: Path, quantization: str) -> None:
    """Write ``source`` once more with another quantization.

    Args:
        source: a GGUF file, itself quantized or not.
        target: where to write; its folder exists.
        quantization: a key of ``QUANTIZATIONS``.

    Raises:
        ModelFileError: llama.cpp could not do it.
    """
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, QUANTIZATIONS[quantization])
    params.allow_requantize = True
    with _silence():
        lib.llama_backend_init()
        code = lib.llama_model_quantize(
            os.fsencode(source), os.fsencode(target), params
        )
    if code != 0:
        msg = (
            f"llama.cpp could not turn {str(source)!r} into {quantization} "
            f"(code {code}); is there room in {str(target.parent)!r}?"
        )
        raise ModelFileError(msg)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep llama.cpp from writing a line per tensor to stderr.

    The wrapper's log callback asks this logger's level before it prints.
    """
    logger = logging.getLogger("llama-cpp-python")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
