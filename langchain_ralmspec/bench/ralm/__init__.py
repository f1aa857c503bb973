"""RaLMSpec against its sequential loop."""

from langchain_ralmspec.bench.ralm.benchmark import Benchmark

__all__ = ["Benchmark"]
