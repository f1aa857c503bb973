from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from langchain_ralmspec.assets.corpus import Passage
from langchain_ralmspec.bench.ralm import workload as module
from langchain_ralmspec.bench.ralm.distractors import distractor_vectors
from langchain_ralmspec.bench.ralm.workload import Corpus, Workload
from langchain_ralmspec.errors import InvalidValueError, MissingExtraError
from tests.unit_tests.stores.toys import TableEmbeddings, table


class ToyCorpus(Corpus):
    vectors: Any = table(4, seed=7)


def corpus() -> Corpus:
    passages = [Passage(f"p{i}", f"title {i}", f"text {i}") for i in range(4)]
    embeddings: Any = TableEmbeddings(ToyCorpus.vectors)
    return ToyCorpus(passages, embeddings, "toy")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"store": "milvus"}, "'milvus'"),
        ({"store": "bm25", "distractors": 5}, "'bm25'; use faiss-flat"),
        ({"store": "chroma", "distractors": 5}, "'chroma'"),
        ({"store": "faiss-flat", "latency": 0.01}, "use chroma-http"),
        ({"store": "chroma", "latency": 0.01}, "use chroma-http"),
        ({"store": "chroma-http", "latency": 60.0}, "got 60000"),
        ({"store": "chroma-http", "latency": float("nan")}, "got nan"),
        ({"store": "chroma-http", "latency": -1.0}, "got -1000"),
        ({"store": "bm25", "embedding_server": 0.0}, "'bm25', which compares words"),
        ({"store": "chroma", "embedding_server": 20.1}, "20000 ms away, got 20100"),
        ({"store": "faiss-flat", "embedding_server": float("nan")}, "got nan"),
    ],
)
def test_what_does_not_go_together_is_refused(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidValueError, match=said):
        Workload(**settings).check()


def test_a_missing_package_is_noticed_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"langchain-ralmspec\[chroma\]"):
        Workload(store="chroma-http").check()
    with pytest.raises(MissingExtraError, match=r"langchain-ralmspec\[bench\]"):
        Workload(store="faiss-flat", embedding_server=0.1).check()


def test_an_unknown_embedding_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "stdlib_passages", lambda: pytest.fail("too late"))
    for wrong in ("minilm-l12", "smollm2-135m", str(tmp_path)):
        with pytest.raises(InvalidValueError, match="minilm"):
            Corpus.load(None, wrong)


@pytest.mark.parametrize("store", ["faiss-flat", "faiss-hnsw"])
def test_passages_and_distractors_lie_in_one_index(store: Any) -> None:
    given = corpus()
    with Workload(store=store, distractors=1000).opened(given) as opened:
        assert opened.count() == 1004
        index = opened._index._index
        stored = index.reconstruct_n(0, 1004)
        (hits,) = opened.search(opened.encode(["v2"]), 1, with_vectors=True)
    distractors = np.concatenate(list(distractor_vectors(1000, given.vectors.shape[1])))
    assert (stored == np.concatenate([given.vectors, distractors])).all()
    assert hits[0].vector is not None
    best = np.argmax(stored @ given.vectors[2])
    assert (hits[0].vector == stored[best]).all()


def test_the_graph_is_the_papers() -> None:
    with Workload(store="faiss-hnsw").opened(corpus()) as opened:
        hnsw = opened._index._index.hnsw
        assert hnsw.efConstruction == 40
        assert hnsw.nb_neighbors(1) == 64
        assert opened.metric == "inner_product"


def test_a_flat_index_written_in_place_searches_like_any_other() -> None:
    given = corpus()
    plain = faiss.IndexFlatIP(given.vectors.shape[1])
    plain.add(given.vectors)
    with Workload(store="faiss-flat").opened(given) as opened:
        ours = opened._index._index
        for k in (1, 4):
            expected, found = (one.search(given.vectors, k) for one in (plain, ours))
            assert (expected[0] == found[0]).all()
            assert (expected[1] == found[1]).all()


def test_more_than_the_machine_holds_is_refused() -> None:
    workload = Workload(store="faiss-flat", distractors=10**12)
    with pytest.raises(InvalidValueError, match="use fewer distractors"):
        workload.opened(corpus()).__enter__()


def test_the_key_of_a_filled_folder_tells_contents_apart() -> None:
    given = corpus()
    keys = {module._key(given, "1"), module._key(given, "2")}
    changed = corpus()
    changed.passages[0] = Passage("p0", "title 0", "other text")
    keys.add(module._key(changed, "1"))
    moved = ToyCorpus(given.passages, given.embeddings, "toy")
    object.__setattr__(moved, "vectors", given.vectors + np.float32(1))
    keys.add(module._key(moved, "1"))
    assert len(keys) == 4
    assert module._key(corpus(), "1") in keys
