import faiss
import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_ralmspec.bench.ralm.distractors import DistractedRows, distractor_vectors
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.stores import FaissStore
from tests.unit_tests.stores.toys import TableEmbeddings, table

DOCUMENTS = [Document(page_content=f"text {i}", id=f"id {i}") for i in range(3)]
MANY = 1 << 40


def test_vectors_are_directions_and_always_the_same() -> None:
    n_rows = (1 << 16) + 5
    chunks = list(distractor_vectors(n_rows, 3))
    vectors = np.concatenate(chunks)
    assert vectors.shape == (n_rows, 3)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(n_rows), abs=1e-6)
    assert len(np.unique(vectors, axis=0)) == n_rows
    again = np.concatenate(list(distractor_vectors(7, 3)))
    assert (again == vectors[:7]).all()
    assert list(distractor_vectors(0, 3)) == []


def test_real_rows_come_first_and_distractors_are_documents_when_found() -> None:
    rows = DistractedRows(DOCUMENTS, MANY)
    ids = rows.ids()
    assert len(ids) == 3 + MANY
    assert [ids[row] for row in range(3)] == ["id 0", "id 1", "id 2"]
    assert rows.document("id 1").page_content == "text 1"
    assert 3 in ids
    assert MANY + 2 in ids
    assert ids[3] != ids[MANY + 2]
    found = rows.document(ids[MANY + 2])
    assert found.id == ids[MANY + 2]
    assert found.page_content
    for row in (-1, 3 + MANY):
        assert row not in ids
        with pytest.raises(KeyError):
            ids[row]
    with pytest.raises(InvalidValueError, match="id 0"):
        DistractedRows([*DOCUMENTS, DOCUMENTS[0]], 2)


def test_a_store_finds_both_kinds() -> None:
    vectors = table(5, seed=3)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    store = FaissStore(index, DistractedRows(DOCUMENTS, 2), TableEmbeddings(vectors))
    (hits,) = store.search(store.encode(["v1"]), 5)
    ids = {hit.id for hit in hits}
    assert ids == {"id 0", "id 1", "id 2", "distractor-0", "distractor-1"}
