"""llama.cpp, and the only room that knows it."""

from langchain_ralmspec.engine.model import Model
from langchain_ralmspec.engine.sampling import Sampler
from langchain_ralmspec.engine.sequence import Sequence, Snapshot
from langchain_ralmspec.engine.text import TextStream, Transcript

__all__ = ["Model", "Sampler", "Sequence", "Snapshot", "TextStream", "Transcript"]
