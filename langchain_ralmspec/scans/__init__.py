"""Exact search over matrices."""
