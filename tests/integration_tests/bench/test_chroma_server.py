import os
import subprocess
import sys
from pathlib import Path

import chromadb
import pytest
from chromadb.config import Settings

from langchain_ralmspec.bench.servers.chroma import ChromaServer
from langchain_ralmspec.errors import MissingExtraError, StoreError


def test_it_answers_until_it_is_stopped(tmp_path: Path) -> None:
    with ChromaServer(tmp_path / "data") as server:
        settings = Settings(anonymized_telemetry=False)
        client = chromadb.HttpClient(server.host, server.port, settings=settings)
        assert client.list_collections() == []
        pid = server._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    server.stop()  # a second time
    assert (tmp_path / "data" / "chroma.sqlite3").is_file()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StoreError, match="Chroma server"):
        ChromaServer(file / "data")


def test_without_the_command_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"langchain-ralmspec\[chroma\]"):
        ChromaServer(tmp_path / "data")


def test_it_ends_with_the_program_that_forgot_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; "
        "from langchain_ralmspec.bench.servers.chroma import ChromaServer; "
        "server = ChromaServer(Path(sys.argv[1])); print(server._process.pid)"
    )
    said = subprocess.run(  # noqa: S603  our own program
        [sys.executable, "-c", program, str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        check=True,
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(said.stdout), 0)
