"""A real Chroma server on this machine."""

from __future__ import annotations

import atexit
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from langchain_ralmspec.errors import MissingExtraError, StoreError

START_SECONDS = 60.0


class ChromaServer:
    """``chroma run`` as a child process on a port of this machine, else a free one.

    It keeps its data in ``folder``, listens at ``host`` and ``port``, and ends with
    :meth:`stop`, with the ``with`` block, or when Python exits. Without the command
    ``chroma`` it is a ``MissingExtraError``, without an answer a ``StoreError``.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.host = "127.0.0.1"
        self.port = port or free_port()
        program = _program()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by stop()
        arguments = ["run", "--path", str(folder), "--host", self.host]
        self._process = subprocess.Popen(  # noqa: S603  our own command line
            [program, *arguments, "--port", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        atexit.register(self.stop)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server at once; a second call does nothing."""
        atexit.unregister(self.stop)
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _wait_until_ready(self) -> None:
        address = f"http://{self.host}:{self.port}/api/v2/heartbeat"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise StoreError(f"the Chroma server ended at once: {self._said()!r}")
            try:
                with urllib.request.urlopen(address, timeout=1):
                    return
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(0.1)
        raise StoreError(f"no Chroma server at {address} after {START_SECONDS:g} s")

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace").strip()


def _program() -> str:
    beside = Path(sys.executable).with_name("chroma")
    program = str(beside) if beside.exists() else shutil.which("chroma")
    if program is None:
        raise MissingExtraError.of("chromadb", "chroma")
    return program


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
