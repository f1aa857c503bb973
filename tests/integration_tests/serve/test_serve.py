"""Two replicas on Ray, asked by LangChain's own client of OpenAI's API."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from langchain_ralmspec import ChatRaLMSpec
from langchain_ralmspec.assets.models import model_path
from langchain_ralmspec.bench.serve import Server as BenchServer
from langchain_ralmspec.bench.servers.chroma import free_port
from tests.integration_tests.conftest import QUESTIONS
from tests.integration_tests.serve.served import LONG, WRITTEN, make

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MODEL = model_path("smollm2-135m").stem
ROOT = Path(__file__).parents[3]
SECONDS = 300  # on a machine that has other things to do
FILTER: dict[str, Any] = {"filter": {"tenant": "red"}}


class Server:
    """``ralmspec serve`` as a process, with two replicas that answer two at once."""

    def __init__(self, folder: Path) -> None:
        self.written = folder / "written"
        self.written.touch()
        self.http = openai.DefaultHttpxClient(timeout=SECONDS)
        self.log = folder / "log"
        self.url = f"http://127.0.0.1:{free_port()}"
        for _ in range(3):
            self.process = self._started()
            wait_until(lambda: self._is_ready() or self.process.poll() is not None)
            if self._is_ready():
                return
            # Ray gives its own processes 30 s, which is not enough on a busy machine.
            if "ray.exceptions" not in (said := self.log.read_text()):
                break
        raise AssertionError(said[-2000:])

    def _started(self) -> subprocess.Popen[bytes]:
        here = "tests.integration_tests.serve.served"
        with self.log.open("wb") as log:
            return subprocess.Popen(  # noqa: S603  our own command line
                [
                    *(sys.executable, "-c"),
                    "from langchain_ralmspec.cli import main; main()",
                    *("serve", f"{here}:make", "--replicas", "2"),
                    *("--port", self.url.rpartition(":")[2]),
                    *("--api-key-env", "KEY", "--tenant-filter", f"{here}:tenant_of"),
                    *("--max-ongoing-requests", "2", "--max-queued-requests", "4"),
                ],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "KEY": "secret",
                    WRITTEN: str(self.written),
                },
                stdout=log,
                stderr=log,
            )

    def _is_ready(self) -> bool:
        return f"{self.url}/v1" in self.log.read_text()

    def client(self, key: str = "secret", retries: int = 0) -> openai.OpenAI:
        """All share their connections, which the fixture closes."""
        url = f"{self.url}/v1"
        return openai.OpenAI(
            base_url=url, api_key=key, max_retries=retries, http_client=self.http
        )

    def chat(self, **settings: Any) -> ChatOpenAI:
        url = f"{self.url}/v1"
        settings |= {"model": MODEL, "base_url": url, "api_key": "secret"}
        settings |= {"http_client": self.http}
        return ChatOpenAI(**settings)

    def replicas(self) -> list[int]:
        """Processes of the replicas."""
        return BenchServer(self.process.pid, 0).replicas()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("serve"))
    with server.http:
        yield server
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(SECONDS) == 0


@pytest.fixture(scope="module")
def alone() -> Iterator[ChatRaLMSpec]:
    with make() as chat:
        yield chat


def test_answers_are_those_of_the_chat_model(
    server: Server, alone: ChatRaLMSpec
) -> None:
    own = alone.invoke(QUESTIONS[0], **FILTER)
    asked = server.chat().invoke(QUESTIONS[0])
    assert asked.content == own.text
    assert (
        asked.response_metadata["finish_reason"]
        == own.response_metadata["finish_reason"]
    )
    assert asked.usage_metadata is not None
    assert own.usage_metadata is not None
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert asked.usage_metadata[name] == own.usage_metadata[name]
    streamed = list(server.chat(stream_usage=True).stream(QUESTIONS[0]))
    assert "".join(str(chunk.content) for chunk in streamed) == own.text
    assert sum(bool(chunk.content) for chunk in streamed) > 1
    [usage] = [chunk.usage_metadata for chunk in streamed if chunk.usage_metadata]
    assert usage["total_tokens"] == own.usage_metadata["total_tokens"]


def test_documents_and_speculation_are_told(
    server: Server, alone: ChatRaLMSpec
) -> None:
    own = alone.invoke(QUESTIONS[1], **FILTER).response_metadata
    messages: Any = [{"role": "user", "content": QUESTIONS[1]}]
    client = server.client().chat.completions
    whole = client.create(model=MODEL, messages=messages).choices[0]
    *_, last = client.create(model=MODEL, messages=messages, stream=True)
    for choice in (whole, last.choices[0]):
        told = choice.model_extra or {}
        assert told["documents"] == own["documents"]
        assert told["speculation"]["steps"] > 1


def test_settings_and_schemas_are_heeded(server: Server, alone: ChatRaLMSpec) -> None:
    settings: dict[str, Any] = {"temperature": 0.9, "seed": 3, "top_p": 0.8}
    own = alone.invoke(QUESTIONS[2], max_tokens=9, stop=["the"], **settings, **FILTER)
    chat = server.chat(**settings, max_tokens=9)
    assert chat.invoke(QUESTIONS[2], stop=["the"]).content == own.text

    class Found(BaseModel):
        n: int

    for method in ("json_schema", "function_calling"):
        kind = server.chat(max_tokens=64).with_structured_output(Found, method=method)
        assert isinstance(kind.invoke(QUESTIONS[3]), Found)


def test_a_tenant_sees_its_own_documents(server: Server) -> None:
    def tenants(body: dict[str, Any], tenant: str) -> set[str]:
        choice = (
            server.client()
            .chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": QUESTIONS[4]}],
                extra_headers={"x-tenant": tenant},
                extra_body=body,
            )
            .choices[0]
        )
        told: Any = choice.model_extra
        return {each["metadata"]["tenant"] for each in told["documents"]}

    assert tenants({}, "blue") == {"blue"}
    assert tenants({}, "red") == {"red"}
    with pytest.raises(openai.BadRequestError, match="filter"):
        tenants({"filter": {"tenant": "red"}}, "blue")
    with pytest.raises(openai.PermissionDeniedError):
        tenants({}, "nobody")


def test_what_cannot_be_served_is_an_error_of_openai(server: Server) -> None:
    def ask(key: str = "secret", **settings: Any) -> Any:
        given: Any = {"model": MODEL, "messages": [{"role": "user", "content": "A?"}]}
        return server.client(key).chat.completions.create(**given | settings)

    with pytest.raises(openai.AuthenticationError):
        ask("wrong")
    with pytest.raises(openai.BadRequestError, match="n=2"):
        ask(n=2)
    with pytest.raises(openai.BadRequestError, match="another"):
        ask(model="another")
    with pytest.raises(openai.BadRequestError) as caught:
        ask(messages=[{"role": "user", "content": "word " * 5000}], stream=True)
    assert caught.value.code == "context_length_exceeded"
    [model] = server.client().models.list().data
    assert model.id == MODEL
    with urllib.request.urlopen(f"{server.url}/health") as health:  # noqa: S310  ours
        assert json.load(health) == {"replicas": 2}
    with pytest.raises(openai.NotFoundError):
        server.client().embeddings.create(model=MODEL, input="A")


def test_a_session_has_one_replica(server: Server) -> None:
    def replica(**settings: Any) -> Any:
        return (
            server.client()
            .chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": QUESTIONS[5]}],
                max_tokens=1,
                **settings,
            )
            .system_fingerprint
        )

    users = [{"user": f"{n}"} for n in range(16)]
    by_user = [replica(**user) for user in users]
    assert len(set(by_user)) == 2
    assert [replica(**user) for user in users] == by_user
    by_header = [
        replica(extra_headers={"x-session-id": u["user"]}, user="x") for u in users
    ]
    assert by_header == by_user


def long_stream(server: Server) -> Any:
    return server.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTIONS[6]}],
        max_tokens=LONG,
        stream=True,
    )


def test_who_leaves_ends_the_answer(server: Server) -> None:
    before = server.written.read_text().split()
    stream = long_stream(server)
    next(iter(stream))
    stream.close()
    wait_until(lambda: server.written.read_text().split() > before)
    [*_, n_pieces] = server.written.read_text().split()
    assert int(n_pieces) < LONG / 4


def test_what_is_too_much_is_refused(server: Server) -> None:
    n = 2 * 2 + 4
    streams = []
    with ThreadPoolExecutor(2 * n) as pool:
        begun = [pool.submit(long_stream, server) for _ in range(2 * n)]
        refused = []
        for each in as_completed(begun):
            try:
                stream = each.result()
            except openai.RateLimitError as error:
                refused.append(error)
            else:
                streams.append(stream)
                stream.close()
    assert len(refused) >= 1
    assert len(streams) + len(refused) == 2 * n
    assert refused[0].response.headers["retry-after"] == "1"
    assert refused[0].code == "too_many_requests"


def test_sessions_outlive_a_replica(server: Server, alone: ChatRaLMSpec) -> None:
    questions = [f"{question} ({n})" for n in range(2) for question in QUESTIONS[:20]]
    wanted = [alone.invoke(question, **FILTER).text for question in questions]
    doomed, _ = server.replicas()

    def ask(at: int) -> str | openai.APIError:
        try:
            stream = server.client(retries=20).chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": questions[at]}],
                user=f"{at % 8}",
                stream=True,
            )
            parts = [c.choices[0].delta.content or "" for c in stream if c.choices]
        except openai.APIError as error:
            return error
        finally:
            if at == len(questions) // 2:
                os.kill(doomed, signal.SIGKILL)
        return "".join(parts)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(len(questions))))
    assert doomed not in server.replicas()
    for answer, right in zip(answers, wanted, strict=True):
        if isinstance(answer, str):
            assert answer == right
        else:
            assert answer.code in {"replica_lost", "too_many_requests"}
    assert sum(isinstance(answer, str) for answer in answers) > len(questions) // 2
    for at in range(8):
        assert ask(at) == wanted[at]


def test_what_was_begun_is_finished_when_it_stops(
    server: Server, alone: ChatRaLMSpec
) -> None:
    """The last one here, for it stops the server."""
    n_tokens = 48
    stream = server.chat(max_tokens=n_tokens).stream(QUESTIONS[6])
    pieces = [next(stream).text]
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "finishing the answers" in server.log.read_text())
    pieces += [chunk.text for chunk in stream]
    assert (
        "".join(pieces)
        == alone.invoke(QUESTIONS[6], max_tokens=n_tokens, **FILTER).text
    )
    assert server.process.wait(SECONDS) == 0
