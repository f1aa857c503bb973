"""kNN-LM with guessed neighbours against a search a token."""

from langchain_ralmspec.bench.knnlm.benchmark import Benchmark

__all__ = ["Benchmark"]
