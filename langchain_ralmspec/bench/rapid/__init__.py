"""Drafting against plain decoding of long contexts."""
