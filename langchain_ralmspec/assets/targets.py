"""Models by path, by packaged name, or by name and quantisation."""

from __future__ import annotations

from pathlib import Path

from langchain_ralmspec.assets.models import MODELS, model_path
from langchain_ralmspec.assets.progress import bar
from langchain_ralmspec.engine.binding import check_file
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import absolute, is_file
from langchain_ralmspec.stores import SentenceTransformerEmbeddings

_ENCODERS = "sentence-transformers"


def find_gguf(model: str) -> str:
    """Path of a GGUF that is given as a path, ``NAME``, or ``NAME:QUANTISATION``."""
    name, _, quantization = model.partition(":")
    if name not in MODELS:
        if not _is_there(absolute(model)):
            known = ", ".join(MODELS)
            raise InvalidValueError(
                f"{model!r} is neither a GGUF file nor a known model: {known}"
            )
        return str(check_file(model))
    if MODELS[name].kind != "gguf":
        raise InvalidValueError(f"{name!r} writes no text; name a GGUF model")
    with bar(f"preparing {model}", unit="bytes") as advance:
        return str(model_path(name, quantization or None, progress=advance))


def _is_there(path: Path) -> bool:
    """Whether there may be something: who opens it is told why it may not be."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def find_encoder(embedding: str) -> Path:
    """Folder of an encoder that is given by packaged name or by folder."""
    known = [name for name, model in MODELS.items() if model.kind == _ENCODERS]
    if embedding in known:
        return model_path(embedding)
    folder = absolute(embedding)
    if not is_file(folder / "config.json"):
        raise InvalidValueError(
            f"{embedding!r} is neither a folder with a sentence-transformers model "
            f"nor one of {', '.join(known)}"
        )
    return folder


def find_embeddings(embedding: str) -> SentenceTransformerEmbeddings:
    """The encoder that :func:`find_encoder` finds."""
    return SentenceTransformerEmbeddings(str(find_encoder(embedding)))
