"""A real Chroma server, and a relay that delays it."""
