import re
from pathlib import Path

import pytest

import langchain_ralmspec

ROOT = Path(__file__).resolve().parents[2]

EXPECTED = {
    "BM25Store", "ChatRaLMSpec", "ChatRapid", "ChatTemplateError",
    "ContextOverflowError", "DatastoreError", "DecodeError", "DimensionMismatchError",
    "Draft", "DraftStats", "Drafter", "EmptyStoreError", "FaissStore",
    "GrammarError", "InvalidValueError", "KNNDatastore", "KNNLMSpecLLM",
    "MissingExtraError", "ModelFileError", "QueueFullError", "RaLMSpecError",
    "RaLMSpecLLM", "RaLMSpecRetriever", "RapidChain", "RetrieverSession",
    "SentenceTransformerEmbeddings", "SetupError",
    "SpeculationStats", "StoreError", "StoreTimeoutError", "UnknownArgumentError",
    "__version__",
    "documents_of",
}  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert set(langchain_ralmspec.__all__) == EXPECTED
    assert all(hasattr(langchain_ralmspec, name) for name in EXPECTED)


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_paths_that_a_page_names_exist(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
    named = re.findall(
        r"`([\w./*-]+/|[\w./*-]*\w\.(?:py|md|json|toml|lock|yaml))`", text
    )
    assert named
    places = [ROOT, ROOT / "langchain_ralmspec", *(ROOT / "tests").rglob("")]
    places += [ROOT / "docs" / "results"]
    assert [name for name in named if not any(any(p.glob(name)) for p in places)] == []
