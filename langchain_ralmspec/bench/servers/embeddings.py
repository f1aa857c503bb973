"""A hosted encoder on one machine: an embedding service, as if it were elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.bench.servers import embeddings_process
from langchain_ralmspec.bench.servers.child import Child
from langchain_ralmspec.bench.servers.relay import Relay
from langchain_ralmspec.errors import MissingExtraError

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

_PATIENCE = 60.0  # seconds; the farthest server is 20 away


class EmbeddingServer(Child):
    """A port of this machine that answers OpenAI's ``POST /v1/embeddings``.

    It embeds queries by the sentence-transformers model in a folder.

    Raises:
        StoreError: it did not start, for want of such a model, say.
    """

    def __init__(self, folder: str) -> None:
        program = ["-m", embeddings_process.__name__, folder]
        super().__init__("the embedding server", program)


@contextmanager
def hosted_embeddings(folder: str, round_trip: float) -> Iterator[Embeddings]:
    """LangChain's ``OpenAIEmbeddings`` over a model, behind a network.

    Args:
        folder: of a sentence-transformers model.
        round_trip: seconds that the network adds to a request.

    Raises:
        MissingExtraError: langchain-openai is not installed.
        StoreError: the server did not start.
    """
    try:
        import httpx
        from langchain_openai import OpenAIEmbeddings
    except ImportError as error:
        raise MissingExtraError.of("langchain_openai", "bench") from error
    with ExitStack() as stack:
        at: Child = stack.enter_context(EmbeddingServer(folder))
        if round_trip:
            at = stack.enter_context(Relay(at.port, round_trip / 2))
        # No proxy of the environment stands between this machine and itself.
        http = stack.enter_context(httpx.Client(trust_env=False, timeout=_PATIENCE))
        settings: dict[str, Any] = {
            "model": "hosted",
            "base_url": f"http://{at.host}:{at.port}/v1",
            "api_key": "nobody asks for it",
            "check_embedding_ctx_length": False,  # texts as they are, not as tokens
            "max_retries": 0,  # else a failure would be a slow answer
            "http_client": http,
        }
        yield OpenAIEmbeddings(**settings)
