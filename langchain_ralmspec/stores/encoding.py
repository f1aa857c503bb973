"""How an encoder is asked for the vectors of many queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from reprlib import repr as shortened
from typing import Any, cast

from langchain_core.embeddings import Embeddings

from langchain_ralmspec.stores.concurrency import MAX_CONCURRENCY, Calls
from langchain_ralmspec.stores.failures import reported_as_store_error
from langchain_ralmspec.stores.searches import definitions, depth_of

BatchEncoder = Callable[[list[str]], Sequence[Sequence[float]]]
Encoder = Embeddings | Callable[[str], list[float]]

# By the libraries' sources: their embed_query is their embed_documents of one text, and
# that sends many texts in one request. Other classes of these names may differ.
_ALIKE = frozenset(
    {
        "langchain_community.OpenAIEmbeddings",
        "langchain_core.DeterministicFakeEmbedding",
        "langchain_core.FakeEmbeddings",
        "langchain_fireworks.FireworksEmbeddings",
        "langchain_ibm.WatsonxEmbeddings",
        "langchain_mistralai.MistralAIEmbeddings",
        "langchain_ollama.OllamaEmbeddings",
        "langchain_openai.AzureOpenAIEmbeddings",
        "langchain_openai.OpenAIEmbeddings",
    }
)
# These compute in this process. Threads gain nothing, and some of these break when two
# call at once.
LOCAL_EMBEDDINGS = frozenset(
    {
        "FastEmbedEmbeddings",
        "GPT4AllEmbeddings",
        "HuggingFaceBgeEmbeddings",
        "HuggingFaceEmbeddings",
        "HuggingFaceInstructEmbeddings",
        "InfinityEmbeddingsLocal",
        "LlamaCppEmbeddings",
        "Model2vecEmbeddings",
        "OpenVINOEmbeddings",
        "SentenceTransformerEmbeddings",
        "SpacyEmbeddings",
        "TensorflowHubEmbeddings",
    }
)


class Encoding:
    """How query texts become vectors: many in one request, or in many at once.

    Args:
        max_concurrency: requests out at once, where each is for one query; 1 makes
            them one after the other.
        symmetric_embeddings: whether ``embed_documents`` embeds queries as well, so
            that one request serves many; None looks the class up among those that are
            known to. Models trained with instructions embed the two differently.

    Raises:
        InvalidValueError: ``max_concurrency`` is no whole number of at least 1.
    """

    def __init__(
        self,
        max_concurrency: int = MAX_CONCURRENCY,
        symmetric_embeddings: bool | None = None,  # noqa: FBT001  as LangChain's are
    ) -> None:
        self.max_concurrency = max_concurrency
        self._symmetric = symmetric_embeddings
        self._at_once, self._in_turn = Calls(max_concurrency), Calls(1)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.max_concurrency, self._symmetric)

    def batch(self, embeddings: Encoder) -> BatchEncoder | None:
        """The way this object embeds several *queries* in one call, if it has one."""
        own = _own_batch(embeddings)
        if own is not None:
            return own
        alike = self._symmetric
        if alike is None:
            alike = _embeds_alike(embeddings)
        together = getattr(embeddings, "embed_documents", None)
        return cast("BatchEncoder", together) if alike and callable(together) else None

    def singly(
        self, embeddings: Encoder, texts: Sequence[str]
    ) -> list[Sequence[float]]:
        """Embed each text in a call of its own, as one text alone is embedded.

        Raises:
            StoreError: the encoder raised; it names the text.
        """
        own, name = _own_batch(embeddings), type(embeddings).__name__

        def alone(text: str) -> Any:
            with reported_as_store_error(name, f"embed the query {shortened(text)}"):
                if own is None:
                    embed: Any = getattr(embeddings, "embed_query", embeddings)
                    return embed(text)
                (vector,) = own([text])
                return vector

        is_local = any(
            kind.__name__ in LOCAL_EMBEDDINGS for kind in type(embeddings).__mro__
        )
        calls = self._in_turn if is_local else self._at_once
        return calls.map(alone, texts)


def computes_here(embeddings: object) -> bool:
    """Whether embeddings are known to wait for no service: not a subclass of theirs."""
    return type(embeddings).__name__ in LOCAL_EMBEDDINGS


def embed_documents(embeddings: Embeddings, texts: list[str], kind: str) -> Any:
    """What an encoder makes of documents, asked for all of them at once.

    Args:
        embeddings: the encoder.
        texts: any number.
        kind: what they are, in the plural.

    Raises:
        StoreError: it fails. Half of the texts is asked for then, and so on: if it
            fails on one of them, that one is quoted.
    """
    try:
        return embeddings.embed_documents(texts)
    except Exception as error:  # noqa: BLE001  raised again below
        failure, rest = error, texts
        while len(rest) > 1:
            half = rest[: len(rest) // 2]
            rest = half if _failure_on(embeddings, half) else rest[len(half) :]
        alone = _failure_on(embeddings, rest)
        # One that takes nothing at all is not to be blamed on a text.
        is_first = rest == texts[:1] != texts
        is_down = is_first and _failure_on(embeddings, texts[-1:])
        at_fault = f", such as {shortened(rest[0])}" if alone and not is_down else ""
        with reported_as_store_error(
            type(embeddings).__name__, f"embed the {kind}{at_fault}"
        ):
            raise alone or failure from None


def _failure_on(embeddings: Embeddings, texts: list[str]) -> Exception | None:
    try:
        embeddings.embed_documents(texts)
    except Exception as error:  # noqa: BLE001  any is what is looked for
        return error
    return None


def _own_batch(embeddings: Encoder) -> BatchEncoder | None:
    """The encoder's own method for many queries.

    None where its ``embed_query`` is overridden, to write words in front, say.
    """
    own = _as_near(embeddings, "embed_queries")
    if callable(own):
        return cast("BatchEncoder", own)
    # The shape of langchain-huggingface's HuggingFaceEmbeddings.
    embed = _as_near(embeddings, "_embed")
    settings = getattr(embeddings, "query_encode_kwargs", None)
    if callable(embed) and isinstance(settings, dict):
        chosen = settings or getattr(embeddings, "encode_kwargs", {})
        return lambda texts: cast("list[list[float]]", embed(texts, chosen))
    return None


def _as_near(embeddings: Encoder, name: str) -> Any:
    """A method of an encoder, unless ``embed_query`` is defined nearer to it."""
    is_passed_by = depth_of(embeddings, "embed_query") < depth_of(embeddings, name)
    return None if is_passed_by else getattr(embeddings, name, None)


def _embeds_alike(embeddings: Encoder) -> bool:
    """Whether both of its methods are those of a class that embeds queries alike."""
    methods = ("embed_query", "embed_documents")
    return all(_definer(embeddings, name) in _ALIKE for name in methods)


def _definer(embeddings: Encoder, name: str) -> str:
    """Package and class that define a method; empty where the object itself does."""
    if name in definitions(embeddings)[0]:
        return ""
    kinds = type(embeddings).__mro__
    kind = next((each for each in kinds if name in vars(each)), object)
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
