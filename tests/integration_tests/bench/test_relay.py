import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_ralmspec.bench.servers.relay import Relay
from langchain_ralmspec.bench.servers.relay_process import MAX_CONNECTIONS

LATENCY = 0.15


class Echo:
    """Gives back what it gets, and after the end of that says goodbye."""

    def __init__(self) -> None:
        self.accepted = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed
            self.accepted += 1
            threading.Thread(target=self._echo, args=[connection], daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)
            connection.sendall(b"bye")

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed by the test itself
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


def connect(relay: Relay) -> socket.socket:
    return socket.create_connection((relay.host, relay.port), timeout=10)


def receive(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size and (data := connection.recv(min(size, 1 << 16))):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def test_a_round_trip_takes_the_latency_twice_however_many_chunks(echo: Echo) -> None:
    with Relay(echo.port, LATENCY) as relay, connect(relay) as client:
        for _ in range(2):
            start = time.perf_counter()
            client.sendall(b"ping")
            assert receive(client, 4) == b"ping"
            assert 2 * LATENCY <= time.perf_counter() - start < 4 * LATENCY
        # In turn, the sixteen or more chunks of a megabyte would take seconds.
        sent = os.urandom(1 << 20)
        start = time.perf_counter()
        threading.Thread(target=client.sendall, args=[sent]).start()
        assert receive(client, len(sent)) == sent
        assert time.perf_counter() - start < 8 * LATENCY


def test_many_tiny_messages_keep_their_order_and_overlap(echo: Echo) -> None:
    with Relay(echo.port, LATENCY) as relay, connect(relay) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.perf_counter()
        for number in range(200):
            client.sendall(number.to_bytes(2, "big"))
            time.sleep(0.001)
        expected = b"".join(number.to_bytes(2, "big") for number in range(200))
        assert receive(client, 400) == expected
        assert time.perf_counter() - start < 20 * LATENCY


def test_one_side_may_finish_first_or_be_dead(echo: Echo) -> None:
    with Relay(echo.port, 0.01) as relay:
        with connect(relay) as client:
            client.sendall(b"last words")
            client.shutdown(socket.SHUT_WR)
            assert receive(client, 100) == b"last wordsbye"
        echo.close()
        with connect(relay) as client, contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""  # a reset is as good


def test_a_sender_waits_when_nobody_reads() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Relay(silent.getsockname()[1], 0.0) as relay,
        connect(relay) as client,
    ):
        client.settimeout(1.0)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(1 << 28))


def echoes(client: socket.socket) -> bool:
    """Whether a connection still leads anywhere."""
    try:
        client.sendall(b"x")
        return client.recv(1) == b"x"
    except (ConnectionResetError, BrokenPipeError):
        return False


def test_more_clients_than_it_serves_are_hung_up_on(echo: Echo) -> None:
    with Relay(echo.port, 0.0) as relay, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(relay)) for _ in range(MAX_CONNECTIONS)]
        assert all(map(echoes, clients))
        with connect(relay) as late:
            assert not echoes(late)
        clients[0].close()
        deadline = time.monotonic() + 10
        while True:  # until it is seen that there is room again
            with connect(relay) as next_one:
                if echoes(next_one):
                    break
            assert time.monotonic() < deadline, "a client that left keeps its place"


def test_stop_leaves_nothing(echo: Echo) -> None:
    relay = Relay(echo.port, 0.01)
    with connect(relay) as client:
        assert echoes(client)
        relay.stop()
        relay.stop()
        assert not echoes(client)
    with pytest.raises(ProcessLookupError):
        os.kill(relay._process.pid, 0)
    with pytest.raises(ConnectionRefusedError):
        connect(relay)


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import os, sys; from langchain_ralmspec.bench.servers.relay import Relay; "
        "relay = Relay(9, 0.0); "
        "print(relay._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    said = subprocess.run(  # noqa: S603  our own program
        [sys.executable, "-c", program], stdout=subprocess.PIPE, check=False
    )
    pid = int(said.stdout)
    deadline = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < deadline, "the relay outlives its parent"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        # Nobody may collect an orphan in a container: it then stays as a zombie.
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"
