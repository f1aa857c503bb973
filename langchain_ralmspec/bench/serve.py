"""``ralmspec bench serve``: replicas under load, of which one is killed half-way."""

from __future__ import annotations

import collections
import importlib.util
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from langchain_core.documents import Document
from rich.console import Console

from langchain_ralmspec.assets.corpus import many_questions, stdlib_passages
from langchain_ralmspec.assets.progress import bar
from langchain_ralmspec.assets.targets import find_gguf
from langchain_ralmspec.bench.figures import check_file, say, write_figures
from langchain_ralmspec.bench.options import JsonOption, LengthOption, ModelOption
from langchain_ralmspec.bench.servers.chroma import free_port
from langchain_ralmspec.bench.table import new_table
from langchain_ralmspec.chat_models import ChatRaLMSpec
from langchain_ralmspec.errors import MissingExtraError, StoreError
from langchain_ralmspec.stores.bm25_store import BM25Store

START_SECONDS = 600.0

_TITLE = b"ray::ServeReplica:ralmspec:Replica"
"""What Ray calls the process of a replica."""


def chat_of(model_path: str, max_tokens: int) -> ChatRaLMSpec:
    """Make the chat model that is served, and that answers alone."""
    passages = [Document(each.text, id=each.id) for each in stdlib_passages()]
    return ChatRaLMSpec(
        retriever=BM25Store.from_documents(passages),
        model_path=model_path,
        max_tokens=max_tokens,
        n_threads=1,
    )


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Ask replicas at the same time, and kill one half-way."""

    requests: Annotated[int, typer.Option(help="Streamed requests.", min=2)] = 200
    clients: Annotated[int, typer.Option(help="That ask at once.", min=1)] = 16
    replicas: Annotated[int, typer.Option(help="Of the model.", min=2)] = 2
    model: ModelOption = "smollm2-135m"
    max_tokens: LengthOption = 32
    json: JsonOption = None

    def run(self) -> dict[str, Any]:
        """Answer each question alone, then all from the replicas; compare."""
        check_file(self.json)
        for module, extra in (("openai", "bench"), ("ray", "serve")):
            if importlib.util.find_spec(module) is None:
                raise MissingExtraError.of(module, extra)
        questions = many_questions(self.requests)
        path = find_gguf(self.model)
        with chat_of(path, self.max_tokens) as alone, bar("alone") as advance:
            wanted = []
            for at, question in enumerate(questions, 1):
                wanted.append(alone.invoke(question).text)
                advance(at, len(questions))
        with _server(path, self.max_tokens, self.replicas) as server:
            load = Load(server, Path(path).stem, questions, self.clients)
            load.run()
        figures = load.figures(wanted)
        _report(figures)
        if self.json:
            write_figures(self.json, figures)
        return figures


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: its process, and its port of this machine."""

    pid: int
    port: int

    def replicas(self) -> list[int]:
        """Processes of its replicas, by the titles that Ray gives them; on Linux."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended meanwhile
                is_replica = (folder / "cmdline").read_bytes().startswith(_TITLE)
                if is_replica and self.pid in _ancestors(int(folder.name)):
                    found.append(int(folder.name))
        return found

    def kill_a_replica(self) -> None:
        """End one of its replicas without warning."""
        if not (replicas := self.replicas()):
            msg = f"the server {self.pid} has no replica; is this Linux?"
            raise StoreError(msg)
        os.kill(replicas[0], signal.SIGKILL)


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        status = Path(f"/proc/{pid}/stat").read_text()
        pid = int(status.rpartition(")")[2].split()[1])
        yield pid


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended: with an answer, or an error by its name."""

    text: str
    tokens: int
    error: str | None
    is_typed: bool
    ended: float


@dataclass(slots=True)
class Load:
    """Requests from several clients, of which the middle one kills a replica."""

    server: Server
    model: str
    questions: Sequence[str]
    clients: int
    outcomes: list[Outcome] = field(default_factory=list)
    began: float = 0.0
    killed: float = 0.0

    def run(self) -> None:
        """Ask all questions, as many at once as there are clients."""
        self.began = time.perf_counter()
        ended = itertools.count(1)
        killing = threading.Lock()

        def ask(at: int) -> Outcome:
            outcome = self._asked(at)
            with killing:
                if next(ended) == len(self.questions) // 2:
                    self.server.kill_a_replica()
                    self.killed = time.perf_counter()
            return outcome

        with ThreadPoolExecutor(self.clients) as pool:
            self.outcomes = list(pool.map(ask, range(len(self.questions))))

    def _asked(self, at: int) -> Outcome:
        import openai

        url = f"http://127.0.0.1:{self.server.port}/v1"
        text, tokens, name, is_typed = "", 0, None, False
        try:
            with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
                for chunk in client.chat.completions.create(
                    model=self.model,
                    messages=[{"role": "user", "content": self.questions[at]}],
                    user=f"{at % self.clients}",
                    stream=True,
                    stream_options={"include_usage": True},
                ):
                    text += "".join(each.delta.content or "" for each in chunk.choices)
                    tokens += chunk.usage.completion_tokens if chunk.usage else 0
        except openai.APIError as error:
            name, is_typed = error.code or type(error).__name__, bool(error.code)
        return Outcome(text, tokens, name, is_typed, time.perf_counter())

    def figures(self, wanted: Sequence[str]) -> dict[str, Any]:
        """What was asked, what came back, and how fast."""
        pairs = list(zip(self.outcomes, wanted, strict=True))
        errors = [each for each in self.outcomes if each.error is not None]
        wrong = sum(each.error is None and each.text != text for each, text in pairs)
        unanswered = sum(not each.is_typed for each in errors)
        ends = sorted(each.ended for each in self.outcomes)
        first = ends[min(self.clients, len(ends)) - 1]
        return {
            "requests": len(self.questions),
            "clients": self.clients,
            "wrong": wrong,
            "unanswered": unanswered,
            "errors": dict(collections.Counter(each.error for each in errors)),
            "tokens_per_second": {
                "first": self._rate(self.began, first),
                "steady": self._rate(first, self.killed),
                "after_the_kill": self._rate(self.killed, ends[-1]),
            },
            # Of the answers that there are: see ``errors``.
            "summary": {"identical": not wrong and not unanswered},
        }

    def _rate(self, start: float, end: float) -> float | None:
        """Tokens a second of the answers that ended within a time."""
        tokens = sum(o.tokens for o in self.outcomes if start < o.ended <= end)
        return tokens / (end - start) if end > start else None


@contextmanager
def _server(model_path: str, max_tokens: int, replicas: int) -> Iterator[Server]:
    """``ralmspec serve``, from when it is ready."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        Path(folder, "app.py").write_text(
            "from functools import partial\n"
            "from langchain_ralmspec.bench.serve import chat_of\n"
            f"chat = partial(chat_of, {model_path!r}, {max_tokens})\n",
            "utf-8",
        )
        run = "from langchain_ralmspec.cli import main; main()"
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603  our own command line
                [
                    *(sys.executable, "-c", run, "serve", "app:chat"),
                    *("--replicas", f"{replicas}", "--port", f"{port}"),
                ],
                cwd=folder,
                stdout=file,
                stderr=file,
            )
        try:
            deadline = time.monotonic() + START_SECONDS
            while f":{port}/v1" not in (said := log.read_text("utf-8", "replace")):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise StoreError(f"the server did not start: {said[-2000:]}")
                time.sleep(0.5)
            yield Server(process.pid, port)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _report(figures: dict[str, Any]) -> None:
    table = new_table("A replica is killed half-way", "", "")
    for name in ("requests", "clients", "wrong", "unanswered"):
        table.add_row(name, f"{figures[name]}")
    for name, n in figures["errors"].items():
        table.add_row(f"error {name}", f"{n}")
    for name, rate in figures["tokens_per_second"].items():
        told = "" if rate is None else f"{rate:.1f}"
        table.add_row(f"tokens/s, {name.replace('_', ' ')}", told)
    Console().print(table)
    say("wrong: unlike the lone answer; unanswered: ended without an error by name")
