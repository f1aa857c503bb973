"""An embedding service of our own, asked by LangChain's client for OpenAI's."""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_ralmspec.bench.servers.embeddings import (
    EmbeddingServer,
    hosted_embeddings,
)
from langchain_ralmspec.errors import StoreError
from tests.integration_tests.conftest import Corpus

TEXTS = ["How do I read a file line by line?", '\N{SNOWMAN} "quoted"\n', "a"]


@pytest.fixture(scope="module")
def folder(corpus: Corpus) -> str:
    encoder: Any = corpus.embeddings
    return str(encoder.model_path)


@pytest.fixture(scope="module")
def server(folder: str) -> Iterator[EmbeddingServer]:
    with EmbeddingServer(folder) as server:
        yield server


def post(server: EmbeddingServer, path: str, body: object) -> Any:
    address = f"http://{server.host}:{server.port}{path}"
    with urllib.request.urlopen(address, json.dumps(body).encode()) as answer:
        return json.load(answer)


def test_a_far_encoder_gives_the_vectors_of_a_near_one_to_the_bit(
    folder: str, corpus: Corpus
) -> None:
    near: Any = corpus.embeddings
    with hosted_embeddings(folder, 0.01) as far:
        for text in TEXTS:
            one, other = far.embed_query(text), near.embed_query(text)
            assert (np.array(one, np.float32) == np.array(other, np.float32)).all()
        some, others = far.embed_documents(TEXTS), near.embed_queries(TEXTS)
        assert (np.array(some, np.float32) == np.array(others, np.float32)).all()


def test_numbers_are_told_as_exactly_as_bytes(server: EmbeddingServer) -> None:
    asked = {"model": "any", "input": TEXTS[0]}
    plain = post(server, "/v1/embeddings", asked)
    (told,) = plain["data"]
    assert told["index"] == 0
    packed = post(server, "/v1/embeddings", asked | {"encoding_format": "base64"})
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert (np.frombuffer(raw, "<f4") == np.array(told["embedding"], "<f4")).all()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/models", {}, 404),
        ("/v1/embeddings", {"model": "any"}, 400),
        ("/v1/embeddings", {"input": [[1, 2]]}, 400),
        ("/v1/embeddings", ["text"], 400),
    ],
)
def test_what_it_does_not_serve_is_refused(
    server: EmbeddingServer, path: str, body: object, status: int
) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(server, path, body)
    with caught.value as error:
        assert error.code == status
        assert json.load(error)["error"]["message"]


def test_why_it_did_not_start_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"the embedding server ended .*model"):
        EmbeddingServer(str(tmp_path / "nothing"))
