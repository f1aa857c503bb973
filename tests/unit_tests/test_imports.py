import langchain_ralmspec

EXPECTED = {
    "BM25Store",
    "ChatRaLMSpec",
    "ChatRapid",
    "ChatTemplateError",
    "ContextOverflowError",
    "DatastoreError",
    "DecodeError",
    "DimensionMismatchError",
    "Draft",
    "DraftStats",
    "Drafter",
    "EmptyStoreError",
    "FaissStore",
    "InvalidValueError",
    "KNNDatastore",
    "KNNLMSpecLLM",
    "MissingExtraError",
    "ModelFileError",
    "RaLMSpecError",
    "RaLMSpecLLM",
    "RaLMSpecRetriever",
    "RapidChain",
    "RetrieverSession",
    "SentenceTransformerEmbeddings",
    "SpeculationStats",
    "StoreError",
    "UnknownArgumentError",
    "__version__",
}


def test_the_public_names_are_these() -> None:
    assert set(langchain_ralmspec.__all__) == EXPECTED
    assert all(hasattr(langchain_ralmspec, name) for name in EXPECTED)
