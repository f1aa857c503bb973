"""Approximate search: batches find what lone queries find, and files are kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from langchain_ralmspec.errors import DatastoreError
from langchain_ralmspec.knnlm import KNNDatastore, datastore
from langchain_ralmspec.knnlm.faiss_index import FaissKeyIndex
from tests.unit_tests.knnlm.fakes import write_entries

pytest.importorskip("faiss")


N, DIMENSION = 3000, 16


def keys(n: int = N, seed: int = 0) -> NDArray[np.float16]:
    """Clustered, with many equal ones."""
    rng = np.random.default_rng(seed)
    some = rng.standard_normal((n // 20, DIMENSION)) * 3
    rows = some[rng.integers(len(some), size=n)]
    noise = rng.integers(-1, 2, rows.shape) / 8
    return np.asarray(rows + noise, np.float16)


def queries(n: int = 40) -> NDArray[np.float32]:
    rng = np.random.default_rng(9)
    near = keys()[:: N // n][:n].astype(np.float32)
    noise = rng.standard_normal(near.shape).astype(np.float32) / 9
    return np.asarray(near + noise, np.float32)


@pytest.fixture(params=["ivf", "hnsw"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_batch_finds_what_each_query_finds_alone(kind: Any, tmp_path: Path) -> None:
    # Far from nothing, so that rounding shows in whatever is not done one by one.
    far = np.float32(600)
    folder = write_entries(tmp_path, keys().astype(np.float32) + far)
    store = KNNDatastore.load(folder, index=kind)
    for k in (1, 16, 500):
        alone = [store.search(query[np.newaxis] + far, k)[0] for query in queries()]
        for size in (2, 3, 8, 21, 40):
            together = store.search(queries()[:size] + far, k)
            for one, found in zip(alone[:size], together, strict=True):
                assert found.rows.tolist() == one.rows.tolist()
                assert found.distances.tobytes() == one.distances.tobytes()
                assert found.tokens.tolist() == one.tokens.tolist()


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "probe"])
def test_most_of_the_nearest_are_found_in_their_order(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datastore, "PROBED_FROM", 1)
    folder, n_common = write_entries(tmp_path, keys(), np.arange(N) + 7), 0
    exact = KNNDatastore.load(folder)
    if kind == "probe":
        exact.prepare()
        assert [*tmp_path.glob("index-ivf-*.faiss")], "the lists are kept"
        found = [exact.probe(query, 10) for query in queries()]
    else:
        found = KNNDatastore.load(folder, index=kind).search(queries(), 10)
    for one, other in zip(exact.search(queries(), 10), found, strict=True):
        common = set(one.rows) & set(other.rows)
        n_common += len(common)
        assert (np.diff(other.distances) >= 0).all()
        assert other.tokens.tolist() == (other.rows + 7).tolist()
        if kind != "probe":  # whose distances are FAISS's
            assert [r for r in one.rows if r in common] == [
                r for r in other.rows if r in common
            ]
    assert n_common > 0.8 * 10 * len(queries())


def test_an_index_is_kept_and_read_again(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_entries(tmp_path, keys())
    before = KNNDatastore.load(folder, index=kind).search(queries(), 9)
    (file,) = tmp_path.glob(f"index-{kind}-*.faiss")
    written = file.read_bytes()
    monkeypatch.setattr(FaissKeyIndex, "_add", lambda *_: pytest.fail("made anew"))
    after = KNNDatastore.load(folder, index=kind).search(queries(), 9)
    assert [a.rows.tolist() for a in after] == [b.rows.tolist() for b in before]
    assert file.read_bytes() == written


def test_keys_added_since_are_added_to_the_index(kind: Any, tmp_path: Path) -> None:
    file = tmp_path / "index"
    FaissKeyIndex(kind, keys(), file)
    more = np.concatenate([keys(), keys(seed=1)[:70]])
    grown = FaissKeyIndex(kind, more, file)
    assert grown._index.ntotal == N + 70
    new = more[-70:].astype(np.float32)
    found = [N + i in rows for i, rows in enumerate(grown.candidates(new, 20))]
    assert sum(found) > 60


@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_few_keys_are_all_found(kind: Any, n: int, tmp_path: Path) -> None:
    index = FaissKeyIndex(kind, keys()[:n], tmp_path / "index")
    found = index.candidates(queries(3), n)
    assert [sorted(rows.tolist()) for rows in found] == [list(range(n))] * 3


def test_a_broken_index_is_told_by_its_name(kind: Any, tmp_path: Path) -> None:
    store = KNNDatastore.load(write_entries(tmp_path, keys()), index=kind)
    store.prepare()
    (file,) = tmp_path.glob("index-*")
    store = KNNDatastore.load(tmp_path, index=kind)
    file.write_bytes(b"no index")
    with pytest.raises(DatastoreError, match=rf"{file}.*delete"):
        store.prepare()
    FaissKeyIndex(kind, keys()[:, :5], tmp_path / "other")
    (tmp_path / "other").replace(file)
    with pytest.raises(DatastoreError, match=rf"{file}.*3000 keys of 5 numbers"):
        store.prepare()
    file.unlink()
    store.prepare()
    assert file.stat().st_size > N * DIMENSION * 2


def test_an_index_of_other_keys_is_not_taken_for_ours(
    kind: Any, tmp_path: Path
) -> None:
    # An object that has the folder's last datastore open writes its index there.
    folder = write_entries(tmp_path / "store", keys(seed=1))
    old = KNNDatastore.load(folder, index=kind)
    folder.rename(tmp_path / "gone")
    write_entries(folder, keys())
    old.prepare()
    store, exact = KNNDatastore.load(folder, index=kind), KNNDatastore.load(folder)
    same = zip(store.search(queries(), 1), exact.search(queries(), 1), strict=True)
    assert sum(a.rows.tolist() == b.rows.tolist() for a, b in same) > 30


def test_an_index_that_has_grown_serves_who_sees_fewer_keys(
    kind: Any, tmp_path: Path
) -> None:
    folder = write_entries(tmp_path, keys()[:2000], id="ab12cd34")
    early = KNNDatastore.load(folder, index=kind)
    write_entries(tmp_path, keys(), id="ab12cd34")  # somebody else has appended
    KNNDatastore.load(folder, index=kind).prepare()
    assert len(early) == 2000
    assert max(found.rows.max() for found in early.search(queries(), 50)) < 2000
    assert [*folder.glob("index-*")] == [folder / f"index-{kind}-ab12cd34.faiss"]


def test_candidates_depend_on_neither_the_batch_nor_the_threads(
    kind: Any, tmp_path: Path
) -> None:
    import faiss

    index = FaissKeyIndex(kind, keys(), tmp_path / "index")
    alone = [index.candidates(query[np.newaxis], 30)[0] for query in queries()]

    def search() -> list[list[int]]:
        return [rows.tolist() for rows in index.candidates(queries(), 30)]

    n_threads = faiss.omp_get_max_threads()
    try:
        for n in (1, 2, 3):
            faiss.omp_set_num_threads(n)
            assert search() == [rows.tolist() for rows in alone]
            assert faiss.omp_get_max_threads() == n
    finally:
        faiss.omp_set_num_threads(n_threads)


def test_many_keys_are_probed_and_few_or_approximate_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_entries(tmp_path, keys())
    monkeypatch.setattr(datastore, "PROBED_FROM", N)
    assert KNNDatastore.load(folder).can_probe
    assert not KNNDatastore.load(folder, index="ivf").can_probe
    monkeypatch.setattr(datastore, "PROBED_FROM", N + 1)
    assert not KNNDatastore.load(folder).can_probe


def test_a_probe_finds_no_keys_that_others_have_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datastore, "PROBED_FROM", 1)
    early = KNNDatastore.load(write_entries(tmp_path, keys()[:2000], id="ab12cd34"))
    write_entries(tmp_path, keys(), id="ab12cd34")
    KNNDatastore.load(tmp_path).prepare()
    found = [early.probe(query, 500).rows for query in queries()]
    assert max(rows.max() for rows in found) < 2000
    assert max(map(len, found)) < 500


def test_threads_share_the_queries_of_a_batch(tmp_path: Path) -> None:
    file = tmp_path / "index"
    for _ in range(2):  # made, and read
        assert FaissKeyIndex("ivf", keys(), file)._index.parallel_mode == 3


@pytest.mark.parametrize("n", [1, 2, 10, 40, 100])
def test_few_keys_are_no_cause_for_a_warning(
    n: int, kind: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    index = FaissKeyIndex(kind, keys()[:n], tmp_path / "index")
    assert [*index.candidates(queries(1), 1)[0]]
    assert capfd.readouterr() == ("", "")
