"""Distance on one machine: a relay that makes a server answer as if far away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Self

from langchain_ralmspec.errors import StoreError

_STOP_SECONDS = 5.0


class Relay:
    """A port of this machine that leads to another one of it, ``latency`` away.

    Everything is delayed by ``latency`` seconds each way, so a round trip takes twice
    that. Chunks are under way together, as on a long cable. A process of its own does
    it: a thread would compete with the measured code for the interpreter. It ends with
    :meth:`stop`, with the ``with`` block, or when this process does. It leads nowhere
    else, for others could use it to get there.

    Raises:
        StoreError: the relay did not start.
    """

    def __init__(self, port: int, latency: float) -> None:
        self.host = "127.0.0.1"
        program = Path(__file__).with_name("relay_process.py")
        self._process = subprocess.Popen(  # noqa: S603  our own program
            [sys.executable, "-I", program, str(port), str(latency)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._pipes = self._process.stdin, self._process.stdout
        said = self._process.stdout.readline() if self._process.stdout else ""
        if not said:
            self.stop()
            raise StoreError(f"the relay to port {port} ended before it listened")
        self.port = int(said)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
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
