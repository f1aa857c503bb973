"""A server that answers once and then forks: its children answer, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_ralmspec import DecodeError
from langchain_ralmspec.engine import Model, binding
from langchain_ralmspec.engine.binding import library

_SCRIPT = """
import os, signal, sys
from langchain_core.documents import Document
from langchain_ralmspec import BM25Store, DecodeError, RaLMSpecLLM, RapidChain

gguf, timeout, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
store = BM25Store.from_documents([
    Document("A heap is a tree whose parents are smaller than their children."),
    Document("bisect keeps a list in sorted order without sorting it anew."),
])
llm = RaLMSpecLLM(
    model_path=gguf, retriever=store, max_tokens=16, n_threads=2, kv_cache_dir=folder
)
expected = llm.invoke("What is a heap?")
held = llm.engine.open(llm.get_token_ids("A heap is"))


def in_child():
    assert llm.invoke("What is a heap?") == expected
    try:
        held.extend([1])
    except DecodeError as error:
        assert "forked" in str(error)
    else:
        raise AssertionError("a context was used by two processes")
    llm.close()  # waits for what the child has written
    if os.fork():  # a child of a child
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    else:
        assert llm.invoke("What is a heap?") == expected
        os._exit(0)


for _ in range(2):
    child = os.fork()
    if not child:
        signal.alarm(timeout)  # ends a child that hangs
        try:
            in_child()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "a child failed"
    assert llm.invoke("What is a heap?") == expected
print("all answered")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_forked_process_answers_as_its_parent(gguf: str, tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603  our own script
        [sys.executable, "-c", _SCRIPT, gguf, "120", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        timeout=600,
    )
    assert done.stdout == "all answered\n", done.stderr


def test_a_gpu_is_not_shared_with_a_forked_process(
    gguf: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Model.load(gguf) is model
    monkeypatch.setattr(binding, "_first_process", os.getpid() - 1)
    assert Model.load(gguf) is model, "without a GPU"
    monkeypatch.setattr(library(), "llama_supports_gpu_offload", lambda: True)
    with pytest.raises(DecodeError, match=f"process {os.getpid() - 1}, .*'spawn'"):
        Model.load(gguf)
