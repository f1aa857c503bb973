"""Embeddings behind HTTP: the same answers, no text sent twice, no request left."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

import pytest
from langchain_community.vectorstores.faiss import FAISS
from langchain_core.embeddings import Embeddings

from langchain_ralmspec import ChatRaLMSpec, RaLMSpecRetriever
from tests.integration_tests.conftest import Corpus

QUESTION = "How do I read a file line by line?"


class Service(ThreadingHTTPServer):
    """Embeds lists of texts as an embedding service does, by an encoder of ours."""

    daemon_threads = True

    def __init__(self, encoder: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.encoder = encoder
        self.requests: list[list[str]] = []
        self.n_open = 0
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        service: Any = self.server
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with service.lock:
            service.requests.append(texts)
            service.n_open += 1
        body = json.dumps(service.encoder.embed_queries(texts)).encode()
        with service.lock:
            service.n_open -= 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Client(Embeddings):
    """What an application has of the service."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/embeddings"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        request = Request(self._url, json.dumps(texts).encode())  # noqa: S310  a constant
        with urlopen(request, timeout=60) as response:  # noqa: S310
            made: list[list[float]] = json.load(response)
        return made

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@pytest.fixture
def service(corpus: Corpus) -> Iterator[Service]:
    with Service(corpus.embeddings) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield service
        service.shutdown()
        thread.join()


@pytest.mark.parametrize("symmetric", [None, True])
@pytest.mark.parametrize("stride", ["auto", 3])
def test_a_hosted_encoder_is_asked_no_text_twice_and_changes_nothing(
    service: Service, corpus: Corpus, gguf: str, symmetric: bool | None, stride: Any
) -> None:
    store = FAISS.from_embeddings(
        list(zip(corpus.texts, corpus.vectors.tolist(), strict=True)),
        Client(service.server_port),
        ids=corpus.ids,
    )
    chat = ChatRaLMSpec(
        model_path=gguf,
        retriever=RaLMSpecRetriever(vectorstore=store, symmetric_embeddings=symmetric),
        guess_policy="auto" if stride == "auto" else "same",
        speculation_stride=stride,
        max_tokens=32,
    )
    answers = []
    for speculation in (False, True, True):
        service.requests.clear()
        one = chat.model_copy(update={"speculation": speculation})
        message = one.invoke(QUESTION)
        assert service.n_open == 0, "a request is left"
        answers.append((message.text, message.response_metadata["steps"]))
        alone = [texts[0] for texts in service.requests if len(texts) == 1]
        assert len(alone) == len(set(alone))
        together = [texts for texts in service.requests if len(texts) > 1]
        assert symmetric or not together
        # Of these, only near ties are embedded once more, each alone.
        sent = [text for texts in together for text in texts]
        assert len(sent) == len(set(sent))
    assert answers[1:] == answers[:1] * 2
