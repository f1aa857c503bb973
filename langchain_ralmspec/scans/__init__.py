"""Exact search over the rows of a matrix, in the form that is fastest here."""

from langchain_ralmspec.scans.scan import BATCHES, Metric, Scan
from langchain_ralmspec.scans.torch import installed_torch, loaded_torch

__all__ = ["BATCHES", "Metric", "Scan", "installed_torch", "loaded_torch"]
