"""Whatever has happened to a saved file: the right answer, or an error by name."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import resource
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_ralmspec import BM25Store, KNNDatastore, RaLMSpecError, RaLMSpecRetriever
from langchain_ralmspec.assets.corpus import load_passages
from langchain_ralmspec.assets.embeddings import embed_cached
from langchain_ralmspec.engine.prefixes import PrefixCache
from langchain_ralmspec.knnlm.mixture import Mixture
from tests.integration_tests.fuzz import strategies as some
from tests.unit_tests.engine.snapshots import a_folder, a_snapshot, keep
from tests.unit_tests.knnlm.fakes import write_entries

N_VOCAB, DIMENSION = 50, 8
MIXTURE = Mixture(interpolation=0.5, temperature=1.0)
SPACE = 2**30
"""Bytes that may be asked for beside what the process has already."""

VALUES: list[Any] = [
    0,
    -1,
    2**31,
    2**63 - 1,
    10**30,
    1e308,
    True,
    None,
    "",
    [],
    {},
    [0],
    "a/b",
]

Edit = Callable[[bytes], bytes]


def at(place: float, data: bytes) -> int:
    return int(place * len(data))


def flipped(place: float, bit: int) -> Edit:
    def edit(data: bytes) -> bytes:
        where = at(place, data)
        byte = bytes([data[where] ^ 1 << bit]) if data else b""
        return data[:where] + byte + data[where + 1 :]

    return edit


def put(place: float, other: bytes, n_over: int) -> Edit:
    """Other bytes, over some of the file's own or between them."""

    def edit(data: bytes) -> bytes:
        where = at(place, data)
        return data[:where] + other + data[where + n_over :]

    return edit


def valued(place: float, value: Any) -> Edit:
    """Another value in the first line that is JSON, if there is one."""

    def edit(data: bytes) -> bytes:
        for whole in (data, *data.splitlines(keepends=True)[:1]):
            try:
                known = json.loads(whole)
            except ValueError:
                continue
            if isinstance(known, dict) and known:
                name = [*known][at(place, [*known])]  # type: ignore[arg-type]
                other = known[name]
                if isinstance(other, list) and other and value == [0]:
                    known[name] = [*other, *other]
                else:
                    known[name] = value
                text = json.dumps(known).encode()
                return data.replace(whole, text + b"\n" * whole.endswith(b"\n"))
        return data

    return edit


def headed(descr: str, shape: tuple[int, ...]) -> Edit:
    """The header of a NumPy file of other numbers, as many as one likes."""
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    text = repr(fields).encode().ljust(117) + b"\n"
    return lambda data: (
        b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data[128:]
    )


# Headers are at the beginning.
places = st.floats(0, 1, exclude_max=True) | st.floats(0, 0.05)
edits: st.SearchStrategy[Edit] = st.one_of(
    st.builds(flipped, places, st.integers(0, 7)),
    st.builds(lambda place: lambda data: data[: at(place, data)], places),
    st.builds(put, places, st.binary(max_size=16), st.sampled_from([0, 8, 200])),
    st.builds(put, places, st.just(b"\xff" * 7 + b"\x7f"), st.just(8)),
    st.builds(valued, places, st.sampled_from(VALUES)),
    st.builds(
        headed,
        st.sampled_from(["|O", "<f4", "<f2", "<i4", "<i8", "|V99"]),
        st.sampled_from([(10**12,), (2**62, 8), (0,), (300, 8), (), (1,) * 40]),
    ),
)


@dataclass(frozen=True, slots=True)
class Saved:
    """A folder of files, and what is answered from it."""

    folder: Path
    ask: Callable[[Path], Any]


@contextmanager
def little_memory() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + SPACE
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def no_pickle() -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> Any:
        pytest.fail("something is unpickled")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, name, refuse)
        yield


def outcome(
    saved: Saved, name: str, edit: Edit, finish: Callable[[Path], None] | None = None
) -> Any:
    """What is answered from a damaged copy; None for an error of ours."""
    with TemporaryDirectory() as root:
        copy = Path(root) / "copy"
        shutil.copytree(saved.folder, copy, copy_function=shutil.copy2)
        file = copy / name
        file.write_bytes(edit(file.read_bytes()))
        if finish:
            finish(copy)
        try:
            with little_memory(), no_pickle():
                return saved.ask(copy)
        except RaLMSpecError:
            return None


DOCUMENTS = [
    Document(f"A text of number {n}, and of {word}.", id=str(n), metadata={"n": n})
    for n, word in enumerate(["trees", "files", "threads", "故乡", "pipes"] * 8)
]


@pytest.fixture(scope="module")
def bm25(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("saved") / "bm25"
    BM25Store.from_documents(DOCUMENTS).save(folder)

    def ask(folder: Path) -> Any:
        retriever = RaLMSpecRetriever(vectorstore=BM25Store.load(folder), k=3)
        return retriever.batch(["files of trees", "number 7"])

    return Saved(folder, ask)


BM25_FILES = st.sampled_from(
    [
        "bm25_store.json",
        "documents.jsonl",
        "params.index.json",
        "vocab.index.json",
        "data.csc.index.npy",
        "indices.csc.index.npy",
        "indptr.csc.index.npy",
    ]
)


@some.examples(60)
@given(BM25_FILES, edits)
def test_a_store_of_words(bm25: Saved, name: str, edit: Edit) -> None:
    found = outcome(bm25, name, edit)
    assert found is None or found == bm25.ask(bm25.folder)


def forge(folder: Path) -> None:
    """Let the checksums be those of the files that are there."""
    manifest = folder / "bm25_store.json"
    try:
        said = json.loads(manifest.read_bytes())
        for name in said["sha256"]:
            data = (folder / name).read_bytes()
            said["sha256"][name] = hashlib.sha256(data).hexdigest()
    except (ValueError, LookupError, TypeError, OSError):
        return
    manifest.write_text(json.dumps(said))


@some.examples(100)
@given(BM25_FILES, edits)
def test_a_store_of_words_that_is_forged(bm25: Saved, name: str, edit: Edit) -> None:
    for found in outcome(bm25, name, edit, forge) or ():
        assert all(isinstance(document, Document) for document in found)


@pytest.fixture(scope="module", params=["flat", "ivf", "hnsw"])
def entries(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("saved") / "entries"
    random = np.random.default_rng(1)
    keys = random.normal(size=(300, DIMENSION)).astype(np.float32)
    write_entries(folder, keys, random.integers(0, N_VOCAB, 300))

    def ask(folder: Path) -> Any:
        store = KNNDatastore.load(folder, index=request.param)
        logits = np.zeros(N_VOCAB, np.float32)
        found = store.search(keys[:3], 4)
        written = [MIXTURE.log_probabilities(logits, each) for each in found]
        return [each.rows.tolist() for each in found], np.stack(written).tolist()

    ask(folder)  # which makes the index
    return Saved(folder, ask)


@pytest.mark.filterwarnings("ignore:.*(overflow|invalid)", "ignore:the index is in")
@some.examples(60)
@given(st.sampled_from(["datastore.json", "keys.npy", "tokens.npy", "index"]), edits)
def test_a_datastore(entries: Saved, kind: str, edit: Edit) -> None:
    names = sorted(file.name for file in entries.folder.iterdir())
    name = next((each for each in names if each.startswith(kind)), "datastore.json")
    found = outcome(entries, name, edit)
    if name.endswith(".npy"):  # a bit of millions of numbers is not looked for
        return
    assert found is None or found == entries.ask(entries.folder)


PREFIX = ((1, 2), (3, 4), (5,))


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("saved") / "kv"
    snapshot = keep(a_folder(folder), *PREFIX)
    assert snapshot.state.tolist() == a_snapshot((1, 2, 3, 4, 5)).state.tolist()

    def ask(folder: Path) -> Any:
        is_sound = lambda snapshot: snapshot.length == 5  # noqa: E731  as llama.cpp says
        for parts in (PREFIX, PREFIX[:1]):
            cache = PrefixCache(3000, a_folder(folder), is_sound)
            heads = cache.heads(parts)
            n, found = cache.longest(heads)
            assert (n == len(parts)) == (found is not None)
            if found is not None:
                assert found.length == 5
                assert found.state.tolist() == snapshot.state.tolist()
            for other in range(3):  # what was found leaves the memory
                cache.put(cache.heads([(other,)]), a_snapshot((other,)))
            cache.flush()

    return Saved(folder, ask)


@some.examples(80)
@given(st.sampled_from([".kv", ".head"]), edits)
@example(".kv", valued(0.99, [0]))  # all of its heads twice
def test_a_folder_of_prefixes(prefixes: Saved, kind: str, edit: Edit) -> None:
    name = min(file.name for file in prefixes.folder.iterdir() if file.suffix == kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that one is ignored
        outcome(prefixes, name, edit)


TEXTS = [document.page_content for document in DOCUMENTS]
EMBEDDINGS = DeterministicFakeEmbedding(size=DIMENSION)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("saved") / "vectors"
    ask = partial(embed_cached, TEXTS, EMBEDDINGS, "m")
    ask(folder)
    return Saved(folder, ask)


@some.examples(40)
@given(st.sampled_from([".json", ".npy"]), edits)
def test_a_cache_of_embeddings(vectors: Saved, kind: str, edit: Edit) -> None:
    name = next(file.name for file in vectors.folder.iterdir() if file.suffix == kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is discarded
        rows = outcome(vectors, name, edit)
    assert rows.tolist() == vectors.ask(vectors.folder).tolist()


LINES = "".join(
    f"{json.dumps({'id': d.id, 'text': d.page_content})}\n" for d in DOCUMENTS
)


@some.examples(80)
@given(st.sampled_from(["a.jsonl", "a.jsonl.gz"]), edits, edits)
def test_a_corpus(
    tmp_path_factory: pytest.TempPathFactory, name: str, one: Edit, other: Edit
) -> None:
    folder = tmp_path_factory.mktemp("saved")
    data = one(LINES.encode())
    (folder / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    saved = Saved(folder, lambda copy: load_passages(copy / name))
    for passage in outcome(saved, name, other) or ():
        assert passage.text.encode()
