"""Benchmarks and the demo; the product never imports this."""
