"""Exact search over the rows of a matrix, in the form that is fastest here."""

from langchain_ralmspec.scans.libraries import (
    installed_faiss,
    installed_torch,
    loaded_torch,
    one_thread,
)
from langchain_ralmspec.scans.rows import ROUNDING, longest_of
from langchain_ralmspec.scans.scan import BATCHES, Metric, Scan

__all__ = [
    "BATCHES",
    "ROUNDING",
    "Metric",
    "Scan",
    "installed_faiss",
    "installed_torch",
    "loaded_torch",
    "longest_of",
    "one_thread",
]
