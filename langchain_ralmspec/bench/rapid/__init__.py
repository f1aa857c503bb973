"""Drafting against plain decoding of long contexts."""

from langchain_ralmspec.bench.rapid.benchmark import Benchmark

__all__ = ["Benchmark"]
