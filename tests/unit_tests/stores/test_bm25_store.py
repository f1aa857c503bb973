from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_ralmspec.errors import (
    InvalidValueError,
    MissingExtraError,
    StoreError,
)
from langchain_ralmspec.stores import BM25Store, open_store
from langchain_ralmspec.stores.bm25_index import BM25Index

PLAIN: dict[str, Any] = {"stopwords": None, "stemmer": None}
# Few words, so that texts repeat them and scores are often equal.
words = st.sampled_from(["aa", "bb", "cc", "dd", "ee"])
texts = st.lists(words, max_size=8).map(" ".join)
corpora = st.lists(texts, min_size=1, max_size=30).filter(any)
queries = st.lists(words | st.just("unknown"), max_size=8).map(" ".join)


def documents_of(contents: list[str]) -> list[Document]:
    """Ids in an order of their own, so that no place can pass for an id."""
    n = len(contents)
    return [
        Document(id=f"id{(7 * place + 3) % 31:02}", page_content=content)
        for place, content in zip(range(n), contents, strict=True)
    ]


def reference(
    documents: list[Document], query: str, k1: float = 0.9, b: float = 0.4
) -> dict[str, float]:
    """BM25 as Lucene has it, from its formula, in plain Python floats."""
    split = {str(doc.id): doc.page_content.split() for doc in documents}
    n = len(split)
    average = sum(map(len, split.values())) / n
    scores = dict.fromkeys(split, 0.0)
    for word in query.split():
        df = sum(word in found for found in split.values())
        idf = math.log(1 + (n - df + 0.5) / (df + 0.5))
        for id_, found in split.items():
            tf = found.count(word)
            length = k1 * (1 - b + b * len(found) / average)
            scores[id_] += idf * tf / (tf + length) if tf else 0.0
    return scores


def store_of(contents: list[str], **options: Any) -> BM25Store:
    return BM25Store.from_documents(documents_of(contents), **PLAIN, **options)


def found_ids(store: BM25Store, query: str, k: int) -> list[str]:
    return [hit.id for hit in store.search(store.encode([query]), k)[0]]


@settings(max_examples=200)
@given(corpora, queries, st.integers(1, 40), st.sampled_from([(0.9, 0.4), (1.5, 0.75)]))
def test_scores_and_order_are_those_of_the_formula(
    contents: list[str], query: str, k: int, parameters: tuple[float, float]
) -> None:
    k1, b = parameters
    store = store_of(contents, k1=k1, b=b)
    (hits,) = store.search(store.encode([query]), k)

    expected = reference(documents_of(contents), query, k1, b)
    assert len(hits) == min(k, sum(score > 0 for score in expected.values()))
    for hit in hits:
        assert hit.score == pytest.approx(expected[hit.id], rel=1e-5, abs=1e-6)
    # None that was left out is better than one that was found.
    left_out = [expected[id_] for id_ in expected if id_ not in {h.id for h in hits}]
    assert max(left_out, default=0) <= (hits[-1].score + 1e-5 if hits else 0)
    # Equal scores are in the order of their ids, at the cut as well.
    assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.id))
    everything = store.search(store.encode([query]), len(contents))[0]
    assert hits == everything[:k]


def test_a_cut_among_thousands_is_exact() -> None:
    # More rows than blocks of them: the short way to the best must lose none.
    generator = np.random.default_rng(0)
    vocabulary = np.array([f"w{number:03}" for number in range(300)])
    documents = [
        Document(id=f"{number:04}", page_content=" ".join(chosen))
        for number, chosen in enumerate(generator.choice(vocabulary, (3000, 12)))
    ]
    store = BM25Store.from_documents(documents, **PLAIN)
    for chosen in generator.choice(vocabulary, (20, 6)):
        (query,) = store.encode([" ".join(chosen)])
        everything = store.search([query], 3000)[0]
        assert everything == sorted(everything, key=lambda hit: (-hit.score, hit.id))
        for k in (1, 3, 20, 150, 1000):
            assert store.search([query], k)[0] == everything[:k]


@settings(max_examples=100)
@given(corpora, st.lists(queries, min_size=1, max_size=6), st.integers(1, 5))
def test_batch_equals_each_alone(contents: list[str], asked: list[str], k: int) -> None:
    store = store_of(contents)
    together = store.search(store.encode(asked), k)
    assert together == [store.search(store.encode([q]), k)[0] for q in asked]
    assert not any(query.batched for query in store.encode(asked))


@pytest.mark.parametrize("query", ["", "unknown", "!?"])
def test_a_query_without_known_words_finds_nothing(query: str) -> None:
    assert found_ids(store_of(["aa"] * 10), query, 3) == []


def test_words_are_brought_to_their_stem_and_stopwords_left_out() -> None:
    contents = ["the the the runs", "a whale", "nothing"]
    documents = [Document(page_content=content) for content in contents]
    store = BM25Store.from_documents(documents)
    (hits,) = store.search(store.encode(["The Running WHALES the"]), 3)
    assert [hit.id for hit in hits] == ["0", "1"]
    assert hits[0].score == pytest.approx(hits[1].score)  # "the" counts nowhere
    own = BM25Store.from_documents(documents, stopwords=["whale"], stemmer=None)
    assert found_ids(own, "whale", 1) == []


def test_the_order_of_documents_changes_nothing() -> None:
    documents = documents_of(["running aa", "ran bb aa", "runs", "aa bb cc"])
    stores = [BM25Store.from_documents(each) for each in (documents, documents[::-1])]
    one, other = (s.search(s.encode(["run aa bb"]), 4)[0] for s in stores)
    assert one == other


def test_token_ids_follow_the_alphabet() -> None:
    # bm25s numbers stems in the order of a set, another one in every process, and
    # the sum of a score depends on it.
    contents = [f"{chr(97 + number)}word" for number in reversed(range(26))]
    store = BM25Store.from_documents([Document(page_content=c) for c in contents])
    tokens = store._index.tokens(sorted(contents))
    assert [each.tolist() for each in tokens] == [[n] for n in range(26)]
    (query,) = store._index.tokens(["cword unknown aword cword"])
    assert query.tolist() == [0, 2, 2], "in order, repeated, without unknown words"


def test_documents_come_back_with_their_ids() -> None:
    documents = [
        Document(page_content="aa", metadata={"n": 1}),
        Document(id="x", page_content="bb"),
    ]
    store = BM25Store.from_documents(documents, **PLAIN)
    (hits,) = store.search(store.encode(["aa bb"]), 5)
    assert [(hit.id, hit.document.id) for hit in hits] == [("0", "0"), ("x", "x")]
    assert hits[0].document.metadata == {"n": 1}
    assert documents[0].id is None
    assert (store.count(), store.metric, store.dimension) == (2, None, None)
    assert store.top_k_is_stable
    assert open_store(store) is store


REFUSED: list[tuple[list[Any], dict[str, Any], str]] = [
    (["a b"], {}, "LangChain Documents, got 'a b'"),
    ([], {}, "documents is empty"),
    ([Document(page_content="the !?")], {}, "none of the 1 documents, such as 'the"),
    ([Document(id="a", page_content="x")] * 2, {}, "unique, got 'a'"),
    (documents_of(["aa"]), {"k1": -1}, "k1 .* got -1"),
    (documents_of(["aa"]), {"k1": math.nan}, "k1 .* got nan"),
    (documents_of(["aa"]), {"b": 1.5}, "b must be a number from 0 to 1, got 1.5"),
    (documents_of(["aa"]), {"b": "0.4"}, "b must be a number .* got '0.4'"),
    (documents_of(["aa"]), {"k1": None}, "k1 must be a number .* got None"),
    (documents_of(["aa"]), {"stopwords": 7}, "stopwords .* got 7"),
    (documents_of(["aa"]), {"stopwords": ["the", 7]}, "stopwords .* got 7"),
    (documents_of(["aa"]), {"stemmer": 7}, "stemmer=7 cannot"),
    (documents_of(["aa"]), {"stopwords": "klingon"}, "'klingon'"),
    (documents_of(["aa"]), {"stemmer": "klingon"}, "'klingon'"),
    (documents_of(["aa"]), {"tokenizer": "mecab"}, "tokenizer .* got 'mecab'"),
    (documents_of(["aa"]), {"tokenizer": lambda _: [7]}, "strings, got 7 for 'aa'"),
]


@pytest.mark.parametrize(("documents", "options", "message"), REFUSED)
def test_what_cannot_be_indexed_is_refused(
    documents: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValueError, match=message):
        BM25Store.from_documents(documents, **options)


def test_bad_searches_are_refused() -> None:
    store = store_of(["aa"])
    with pytest.raises(InvalidValueError, match="got 0"):
        store.search(store.encode(["aa"]), 0)
    assert store.encode([]) == []
    assert store.search([], 3) == []
    store._index._model = None
    with pytest.raises(StoreError, match="BM25Store failed to search"):
        store.search(store.encode(["aa"]), 1)


@pytest.mark.parametrize("module", ["bm25s", "Stemmer"])
def test_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"'{module}'.*ralmspec\[bm25\]"):
        BM25Store.from_documents([Document(page_content="aa")])


# On disk

AWKWARD = [
    Document(
        id="ü/2\n", page_content="größe \u2028 \ud800 running", metadata={"a": [1]}
    ),
    Document(page_content="runs größe", metadata={"nested": {"b": None}}),
    Document(page_content=""),
]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "deep" / "store"
    BM25Store.from_documents(AWKWARD).save(folder)
    return folder


def test_a_store_comes_back_as_it_was(saved: Path) -> None:
    store, loaded = BM25Store.from_documents(AWKWARD), BM25Store.load(str(saved))
    asked = ["running größe", "nothing"]
    hits, again = (each.search(each.encode(asked), 3) for each in (store, loaded))
    assert hits == again
    assert [h.document for h in hits[0]] == [h.document for h in again[0]]


def test_own_stopwords_and_no_stemmer_come_back(tmp_path: Path) -> None:
    documents = [Document(page_content="the whale runs")]
    store = BM25Store.from_documents(documents, stopwords=("whale",), stemmer=None)
    store.save(tmp_path / "s")
    loaded = BM25Store.load(tmp_path / "s")
    found = [found_ids(loaded, word, 1) for word in ("the", "whale", "runs", "run")]
    assert found == [["0"], [], ["0"], []]


def test_nothing_in_the_folder_is_a_pickle(saved: Path) -> None:
    kinds = Counter(path.suffix for path in saved.iterdir())
    assert kinds == {".npy": 3, ".json": 3, ".jsonl": 1}
    for path in saved.glob("*.npy"):
        assert np.load(path, allow_pickle=False).dtype.kind in "if"
    for path in saved.glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink])
@pytest.mark.parametrize("suffix", [".npy", ".json", ".jsonl"])
def test_a_damaged_folder_is_refused(
    saved: Path, damage: Callable[[Path], None], suffix: str
) -> None:
    for path in sorted(saved.glob(f"*{suffix}")):
        whole = path.read_bytes()
        damage(path)
        with pytest.raises(StoreError, match=f"{saved}.*build it with") as caught:
            BM25Store.load(saved)
        assert caught.value.__cause__ is not None
        path.write_bytes(whole)
    BM25Store.load(saved)


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"format": "other"}', "", "\xff"])
def test_a_foreign_folder_is_refused(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "bm25_store.json").write_text(manifest, encoding="latin-1")
    with pytest.raises(StoreError, match=f"{tmp_path}.*build it with"):
        BM25Store.load(tmp_path)
    with pytest.raises(StoreError, match=r"'/no/such'.*FileNotFoundError"):
        BM25Store.load("/no/such")


def test_another_format_is_refused(saved: Path) -> None:
    manifest = saved / "bm25_store.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace("BM25Store 9", "BM25Store 5"), encoding="utf-8")
    with pytest.raises(StoreError, match=r"BM25Store 5', not .*; build it with"):
        BM25Store.load(saved)


def _fail_to_write(patch: pytest.MonkeyPatch) -> None:
    def fail(index: BM25Index, folder: Path) -> None:
        (folder / "half").write_text("written")
        raise OSError("disk full")

    patch.setattr(BM25Index, "save", fail)


def _fail_to_swap(patch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.suffix == ".tmp":
            raise OSError("disk full")
        return rename(path, target)

    patch.setattr(Path, "rename", fail)


@pytest.mark.parametrize("fail", [_fail_to_write, _fail_to_swap])
def test_a_save_that_fails_leaves_the_older_one(
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    fail: Callable[[pytest.MonkeyPatch], None],
) -> None:
    fail(monkeypatch)
    with pytest.raises(StoreError, match=f"{saved}.*disk full"):
        store_of(["aa"]).save(saved)
    assert BM25Store.load(saved).count() == len(AWKWARD)
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("metadata", [{"set": {1}}, {1: "one"}, {"pair": (1, 2)}])
def test_metadata_that_json_would_change_is_refused(
    saved: Path, metadata: dict[Any, Any]
) -> None:
    document = Document.model_construct(id="d", page_content="aa", metadata=metadata)
    store = BM25Store.from_documents([document])
    with pytest.raises(InvalidValueError, match=f"'d'.*{re.escape(repr(metadata))}"):
        store.save(saved)
    assert BM25Store.load(saved).count() == len(AWKWARD)


def test_a_save_replaces_a_save_and_nothing_else(saved: Path, tmp_path: Path) -> None:
    store = store_of(["aa"])
    store.save(saved)
    assert BM25Store.load(saved).count() == 1
    assert list(saved.parent.iterdir()) == [saved]
    empty = tmp_path / "empty"
    empty.mkdir()
    store.save(empty)
    assert BM25Store.load(empty).count() == 1
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    for taken in (other, other / "thesis.txt"):
        with pytest.raises(InvalidValueError, match=f"{taken}.*new folder"):
            store.save(taken)
    (empty / "thesis.txt").write_text("years of work")  # beside an older save
    with pytest.raises(InvalidValueError, match=f"{empty}.*new folder"):
        store.save(empty)
    for folder in (other, empty):
        assert (folder / "thesis.txt").read_text() == "years of work"


def test_a_tokenizer_that_gives_a_text_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="list of strings, got 'a heap' for"):
        BM25Store.from_documents([Document("a heap")], tokenizer=lambda text: text)
