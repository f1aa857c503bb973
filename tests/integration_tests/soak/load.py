"""Who asks what, how they leave, and what became of their requests."""

from __future__ import annotations

import asyncio
import os
import random
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage

from langchain_ralmspec import documents_of

N_REQUESTS = int(os.environ.get("SOAK_REQUESTS", "60"))
"""How many to send; `make soak` sends 1,000."""

SEED = int(os.environ.get("SOAK_SEED", "20"))
"""Which requests are sent, and in which order."""

IS_LONG = N_REQUESTS > 100
N_THREADS, N_TASKS = (32, 64) if IS_LONG else (8, 16)

TENANTS = ("red", "blue")

# Of ten requests one is cancelled and one abandoned.
_WAYS = [*["invoke"] * 4, *["stream"] * 4, "cancel", "abandon"]
_N_HELD = 4  # abandoned streams that a slow reader has open


@dataclass(frozen=True)
class Question:
    """What a face is asked, and on whose behalf."""

    face: str
    text: str
    tenant: str


@dataclass
class Answer(BaseCallbackHandler):
    """What somebody has been given, and has seen in a trace."""

    question: Question
    is_whole: bool = False
    text: str = ""
    documents: list[str] = field(default_factory=list)  # their ids
    tenants: set[str] = field(default_factory=set)  # whose documents were seen

    def on_retriever_end(self, documents: Any, **_: Any) -> None:
        self._see(documents)

    def take(self, piece: Any) -> None:
        """Take in a chunk of an answer, or all of it."""
        self.text += piece.text if isinstance(piece, BaseMessage) else piece
        if isinstance(piece, AIMessage) and "documents" in piece.response_metadata:
            found = documents_of(piece)
            self.documents += [str(each.id) for each in found]
            self._see(found)

    def _see(self, documents: Any) -> None:
        self.tenants |= {each.metadata["tenant"] for each in documents}


@dataclass(frozen=True)
class Request:
    """A question, and how whoever asks it goes on.

    Attributes:
        face: a model.
        question: it is asked.
        way: ``invoke`` and ``stream`` read all, ``cancel`` leaves in the midst,
            ``abandon`` reads on no more but keeps the stream for a while.
        n_read: pieces that are read by who leaves.
        seconds: until a task is cancelled.
    """

    face: Any
    question: Question
    way: str
    n_read: int = 0
    seconds: float = 0.0

    def begin(self) -> tuple[Answer, dict[str, Any]]:
        """An empty answer, and what is given along with the question."""
        answer = Answer(self.question)
        given: dict[str, Any] = {"config": {"callbacks": [answer]}}
        tenant = self.question.tenant
        if self.question.face == "completion":  # a filter that nobody else has
            given["filter"] = lambda metadata: metadata["tenant"] == tenant
        elif self.question.face in {"chat", "once"}:
            given["filter"] = {"tenant": tenant}
        return answer, given

    def ask(self, held: deque[Any] | None = None) -> Answer:
        """Ask in this thread; what is abandoned goes to what is held."""
        answer, given = self.begin()
        if self.way == "invoke":
            answer.take(self.face.invoke(self.question.text, **given))
            answer.is_whole = True
            return answer
        pieces: Iterator[Any] = self.face.stream(self.question.text, **given)
        for number, piece in enumerate(pieces):
            answer.take(piece)
            if self.way != "stream" and number == self.n_read:
                break
        else:
            answer.is_whole = True
        if self.way == "cancel":
            pieces.close()  # type: ignore[attr-defined]  # it is a generator
        elif held is not None:
            held.append(pieces)
        return answer

    async def aask(self, held: deque[Any]) -> Answer:
        """Ask in a task."""
        answer, given = self.begin()
        if self.way in {"invoke", "cancel"}:
            asked = self.face.ainvoke(self.question.text, **given)
            task = asyncio.create_task(asked)
            if self.way == "cancel":
                await asyncio.wait([task], timeout=self.seconds)
                task.cancel()
            with suppress(asyncio.CancelledError):
                answer.take(await task)
                answer.is_whole = True
            return answer
        pieces: AsyncIterator[Any] = self.face.astream(self.question.text, **given)
        number = 0
        async for piece in pieces:
            answer.take(piece)
            number += 1
            if self.way == "abandon" and number > self.n_read:
                held.append(pieces)
                return answer
        answer.is_whole = True
        return answer


def requests_of(
    faces: dict[str, Any], questions: list[Question], seed: int
) -> list[Request]:
    """As many as are to be sent, drawn by a seed."""
    rng = random.Random(seed)  # noqa: S311  not a secret
    ways: list[str] = []
    while len(ways) < N_REQUESTS:
        ways += rng.sample(_WAYS, len(_WAYS))
    drawn = [rng.choice(questions) for _ in range(N_REQUESTS)]
    return [
        Request(faces[each.face], each, way, rng.randrange(6), rng.uniform(0, 2))
        for each, way in zip(drawn, ways, strict=False)
    ]


def answers_to(requests: list[Request]) -> list[Answer]:
    """Send half of them from threads and half from tasks, all at once."""
    held: deque[Any] = deque(maxlen=_N_HELD)
    with ThreadPoolExecutor(N_THREADS) as pool:
        made = [pool.submit(each.ask, held) for each in requests[::2]]
        answers = asyncio.run(_answered(requests[1::2]))
        return answers + [each.result() for each in made]


async def _answered(requests: list[Request]) -> list[Answer]:
    held: deque[Any] = deque(maxlen=_N_HELD)
    rest = iter(requests)

    async def task() -> list[Answer]:
        return [await each.aask(held) for each in rest]

    several = await asyncio.gather(*(task() for _ in range(N_TASKS)))
    return [answer for answers in several for answer in answers]
