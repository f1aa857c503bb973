"""Distance on one machine: a relay that makes a server answer as if far away."""

from __future__ import annotations

import ipaddress
import math
import subprocess
import sys
from pathlib import Path
from typing import Self

from langchain_ralmspec.errors import InvalidValueError, StoreError

MAX_LATENCY = 10.0
"""Seconds each way; no store is as far as that."""

_STOP_SECONDS = 5.0


class Relay:
    """A port of this machine that leads to another one, ``latency`` away.

    Everything is delayed by ``latency`` each way, so a round trip takes twice that.
    Chunks are under way together, as on a long cable. A process of its own does it:
    a thread would compete with the measured code for the interpreter. It ends with
    :meth:`stop`, with the ``with`` block, or when this process does.

    Attributes:
        host: where it listens.
        port: on which port.
        latency: seconds each way.
    """

    def __init__(self, host: str, port: int, latency: float) -> None:
        """Start to listen.

        Args:
            host: the server's address, on this machine: a relay to elsewhere could
                be used by others to get there.
            port: its port.
            latency: seconds each way.

        Raises:
            InvalidValueError: the address is not of this machine, or the port or the
                latency is out of range.
            StoreError: the relay did not start.
        """
        _check(host, port, latency)
        self.host = "127.0.0.1"
        self.latency = latency
        program = Path(__file__).with_name("relay_process.py")
        self._process = subprocess.Popen(  # noqa: S603  our own program
            [sys.executable, "-I", program, host, str(port), str(latency)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._pipes = self._process.stdin, self._process.stdout
        said = self._process.stdout.readline() if self._process.stdout else ""
        if not said:
            self.stop()
            raise StoreError(f"the relay to {host}:{port} ended before it listened")
        self.port = int(said)

    def __enter__(self) -> Self:
        """Do nothing more; it is listening."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop."""
        self.stop()

    def stop(self) -> None:
        """Hang up every connection and end; a second call does nothing."""
        for pipe in self._pipes:
            if pipe:
                pipe.close()  # the end of its standard input is its cue
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _check(host: str, port: int, latency: float) -> None:
    if not _is_loopback(host):
        raise InvalidValueError(
            f"a relay leads to this machine only, got the host {host!r}; "
            "use 127.0.0.1 or localhost"
        )
    if not 0 < port < 1 << 16:
        raise InvalidValueError(f"a port is between 1 and 65535, got {port}")
    if not (math.isfinite(latency) and 0 <= latency <= MAX_LATENCY):
        raise InvalidValueError(
            f"a latency is between 0 and {MAX_LATENCY:g} seconds, got {latency}"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
