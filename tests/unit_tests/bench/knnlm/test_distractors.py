import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from langchain_ralmspec.bench.knnlm import distractors as knnlm_distractors
from langchain_ralmspec.bench.knnlm.distractors import check_entries, distracted
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.knnlm import KNNDatastore
from tests.unit_tests.bench.knnlm.fakes import write_datastore

N_REAL, N_ALL = 400, 3000


@pytest.fixture
def store(tmp_path: Path) -> KNNDatastore:
    return write_datastore(tmp_path / "store", N_REAL)


def contents(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
    }


def test_the_real_datastore_is_left_alone(store: KNNDatastore) -> None:
    before = contents(store.path)
    with distracted(store, N_ALL) as folder:
        assert folder.parent == store.path.parent
        KNNDatastore.load(folder).prepare()
        assert contents(store.path) == before
    with pytest.raises(KeyError), distracted(store, N_ALL):
        raise KeyError
    assert contents(store.path) == before
    assert list(store.path.parent.iterdir()) == [store.path]


def test_noise_lies_behind_the_real_entries_and_is_not_found(
    store: KNNDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knnlm_distractors, "_ROWS", 130)  # several blocks of each
    rows = np.arange(N_REAL)
    keys, tokens = store.read(rows)
    with distracted(store, N_ALL) as folder:
        large = KNNDatastore.load(folder)
        assert len(large) == N_ALL
        assert large.typical_distance == store.typical_distance
        np.testing.assert_array_equal(large.read(rows)[0], keys)
        np.testing.assert_array_equal(large.read(rows)[1], tokens)
        queries = keys[:40] + np.float32(0.5)
        for one, other in zip(
            store.search(queries, 8), large.search(queries, 8), strict=True
        ):
            np.testing.assert_array_equal(one.rows, other.rows)
            np.testing.assert_array_equal(one.distances, other.distances)
        noise, drawn = large.read(np.arange(N_REAL, N_ALL))
    assert set(drawn.tolist()) <= set(tokens.tolist())
    np.testing.assert_allclose(noise.mean(axis=0), keys.mean(axis=0), atol=0.4)
    np.testing.assert_allclose(noise.std(axis=0) / keys.std(axis=0), 3.0, atol=0.3)


def test_without_noise_the_datastore_is_searched_where_it_lies(
    store: KNNDatastore,
) -> None:
    for n_entries in (None, N_REAL):
        check_entries(store, n_entries)
        with distracted(store, n_entries) as folder:
            assert folder == store.path


def test_too_few_entries_or_a_disk_without_room_are_noticed(
    store: KNNDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n_entries in (0, 1, N_REAL - 1):
        with pytest.raises(InvalidValueError, match=f"400 entries .* {n_entries}$"):
            check_entries(store, n_entries)
    check_entries(store, N_ALL)
    usage = SimpleNamespace(free=N_ALL * 68 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InvalidValueError, match=f"{N_ALL} entries take"):
        check_entries(store, N_ALL)
