"""An OpenAI-compatible server of many replicas, on Ray Serve."""

from langchain_ralmspec.serve.application import app

__all__ = ["app"]
