"""A passage is read once: its KV is kept, also for other processes."""

from __future__ import annotations

import errno
import gc
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import pytest
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from langchain_ralmspec import (
    BM25Store,
    ChatRaLMSpec,
    ContextOverflowError,
    FaissStore,
    InvalidValueError,
    RaLMSpecLLM,
    RaLMSpecRetriever,
)
from langchain_ralmspec.engine import Model
from langchain_ralmspec.engine import model as engine
from langchain_ralmspec.engine.heads import LEAST_PART
from langchain_ralmspec.engine.prefix_folder import PrefixFolder
from tests.integration_tests.conftest import QUESTIONS, Corpus
from tests.unit_tests.cli.shell import run

N = 8
OWN_N_CTX = 1056  # a model that no other test holds
QUESTION = QUESTIONS[1]
SHORT = "A queue gives what came first. " * 12
LONG = "A heap is a tree whose parents are smaller than their children. " * 44


@pytest.fixture(scope="module")
def store(corpus: Corpus) -> RaLMSpecRetriever:
    index = faiss.IndexFlatIP(corpus.vectors.shape[1])
    index.add(corpus.vectors[:N])
    own = FaissStore(index, corpus.documents[:N], corpus.embeddings)
    return RaLMSpecRetriever(vectorstore=own)


@pytest.fixture(params=[RaLMSpecLLM, ChatRaLMSpec], ids=["llm", "chat"])
def make(request: Any, gguf: str, store: RaLMSpecRetriever) -> Any:
    own = {"model_path": gguf, "retriever": store, "n_ctx": OWN_N_CTX, "max_tokens": 12}
    return lambda **settings: request.param(**own | settings)


def told(face: Any, question: str = QUESTION) -> tuple[Any, Any]:
    """Tokens of an answer and what they stood on; and the counts."""
    run = face.start(question)
    list(run)
    steps = [(step.tokens, [hit.id for hit in step.hits]) for step in run.steps]
    return steps, run.stats


def unload(face: Any) -> None:
    """As after a restart: nothing of the model is left in memory."""
    face.close()
    gc.collect()
    assert not [key for key in engine._shared if OWN_N_CTX in key]


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_an_answer_is_the_same_with_a_folder_cold_warm_and_after_a_restart(
    make: Any, tmp_path: Path, kv_type: str
) -> None:
    expected, stats = told(make(speculation=False, kv_cache_bytes=0, kv_type=kv_type))
    assert stats.read_tokens > 0
    for speculation in (False, True):
        folder = tmp_path / str(speculation)
        face = make(speculation=speculation, kv_cache_dir=folder, kv_type=kv_type)
        assert told(face)[0] == expected
        face.engine.flush()
        face.engine.forget_prefixes()
        again, stats = told(face)
        assert again == expected
        assert stats.cached_tokens > 0
        if not speculation:  # else what is read depends on the clock
            assert stats.read_tokens == 0
        unload(face)
        assert told(face)[0] == expected
        face.close()


def test_a_kv_of_8_bits_takes_half_and_is_another(make: Any, tmp_path: Path) -> None:
    faces = [
        make(speculation=False, kv_cache_dir=tmp_path, kv_type=kv_type)
        for kv_type in ("f16", "q8_0")
    ]
    whole, half = (face.engine.kv_bytes(200) for face in faces)
    assert 0.5 < half / whole < 0.56
    for face in faces:  # neither finds what the other has kept
        assert told(face)[1].read_tokens > 0
        face.engine.flush()
    with pytest.raises(InvalidValueError, match=r"q8_0.*flash attention"):
        Model.load(
            faces[0].model_path, n_ctx=300, kv_type="q8_0", flash_attention=False
        )
    with pytest.raises(InvalidValueError, match=r"kv_type must be one of .*'q4'"):
        Model.load(faces[0].model_path, kv_type="q4")  # type: ignore[arg-type]


_SCRIPT = """
import sys
from langchain_core.documents import Document
from langchain_ralmspec import BM25Store, RaLMSpecLLM

gguf, folder, *texts = sys.argv[1:]
llm = RaLMSpecLLM(
    model_path=gguf,
    retriever=BM25Store.from_documents([Document(text) for text in texts]),
    speculation=False,
    max_tokens=12,
    kv_cache_dir=folder,
)
run = llm.start("What is a heap?")
print("".join(run), run.stats.read_tokens, sep="|", end="")
"""


def test_a_new_process_reads_no_passage_again(gguf: str, tmp_path: Path) -> None:
    texts = ["A heap is a tree.", "What is sorted is a list."]
    store = BM25Store.from_documents([Document(text) for text in texts])
    plain = RaLMSpecLLM(model_path=gguf, retriever=store, max_tokens=12)
    expected = "".join(plain.start("What is a heap?"))
    command = [sys.executable, "-c", _SCRIPT, gguf, str(tmp_path), *texts]
    start = partial(
        subprocess.run, check=True, capture_output=True, text=True, timeout=300
    )
    # The first one ends without a word, and its writer with it.
    first, second = (start(command).stdout.rsplit("|", 1) for _ in range(2))
    assert first[0] == second[0] == expected
    assert int(first[1]) > 0
    assert int(second[1]) == 0


def test_a_document_that_has_changed_is_read_anew(make: Any, tmp_path: Path) -> None:
    def over(text: str) -> dict[str, Any]:
        documents = [Document(text, id="1"), Document("Nothing of use.", id="2")]
        own = BM25Store.from_documents(documents)
        return {"retriever": own, "speculation": False}

    before, after = "What is a heap? A tree.", "What is a heap? A pile of hay."
    told(make(**over(before), kv_cache_dir=tmp_path), "What is a heap?")
    changed = make(**over(after), kv_cache_dir=tmp_path)
    steps, stats = told(changed, "What is a heap?")
    assert stats.read_tokens > 0
    assert steps == told(make(**over(after), kv_cache_bytes=0), "What is a heap?")[0]


def test_a_damaged_passage_is_read_anew(make: Any, tmp_path: Path) -> None:
    expected = told(make(speculation=False, kv_cache_bytes=0))[0]
    face = make(speculation=False, kv_cache_dir=tmp_path)
    told(face)
    face.close()
    for file in tmp_path.glob("*.kv"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.warns(RuntimeWarning, match="is damaged"):
        steps, stats = told(face)
    assert steps == expected
    assert stats.read_tokens > 0


def test_a_closed_face_has_written_all_and_its_writer_is_gone(
    make: Any, tmp_path: Path
) -> None:
    with make(kv_cache_dir=tmp_path) as face:
        told(face)
        n_kept = len(face.engine._prefixes._kept)
    assert len([*tmp_path.glob("*.kv")]) == n_kept > 0
    assert not [*tmp_path.glob("*.tmp")]
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("write-prefixes"):
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_warm_is_not_read_again(
    make: Any, corpus: Corpus, tmp_path: Path, *, folder: bool
) -> None:
    where = {"kv_cache_dir": tmp_path} if folder else {"kv_cache_bytes": 2**29 + 3}
    face, documents = make(speculation=False, **where), corpus.documents[:N]
    expected = told(make(speculation=False, kv_cache_bytes=0))[0]
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        face.warm(documents, progress)
    assert seen == [(done, N) for done in range(1, 4)]
    warmed = face.warm(documents)
    assert (warmed.documents, warmed.read_documents) == (N, N - 3)
    again = face.warm(documents)
    assert (again.documents, again.read_documents, again.read_tokens) == (N, 0, 0)
    if folder:
        unload(face)
        assert face.warm(iter(documents)).read_tokens == 0
    steps, stats = told(face)
    assert steps == expected
    assert stats.read_tokens == 0
    assert stats.cached_tokens > 0


def test_what_finds_no_room_is_left_out(
    make: Any, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 8_000_000
    small = partial(PrefixFolder, max_bytes=room)
    monkeypatch.setattr(engine, "PrefixFolder", small)
    for face in (make(kv_cache_dir=tmp_path, n_batch=300), make(kv_cache_bytes=room)):
        with pytest.warns(RuntimeWarning, match=f"of {N} documents were read.*{room}"):
            warmed = face.warm(corpus.documents[:N])
        assert 0 < warmed.documents < N
        first = face.warm(corpus.documents[: warmed.documents])
        assert first.read_tokens == 0, "all are there"
        face.engine.flush()
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= room
    with pytest.raises(InvalidValueError, match="kv_cache_bytes=0"):
        make(kv_cache_bytes=0).warm(["A text."])
    with pytest.raises(InvalidValueError, match="got 7"):
        face.warm([7])


BEHIND = ChatPromptTemplate.from_template("Read:\n{context}\nAnswer: {question}")
RIGHT_BEHIND = ChatPromptTemplate.from_template("Read:\n{context}\n{question}")
BEFORE = ChatPromptTemplate.from_template("Answer {question} by:\n{context}")


@pytest.mark.parametrize("template", [BEHIND, RIGHT_BEHIND])
def test_a_document_in_a_template_is_read_ahead(
    gguf: str, tmp_path: Path, template: ChatPromptTemplate
) -> None:
    store = BM25Store.from_documents([Document(LONG, id="long")])
    chat = ChatRaLMSpec.from_chain(
        model_path=gguf,
        retriever=store,
        prompt=template,
        documents_per_step=1,
        n_ctx=OWN_N_CTX,
        max_tokens=6,
        kv_cache_dir=tmp_path,
    )
    plain = chat.model_copy(update={"kv_cache_dir": None, "kv_cache_bytes": 0})
    expected = told(plain, "What is a heap?")[0]
    warmed = chat.warm([Document(LONG, id="long")])
    assert warmed.documents == 1
    steps, stats = told(chat, "What is a heap?")
    assert steps == expected
    assert stats.cached_tokens + stats.read_tokens == warmed.read_tokens
    # As many of them again as make one call of the question's tokens, at most.
    assert stats.read_tokens < LEAST_PART
    assert told(chat, "Is a heap a tree?")[1].read_tokens < LEAST_PART
    with pytest.raises(ContextOverflowError, match=r"'longer' takes \d+ tokens"):
        chat.warm([Document(LONG * 4, id="longer")])
    with pytest.raises(InvalidValueError, match="question stands in front"):
        chat.model_copy(update={"prompt": BEFORE}).warm([LONG])


def test_of_several_documents_the_first_one_is_there(gguf: str) -> None:
    found = [Document(SHORT, id="first"), Document(LONG, id="second")]
    chat = ChatRaLMSpec.from_chain(
        model_path=gguf,
        retriever=RunnableLambda(lambda _: found),
        prompt=BEHIND,
        n_ctx=OWN_N_CTX,
        max_tokens=6,
    )
    plain = chat.model_copy(update={"kv_cache_bytes": 0})
    expected = told(plain, "What is a heap?")[0]
    warmed = chat.warm(found[:1])
    assert warmed.documents == 1
    steps, stats = told(chat, "What is a heap?")
    assert steps == expected
    assert stats.cached_tokens == warmed.read_tokens > LEAST_PART
    with pytest.warns(RuntimeWarning, match="none is so long"):
        assert chat.warm(["A short text."]).documents == 0


@pytest.mark.parametrize("completion", [False, True])
def test_the_command_reads_what_its_model_then_finds(
    gguf: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, completion: bool
) -> None:
    texts, folder = tmp_path / "texts", str(tmp_path / "kv")
    texts.mkdir()
    for name in ("heap", "list"):
        (texts / f"{name}.txt").write_text(f"What is a {name}? A {name}.", "utf-8")
    command = ["warm", str(texts), "--model", gguf, "--kv-cache-dir", folder]
    command += ["--n-ctx", str(OWN_N_CTX)] + ["--completion"] * completion
    for n_read in (2, 0):
        assert not run(*command)
        said = capsys.readouterr().out
        assert said.startswith("2 passages of ")
        assert f"tokens of {n_read} passages read" in said
        assert f"{folder} has 2 of 2" in said
    found = [Document(file.read_text("utf-8")) for file in texts.iterdir()]
    face = (RaLMSpecLLM if completion else ChatRaLMSpec)(
        model_path=gguf,
        retriever=BM25Store.from_documents(found),
        n_ctx=OWN_N_CTX,
        max_tokens=1,
        kv_cache_dir=folder,
    )
    stats = told(face, "What is a heap?")[1]
    assert (stats.read_tokens, stats.cached_tokens > 0) == (0, True)


def test_a_folder_that_keeps_nothing_is_an_error_of_the_command(
    gguf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = tmp_path / "texts" / "a.txt", tmp_path / "kv"
    file.parent.mkdir()
    file.write_text("What is a heap? A heap.", "utf-8")
    command = ["warm", str(file.parent), "--model", gguf]
    command += ["--n-ctx", str(OWN_N_CTX), "--kv-cache-dir"]
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.warns(RuntimeWarning, match="others can put files there"):
        assert "kv' has not kept anything; the warning" in run(*command, str(folder))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PrefixFolder, "_write", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        said = run(*command, str(tmp_path / "other"))
    assert "other' has not kept any of 1 passages; the warning" in said
