from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import pytest
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec.errors import InvalidValueError, StoreError
from langchain_ralmspec.scans import BATCHES, Scan
from langchain_ralmspec.stores.call_threads import CallThreads
from langchain_ralmspec.stores.faiss_index import FaissIndex
from langchain_ralmspec.stores.sharing import SharedLock, lock_of
from tests.unit_tests.stores.faiss_toys import N_ROWS, make_flat_l2
from tests.unit_tests.stores.toys import BatchTableEmbeddings, table


def entered(block: Callable[[], AbstractContextManager[None]]) -> threading.Event:
    """Set once another thread has entered the block, which it leaves at once."""
    inside = threading.Event()

    def enter() -> None:
        with block():
            inside.set()

    threading.Thread(target=enter, daemon=True).start()
    return inside


def test_searches_share_and_changes_do_not() -> None:
    lock = SharedLock()
    with lock.searching():
        assert entered(lock.searching).wait(20)
        changed = entered(lock.changing)
        while not lock._n_changes:  # it waits by now
            pass
        late = entered(lock.searching)
        assert not changed.is_set()
        assert not late.is_set(), "else a change would wait for ever"
    assert changed.wait(20)
    assert late.wait(20)
    with lock.changing():
        others = [entered(lock.searching), entered(lock.changing)]
        assert not any(other.is_set() for other in others)
    assert all(other.wait(20) for other in others)


def test_a_search_that_is_given_up_while_it_embeds_holds_nobody_up() -> None:
    lock, threads = SharedLock(), CallThreads(1, "test")
    embedding, goes_on = threading.Event(), threading.Event()

    def search() -> str:
        with lock.searching():
            with lock.embedding():
                embedding.set()
                goes_on.wait(20)
            return "searched"

    given_up = threads.start(search)
    assert embedding.wait(20)
    changed = entered(lock.changing)
    assert not changed.is_set()
    given_up.give_up()
    assert changed.wait(20)
    goes_on.set()
    with pytest.raises(StoreError, match="nobody waits"):
        given_up.result(20)
    assert lock._n_searches == 0
    assert threads.start(search).result(20) == "searched"
    assert lock._n_searches == 0


def test_a_search_that_is_given_up_later_is_waited_for() -> None:
    lock, threads = SharedLock(), CallThreads(1, "test")
    searching, goes_on = threading.Event(), threading.Event()

    def search() -> None:
        with lock.searching():
            with lock.embedding():
                pass
            searching.set()
            goes_on.wait(20)

    given_up = threads.start(search)
    assert searching.wait(20)
    given_up.give_up()
    changed = entered(lock.changing)
    while not lock._n_changes:
        pass
    assert not changed.is_set(), "it reads what would be changed"
    goes_on.set()
    assert changed.wait(20)


def test_a_thread_that_cannot_be_started_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = CallThreads(2, "test")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="new thread"):
                threads.start(lambda: 1)
    assert threads.start(lambda: 2).result(20) == 2
    # Each of two calls that are made at once has a thread, and none waits for another.
    barrier = threading.Barrier(2)
    calls = [threads.start(partial(barrier.wait, 20)) for _ in "ab"]
    assert sorted(call.result(20) for call in calls) == [0, 1]
    assert threads.close()


def refused(_: threading.Thread) -> None:
    msg = "can't start new thread"
    raise RuntimeError(msg)


def test_a_block_that_fails_lets_the_next_one_in() -> None:
    lock = SharedLock()
    for block in (lock.searching, lock.changing):
        with pytest.raises(ZeroDivisionError), block():
            _ = 1 / 0
    assert entered(lock.changing).wait(20)


def test_a_store_has_one_lock_and_can_be_pickled() -> None:
    one, other = (InMemoryVectorStore(BatchTableEmbeddings(table(1))) for _ in "ab")
    assert lock_of(one) is lock_of(one)
    assert lock_of(one) is not lock_of(other)
    assert pickle.loads(pickle.dumps(one)).store == {}  # noqa: S301
    assert lock_of([]) is not lock_of([]), "nothing to keep it by"


def test_a_search_may_search_but_not_change_what_it_looks_through() -> None:
    lock = SharedLock()
    with lock.searching():
        waiting = entered(lock.changing)
        while not lock._n_changes:
            pass
        with lock.searching():
            assert not waiting.is_set()
        with pytest.raises(InvalidValueError, match="cannot change"), lock.changing():
            pass
    assert waiting.wait(20)


def test_a_forked_process_may_use_an_index_that_another_thread_was_at() -> None:
    index = FaissIndex(make_flat_l2())
    index.raw.add(table(N_ROWS))
    with index._measuring, index._making, index._direct_map_lock:
        index.renew_locks()  # as after a fork
        assert index.max_norm(None) is not None
        index.prepare(None)
    assert not index._making.locked()


def test_a_forked_process_drops_a_scan_that_another_thread_was_at() -> None:
    scan = Scan(table(N_ROWS), "squared_l2", None)
    scan.chosen = dict.fromkeys(BATCHES, "numpy")
    scan.renew_locks()
    assert scan.chosen, "nobody was at it"
    with scan._lock:
        scan.renew_locks()
        assert not scan.chosen
        assert scan.follow(table(N_ROWS))


def test_a_forked_process_starts_free() -> None:
    lock = SharedLock()
    with lock.searching():
        lock.renew_locks()  # as after a fork
        assert lock._n_changes == lock._n_searches == 0
        with lock.searching(), pytest.raises(InvalidValueError), lock.changing():
            pass
    assert lock._n_searches == 0
    assert entered(lock.changing).wait(20)


def test_equal_stores_are_not_one() -> None:
    class Equal(InMemoryVectorStore):  # noqa: PLW1641  and it has no hash
        def __eq__(self, other: object) -> bool:
            return True

    one, other = (Equal(BatchTableEmbeddings(table(1))) for _ in "ab")
    assert lock_of(one) is lock_of(one)
    assert lock_of(one) is not lock_of(other)
