from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_ralmspec.bench.servers.chroma import ChromaServer


@pytest.fixture
def chroma_server(tmp_path: Path) -> Iterator[ChromaServer]:
    """A server of this test alone, so that the test may end it."""
    server = ChromaServer(tmp_path / "chroma")
    yield server
    server.stop()
