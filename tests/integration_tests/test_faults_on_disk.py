"""Processes that are killed while they write, and disks that take no more."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from langchain_core.documents import Document

from langchain_ralmspec import BM25Store, KNNDatastore, StoreError

pytest.importorskip("resource", reason="files of any size there")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TEXT = "A list is sorted by its method sort, in place. " * 9

# Dies as by `kill -9`, just before a file or folder takes its place for the nth time.
_DIES = """
import os, sys
left = [{nth}]
def hook(event, arguments):
    if event == "os.rename":
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), 9)
sys.addaudithook(hook)
"""
_FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({n_bytes}, {n_bytes}))
"""
_BM25 = """
from langchain_core.documents import Document
from langchain_ralmspec import BM25Store
BM25Store.from_documents([Document(page_content="new " * 9999)]).save("store")
"""
_DATASTORE = """
from langchain_ralmspec import KNNDatastore
KNNDatastore.build(["another text"], model_path={gguf!r}, path="store")
"""
_APPEND = """
import os
from langchain_ralmspec import KNNDatastore
store = KNNDatastore.load("store")
def die(*_):
    os.kill(os.getpid(), 9)
store.append([{text!r}] * 9, model_path={gguf!r}, progress=die)
"""
_KV = """
from langchain_ralmspec import RapidChain
chain = RapidChain(
    model_path={gguf!r}, n_ctx=640, max_tokens=4, kv_cache_dir="kv"
)
with chain:
    print(chain.invoke({{"question": "What?", "context": {text!r}}})["answer"])
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  our own
        [sys.executable, "-c", code],
        cwd=folder,
        env={
            "PYTHONPATH": str(ROOT),
            "PATH": "",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # or a full disk cuts these, for good
        },
        timeout=300,
        capture_output=True,
        text=True,
        check=False,
    )


def texts_of(folder: Path) -> list[str]:
    store = BM25Store.load(folder)
    return [
        hit.document.page_content for hit in store.search(store.encode(["old"]), 9)[0]
    ]


@pytest.mark.parametrize("nth", [1, 2])
def test_a_killed_save_leaves_the_older_store(nth: int, tmp_path: Path) -> None:
    BM25Store.from_documents([Document(page_content="old")]).save(tmp_path / "store")
    ended = run(_DIES.format(nth=nth) + _BM25, tmp_path)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    # Killed while the two change places, it lies beside it.
    (left,) = [tmp_path / "store"] if nth == 1 else tmp_path.glob(".store.*.old")
    assert texts_of(left) == ["old"]
    if nth == 2:
        with pytest.raises(StoreError, match="store"):
            BM25Store.load(tmp_path / "store")
    assert run(_BM25, tmp_path).returncode == 0
    assert BM25Store.load(tmp_path / "store").count() == 1
    assert texts_of(tmp_path / "store") != ["old"]


def test_a_save_on_a_full_disk_leaves_the_older_store(tmp_path: Path) -> None:
    BM25Store.from_documents([Document(page_content="old")]).save(tmp_path / "store")
    ended = run(_FULL.format(n_bytes=2000) + _BM25, tmp_path)
    assert "StoreError: BM25Store failed to save to 'store'" in ended.stderr
    assert "File too large" in ended.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["store"]
    assert texts_of(tmp_path / "store") == ["old"]


def test_a_killed_build_leaves_the_older_datastore(gguf: str, tmp_path: Path) -> None:
    older = KNNDatastore.build([TEXT], model_path=gguf, path=tmp_path / "store")
    # The first to take its place is what was read, the last the whole folder.
    ended = run(_DIES.format(nth=1) + _DATASTORE.format(gguf=gguf), tmp_path)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(KNNDatastore.load(tmp_path / "store")) == len(older)


def test_a_killed_append_leaves_the_older_datastore(gguf: str, tmp_path: Path) -> None:
    older = KNNDatastore.build([TEXT], model_path=gguf, path=tmp_path / "store")
    n_entries = len(older)
    ended = run(_APPEND.format(gguf=gguf, text=TEXT), tmp_path)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    again = KNNDatastore.load(tmp_path / "store")
    assert len(again) == n_entries
    again.append([TEXT], model_path=gguf)
    assert len(KNNDatastore.load(tmp_path / "store")) == 2 * n_entries


def test_kv_that_a_killed_process_left_is_not_read(gguf: str, tmp_path: Path) -> None:
    code = _KV.format(gguf=gguf, text=TEXT)
    ended = run(_DIES.format(nth=1) + code, tmp_path)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not list((tmp_path / "kv").glob("*.kv")), "it was killed before"
    first = run(code, tmp_path)
    assert first.returncode == 0, first.stderr
    assert list((tmp_path / "kv").glob("*.kv"))
    assert run(code, tmp_path).stdout == first.stdout != ""


def test_kv_on_a_full_disk_is_done_without(gguf: str, tmp_path: Path) -> None:
    code = _KV.format(gguf=gguf, text=TEXT)
    told = run(_FULL.format(n_bytes=10_000) + code, tmp_path)
    assert told.returncode == 0, told.stderr
    assert "RuntimeWarning" in told.stderr
    assert "File too large" in told.stderr
    assert not list((tmp_path / "kv").glob("*.kv"))
    assert run(code, tmp_path).stdout == told.stdout != ""
