"""Programs of ours that serve a port of this machine, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Self

from langchain_ralmspec.errors import StoreError

_STOP_SECONDS = 5.0


class Child:
    """A Python program that prints the port it listens on, and ends with its input.

    A thread would compete with the measured code for the interpreter. The program ends
    with :meth:`stop`, with the ``with`` block, or when this process does.

    Args:
        name: what it is, for the error.
        arguments: of the interpreter.

    Raises:
        StoreError: it ended before it listened; what it said is quoted.
    """

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.host = "127.0.0.1"
        # What can be imported here can be imported there.
        path = os.pathsep.join(folder for folder in sys.path if folder)
        with tempfile.TemporaryFile() as log:
            self._process = subprocess.Popen(  # noqa: S603  our own program
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )
            self._pipes = self._process.stdin, self._process.stdout
            port = self._process.stdout.readline() if self._process.stdout else ""
            if not port.strip().isdecimal():
                self.stop()
                log.seek(0)
                last = log.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
                said = port.strip() or last
                raise StoreError(f"{name} ended before it listened: {said!r}")
        self.port = int(port)

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
