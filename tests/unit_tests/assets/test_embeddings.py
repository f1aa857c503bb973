import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings

from langchain_ralmspec.assets.embeddings import BATCH_SIZE, embed_cached
from langchain_ralmspec.errors import DimensionMismatchError, InvalidValueError


class FakeEmbeddings(Embeddings):
    """Vectors made from the text alone; remembers what it was asked."""

    def __init__(self, dimension: int = 4) -> None:
        self.dimension = dimension
        self.calls: list[list[str]] = []

    def vector(self, text: str) -> list[float]:
        digest = hashlib.sha256(text.encode()).digest()
        return [float(byte) for byte in digest[: self.dimension]]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls.append(texts)
        return [self.vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        raise AssertionError(text)

    @property
    def asked(self) -> list[str]:
        return [text for call in self.calls for text in call]


def _texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def _files(folder: Path) -> tuple[Path, Path]:
    (index,) = folder.glob("*.json")
    (rows,) = folder.glob("*.npy")
    assert len(list(folder.iterdir())) == 2
    return index, rows


def test_rows_are_in_the_order_of_the_texts(tmp_path: Path) -> None:
    fake = FakeEmbeddings()
    texts = ["b", "a", "b", "ü"]
    first = embed_cached(texts, fake, "m", tmp_path)
    second = embed_cached(texts[::-1], fake, "m", tmp_path)
    assert first.dtype == second.dtype == np.float32
    assert first.tolist() == [fake.vector(text) for text in texts]
    assert second.tolist() == first[::-1].tolist()


def test_only_what_is_missing_is_computed_in_batches(tmp_path: Path) -> None:
    fake = FakeEmbeddings()
    embed_cached(["a", "b", "a"], fake, "m", tmp_path)
    embed_cached(["c", "b"], fake, "m", tmp_path)
    rows = embed_cached(["a", "b", "c"], fake, "m", tmp_path)
    assert fake.calls == [["a", "b"], ["c"]]
    assert rows.tolist() == [fake.vector(text) for text in "abc"]
    fake.calls.clear()
    rows = embed_cached(_texts(2 * BATCH_SIZE + 1), fake, "m", tmp_path)
    assert [len(call) for call in fake.calls] == [BATCH_SIZE, BATCH_SIZE, 1]
    assert rows.tolist() == [fake.vector(text) for text in fake.asked]


def test_an_interruption_keeps_what_is_done(tmp_path: Path) -> None:
    texts = _texts(BATCH_SIZE + 5)

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_cached(texts, FakeEmbeddings(), "m", tmp_path, stop)
    fake = FakeEmbeddings()
    rows = embed_cached(texts, fake, "m", tmp_path)
    assert fake.asked == texts[BATCH_SIZE:]
    assert rows.tolist() == [fake.vector(text) for text in texts]


def test_what_cannot_be_kept_is_computed_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fake = FakeEmbeddings()
    with pytest.warns(UserWarning, match=r"file/cache'.*again.*RALMSPEC_CACHE"):
        rows = embed_cached(["a"], fake, "m", tmp_path / "file" / "cache")
    assert rows.tolist() == [fake.vector("a")]


def test_models_are_kept_apart(tmp_path: Path) -> None:
    small, large = FakeEmbeddings(2), FakeEmbeddings(6)
    embed_cached(["a"], small, "org/model", tmp_path)
    rows = embed_cached(["a"], large, "org_model", tmp_path)
    assert rows.tolist() == [large.vector("a")]
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_nothing_to_embed(tmp_path: Path) -> None:
    assert embed_cached([], FakeEmbeddings(), "m", tmp_path / "x").shape == (0, 0)
    assert not (tmp_path / "x").exists()


def test_progress(tmp_path: Path) -> None:
    texts, fake = _texts(BATCH_SIZE + 1), FakeEmbeddings()
    embed_cached(texts[:1], fake, "m", tmp_path)
    seen: list[tuple[int, ...]] = []
    embed_cached([*texts, texts[0]], fake, "m", tmp_path, lambda *n: seen.append(n))
    assert seen == [(1, BATCH_SIZE + 1), (BATCH_SIZE + 1, BATCH_SIZE + 1)]


def _change_a_row(index: Path, rows: Path) -> None:
    data = rows.read_bytes()
    rows.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def _drop_a_key(index: Path, rows: Path) -> None:
    content = json.loads(index.read_text())
    content["keys"].pop()
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage",
    [
        lambda _, rows: rows.write_bytes(rows.read_bytes()[:-3]),
        _change_a_row,
        lambda _, rows: rows.unlink(),
        lambda index, _: index.write_text("{"),
        lambda index, _: index.write_text("[]"),
        lambda _, rows: np.save(rows, np.load(rows).view(np.int32)),
        lambda _, rows: np.save(rows, np.load(rows)[:1]),
        _drop_a_key,
    ],
)
def test_a_damaged_cache_is_discarded_and_rebuilt(
    tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    fake = FakeEmbeddings()
    embed_cached(["a", "b"], fake, "m", tmp_path)
    damage(*_files(tmp_path))
    with pytest.warns(UserWarning, match="is discarded"):
        rows = embed_cached(["a", "b"], fake, "m", tmp_path)
    assert rows.tolist() == [fake.vector("a"), fake.vector("b")]
    assert fake.asked == ["a", "b", "a", "b"]
    embed_cached(["a", "b"], fake, "m", tmp_path)  # a warning now would be an error
    assert len(fake.asked) == 4


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.proof,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    cache, proof = tmp_path / "cache", tmp_path / "proof"
    embed_cached(["a"], FakeEmbeddings(), "m", cache)
    _, rows = _files(cache)
    with rows.open("wb") as file:
        array = np.array([Evil(proof)], dtype=object)
        np.lib.format.write_array(file, array, allow_pickle=True)
    with pytest.warns(UserWarning, match="is discarded"):
        embed_cached(["a"], FakeEmbeddings(), "m", cache)
    assert not proof.exists()


def test_rows_written_just_before_a_crash_do_no_harm(tmp_path: Path) -> None:
    fake = FakeEmbeddings()
    embed_cached(["a"], fake, "m", tmp_path)
    index, _ = _files(tmp_path)
    before = index.read_text()
    embed_cached(["a", "b"], fake, "m", tmp_path)
    index.write_text(before)  # the rows of "b" are there, the index is not
    rows = embed_cached(["b", "a"], fake, "m", tmp_path)
    assert fake.asked == ["a", "b", "b"]
    assert rows.tolist() == [fake.vector("b"), fake.vector("a")]


def test_another_model_under_the_same_name_starts_over(tmp_path: Path) -> None:
    embed_cached(["a", "b", "old"], FakeEmbeddings(4), "m", tmp_path)
    other = FakeEmbeddings(6)
    with pytest.warns(UserWarning, match="6 numbers, but had given 4"):
        rows = embed_cached(["a", "c", "b"], other, "m", tmp_path)
    assert rows.tolist() == [other.vector(text) for text in "acb"]
    _, path = _files(tmp_path)
    assert np.load(path).shape == (3, 6)


def test_vectors_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeEmbeddings()
    monkeypatch.setattr(fake, "embed_documents", lambda texts: [[0.0]])
    with pytest.raises(InvalidValueError, match="1 vectors for 2 texts"):
        embed_cached(["a", "b"], fake, "m", tmp_path)
    ragged = FakeEmbeddings()
    monkeypatch.setattr(ragged, "vector", lambda text: [0.0] * len(text))
    with pytest.raises(DimensionMismatchError, match=r"'m'.*\[1, 2\]"):
        embed_cached(["a", "bb"], ragged, "m", tmp_path)
    texts = [chr(256 + number) for number in range(BATCH_SIZE)]
    with pytest.raises(DimensionMismatchError, match="2 numbers, but had given 1"):
        embed_cached([*texts, "bb"], ragged, "m", tmp_path)
