"""Who writes now and who waits: in order, as many as may, and nobody for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context

import pytest

from langchain_ralmspec.engine import request_queue
from langchain_ralmspec.engine.request_queue import OPEN, RequestQueue
from langchain_ralmspec.engine.slots import is_abandoned
from langchain_ralmspec.errors import QueueFullError

WAIT = 20.0  # seconds after which something hangs


class Writer:
    """A thread that writes within a place until it is told to end."""

    def __init__(
        self,
        queue: RequestQueue,
        is_left: Callable[[], bool] | None = None,
        n_tokens: int = 0,
    ) -> None:
        self.queue, self.is_left, self.n_tokens = queue, is_left, n_tokens
        self.begun, self.end = threading.Event(), threading.Event()
        self.raised: BaseException | None = None
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.thread.start()

    def _write(self) -> None:
        if self.is_left:
            is_abandoned.set(self.is_left)
        try:
            with self.queue.place(self.n_tokens) as place, place.used():
                self.begun.set()
                assert self.end.wait(WAIT)
        except BaseException as error:  # noqa: BLE001  the test looks at it
            self.raised = error

    def ended(self) -> Writer:
        self.end.set()
        self.thread.join(WAIT)
        assert not self.thread.is_alive()
        return self


def waiting(queue: RequestQueue, n: int) -> None:
    """Wait until as many wait."""
    look = threading.Event()
    for _ in range(int(WAIT / 0.001)):
        if len(queue._waiting) == n:
            return
        look.wait(0.001)
    raise AssertionError(len(queue._waiting))


@pytest.fixture
def writers() -> Iterator[list[Writer]]:
    made: list[Writer] = []
    yield made
    for writer in made:
        writer.ended()


def begun(queue: RequestQueue, n: int) -> list[Writer]:
    made = [Writer(queue) for _ in range(n)]
    assert all(writer.begun.wait(WAIT) for writer in made)
    return made


def test_who_finds_no_place_waits_and_is_served_in_order(
    writers: list[Writer],
) -> None:
    queue = RequestQueue(lambda: 2, 5)
    writers += begun(queue, 2)
    for n in (1, 2, 3):
        writers.append(Writer(queue))
        waiting(queue, n)
    for number in range(3):
        assert not any(writer.begun.is_set() for writer in writers[number + 2 :])
        writers[number].ended()
        assert writers[number + 2].begun.wait(WAIT)


def test_the_shortest_of_those_that_wait_is_next(writers: list[Writer]) -> None:
    queue = RequestQueue(lambda: 1, 5)
    with queue.place(1):
        pass  # as long as a token takes
    queue._seconds = 1e6  # beside which it is nothing when they come
    writers += begun(queue, 1)
    for n, n_tokens in enumerate((90, 10, 50), 1):
        writers.append(Writer(queue, n_tokens=n_tokens))
        waiting(queue, n)
    for ended, served in ((0, 2), (2, 3), (3, 1)):
        assert not writers[served].begun.is_set()
        writers[ended].ended()
        assert writers[served].begun.wait(WAIT)


def test_nobody_is_overtaken_once_it_would_have_ended() -> None:
    queue = RequestQueue(lambda: 1, 5)
    queue._seconds, queue._n_tokens = 20.0, 10  # two a token
    asked = [(0.0, 5), (9.0, 1), (7.0, 1), (12.0, 0)]
    for came, n_tokens in asked:
        place = queue.place(n_tokens)
        place.came = came
        queue._waiting.append(place)
    assert [place.came for place in queue._in_line()] == [7.0, 0.0, 9.0, 12.0]


def test_one_more_than_may_wait_is_refused_and_told_why(
    writers: list[Writer],
) -> None:
    queue = RequestQueue(lambda: 2, 1)
    writers += begun(queue, 2)
    writers.append(Writer(queue))
    waiting(queue, 1)
    said = "^2 requests are being answered .* 1 wait, and max_queue=1 .*ask again once"
    with pytest.raises(QueueFullError, match=said), queue.place():
        pass
    writers[0].ended()
    assert writers[2].begun.wait(WAIT)
    writers.append(Writer(queue))
    waiting(queue, 1)


def test_with_none_allowed_nobody_waits(writers: list[Writer]) -> None:
    queue = RequestQueue(lambda: 1, 0)
    writers += begun(queue, 1)
    with pytest.raises(QueueFullError, match="max_queue=0"), queue.place():
        pass
    writers[0].ended()
    with queue.place():
        pass


@pytest.mark.parametrize("queue", [RequestQueue(lambda: 1, None), OPEN])
def test_without_a_bound_all_write_at_once(
    queue: RequestQueue, writers: list[Writer]
) -> None:
    writers += begun(queue, 4)


def test_who_leaves_while_it_waits_counts_no_more_and_its_thread_ends(
    writers: list[Writer],
) -> None:
    queue = RequestQueue(lambda: 1, 1)
    writers += begun(queue, 1)
    left = False
    leaver = Writer(queue, lambda: left)
    writers.append(leaver)
    waiting(queue, 1)
    left = True
    assert queue._in_line() == [], "at once, whatever its thread is at"
    leaver.thread.join(WAIT)
    assert isinstance(leaver.raised, GeneratorExit)
    assert queue._waiting == []
    assert not leaver.begun.is_set()
    writers.append(Writer(queue))
    waiting(queue, 1)  # and is not refused


def test_an_answer_that_fails_gives_its_place_back() -> None:
    queue = RequestQueue(lambda: 1, 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), queue.place() as place, place.used():
            raise ZeroDivisionError


def test_what_an_answer_asks_of_its_own_model_needs_no_place() -> None:
    """A retriever that asks the model, say; its searches are made by other threads."""
    queue, other = RequestQueue(lambda: 1, 0), RequestQueue(lambda: 1, 0)

    def nested() -> str:
        with other.place() as place, place.used(), queue.place():
            return "answered"

    with queue.place() as place:
        with place.used():
            assert nested() == "answered"
            context, made = copy_context(), list[str]()
            thread = threading.Thread(
                target=lambda: made.append(context.run(nested)), daemon=True
            )
            thread.start()
            thread.join(WAIT)
            assert made == ["answered"]
        with pytest.raises(QueueFullError), queue.place():
            pass  # of who reads the answer, it is another one


def test_a_place_whose_reader_does_not_come_back_is_lent(
    monkeypatch: pytest.MonkeyPatch, writers: list[Writer]
) -> None:
    queue = RequestQueue(lambda: 1, 1)
    with queue.place() as place:
        with place.used():
            writers.append(Writer(queue))
            waiting(queue, 1)
            monkeypatch.setattr(request_queue, "_PATIENCE", -1.0)  # is over at once
            assert not place.is_lent, "it is written"
        assert writers[0].begun.wait(WAIT)
        with place.used():  # goes on all the same, and counts again
            writers[0].ended()
            writers.append(Writer(queue))
            waiting(queue, 1)


def test_there_may_be_more_places_later(writers: list[Writer]) -> None:
    n_places = 1
    queue = RequestQueue(lambda: n_places, 1)
    writers += begun(queue, 1)
    writers.append(Writer(queue))
    waiting(queue, 1)
    n_places = 2
    assert writers[1].begun.wait(WAIT)
