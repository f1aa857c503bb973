"""Whether looking up more often answers better."""

from langchain_ralmspec.bench.quality.benchmark import Benchmark

__all__ = ["Benchmark"]
