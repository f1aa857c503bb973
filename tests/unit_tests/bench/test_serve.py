import os
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_ralmspec.bench.serve import Load, Outcome, Server, _ancestors
from langchain_ralmspec.errors import StoreError


def test_wrong_unanswered_and_typed_errors_are_told_apart() -> None:
    load = Load(Server(0, 0), "m", ["a", "b", "c", "d"], 2)
    load.began, load.killed = 0.0, 4.0
    load.outcomes = [
        Outcome("A", 10, None, is_typed=False, ended=1.0),
        Outcome("?", 20, None, is_typed=False, ended=2.0),
        Outcome("C", 5, "replica_lost", is_typed=True, ended=4.0),
        Outcome("", 0, "APIConnectionError", is_typed=False, ended=8.0),
    ]
    figures = load.figures(["A", "B", "C", "D"])
    assert (figures["wrong"], figures["unanswered"]) == (1, 1)
    assert figures["errors"] == {"replica_lost": 1, "APIConnectionError": 1}
    assert figures["tokens_per_second"] == {
        "first": 15.0,
        "steady": 2.5,
        "after_the_kill": 0.0,
    }
    assert not figures["summary"]["identical"]
    load.outcomes = load.outcomes[:1] + load.outcomes[2:3]
    assert load.figures(["A", "C"])["summary"]["identical"]


@pytest.mark.skipif(not Path("/proc").exists(), reason="only Linux has it")
def test_only_a_replica_of_the_server_is_killed() -> None:
    code = "import sys; sys.stdin.read()"
    title = "ray::ServeReplica:ralmspec:Replica"
    child = subprocess.Popen(  # noqa: S603  a Python that waits, by a replica's title
        [title, "-c", code], executable=sys.executable, stdin=subprocess.PIPE
    )
    try:
        assert next(_ancestors(child.pid)) == os.getpid()
        with pytest.raises(StoreError, match="no replica"):
            Server(child.pid, 0).kill_a_replica()
        assert child.poll() is None
        Server(os.getpid(), 0).kill_a_replica()
        assert child.wait() < 0
    finally:
        child.kill()
        child.communicate()
