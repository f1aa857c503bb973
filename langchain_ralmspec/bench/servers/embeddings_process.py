"""The program behind ``EmbeddingServer`` of :mod:`…servers.embeddings`.

It runs by itself, as ``python -m … FOLDER``, and speaks as much of OpenAI's API as
``OpenAIEmbeddings`` does. It prints the port it listens on once its model is loaded,
and ends when its standard input does.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from langchain_ralmspec.stores import SentenceTransformerEmbeddings

HOST = "127.0.0.1"
PATH = "/v1/embeddings"


class Service(ThreadingHTTPServer):
    """Embeds lists of texts, the texts of a list in batches, one list after another."""

    daemon_threads = True

    def __init__(self, encoder: SentenceTransformerEmbeddings) -> None:
        super().__init__((HOST, 0), _Handler)
        self._encoder = encoder

    def answer(self, path: str, body: bytes) -> tuple[HTTPStatus, dict[str, Any]]:
        """What is said to one request: its status, and JSON."""
        if path != PATH:
            return HTTPStatus.NOT_FOUND, _error(f"there is {PATH}, not {path!r}")
        try:
            asked = json.loads(body)
            texts = asked["input"]
        except (ValueError, TypeError, KeyError):
            return HTTPStatus.BAD_REQUEST, _error('the body is JSON with an "input"')
        texts = [texts] if isinstance(texts, str) else texts
        if not (isinstance(texts, list) and all(isinstance(t, str) for t in texts)):
            return HTTPStatus.BAD_REQUEST, _error("the input is a text, or some")
        is_packed = asked.get("encoding_format") == "base64"
        made = [
            {"object": "embedding", "index": n, "embedding": _told(vector, is_packed)}
            for n, vector in enumerate(self._encoder.embed_queries(texts))
        ]
        usage = {"prompt_tokens": 0, "total_tokens": 0}  # nobody is charged
        told = {"object": "list", "data": made, "model": "hosted", "usage": usage}
        return HTTPStatus.OK, told


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # which keeps connections
    disable_nagle_algorithm = True  # else an answer may wait 40 ms for a receipt
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, answer = self.server.answer(self.path, body)
        told = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_: Any) -> None:
        """Say nothing: nobody reads it."""


def _told(vector: list[float], is_packed: bool) -> list[float] | str:  # noqa: FBT001
    """A vector as JSON has it; either way every float32 is what it was."""
    if not is_packed:
        return vector
    return base64.b64encode(np.array(vector, "<f4").tobytes()).decode()


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error"}}


def main(folder: str) -> None:
    """Serve a model until standard input ends."""
    encoder = SentenceTransformerEmbeddings(folder)
    encoder.embed_query("load the model")
    service = Service(encoder)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    print(service.server_port, flush=True)  # noqa: T201  for the parent
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
