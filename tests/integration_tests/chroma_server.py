"""A real Chroma server, for tests that need one."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

START_SECONDS = 60.0


class ChromaServer:
    """``chroma run`` as a child process on a free port of this machine.

    Attributes:
        host: where it listens.
        port: on which port.
    """

    def __init__(self, folder: Path) -> None:
        self.host = "127.0.0.1"
        self.port = _free_port()
        command = Path(sys.executable).with_name("chroma")
        program = str(command) if command.exists() else shutil.which("chroma")
        assert program is not None, "the chroma command is not installed"
        arguments = ["run", "--path", str(folder), "--host", self.host]
        self._process = subprocess.Popen(  # noqa: S603 (our own command line)
            [program, *arguments, "--port", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server at once; a second call does nothing."""
        self._process.kill()
        self._process.wait()

    def _wait_until_ready(self) -> None:
        address = f"http://{self.host}:{self.port}/api/v2/heartbeat"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, "the Chroma server ended at once"
            try:
                with urllib.request.urlopen(address, timeout=1):
                    return
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(0.1)
        message = f"no Chroma server at {address} after {START_SECONDS} s"
        raise TimeoutError(message)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
