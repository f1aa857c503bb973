"""llama.cpp, and the only room that knows it."""

from langchain_ralmspec.engine.model import Model
from langchain_ralmspec.engine.sequence import Sequence

__all__ = ["Model", "Sequence"]
