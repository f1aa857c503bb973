"""Chunks are cut to what the encoder reads, where it tells."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_core.stores import InMemoryStore

from langchain_ralmspec.errors import StoreError
from langchain_ralmspec.rapid.documents import ContextIndex
from tests.unit_tests.rapid.test_documents import Words, split


class ShortSighted(Words):
    """Reads the first words of a text only, and tells how many."""

    def __init__(self, most: int | None, way: str) -> None:
        super().__init__()
        self._most = most
        model = SimpleNamespace(max_seq_length=most, tokenizer=self._tokenizer)
        setattr(self, way, model)  # as in langchain-huggingface, or -community

    def _tokenizer(self, texts: list[str], **_: Any) -> dict[str, Any]:
        return {"input_ids": [text.split() for text in texts]}

    def _vector(self, text: str) -> list[float]:
        return super()._vector(" ".join(text.split()[: self._most]))


FACT = "blue " * 30 + "red " + "blue " * 8 + "blue"


@pytest.mark.parametrize("way", ["_client", "client"])
@pytest.mark.parametrize("most", [1, 7, 16])
def test_chunks_are_no_longer_than_the_encoder_reads(way: str, most: int) -> None:
    index = ContextIndex(split(f"green|{FACT}"), ShortSighted(most, way))
    (part,) = index.retrieve("red", most, 0.5)
    assert "red" in part.text
    parts = index._chunks
    assert b"".join(b"".join(p.pieces) for p in parts) == f"green{FACT}".encode()
    assert all(len(p.text.split()) <= most for p in parts)
    assert all(p.end == after.start for p, after in pairwise(parts))


def test_an_encoder_behind_a_cache_tells_as_well() -> None:
    encoder = CacheBackedEmbeddings(ShortSighted(7, "client"), InMemoryStore())
    (part,) = ContextIndex(split(f"green|{FACT}"), encoder).retrieve("red", 7, 0.5)
    assert "red" in part.text


class Silent(Words):
    """Reads the first letters of a text only, and tells nobody."""

    most = 200

    def _vector(self, text: str) -> list[float]:
        return super()._vector(text[: self.most])


def test_an_encoder_that_does_not_tell_is_tried() -> None:
    text = "blue " * 60 + "red " + "blue " * 60
    (part,) = ContextIndex(split(f"green|{text}"), Silent()).retrieve("red", 99, 0.1)
    assert "red" in part.text
    assert len(part.text) <= Silent.most


class Strict(Words):
    """Refuses what is longer than it reads, as servers of encoders do."""

    most = 200

    def _vector(self, text: str) -> list[float]:
        if len(text) > self.most:
            msg = f"inputs must have less than {self.most} letters, given: {len(text)}"
            raise ValueError(msg)
        return super()._vector(text)


def test_chunks_are_cut_to_what_an_encoder_does_not_refuse() -> None:
    text = "blue " * 60 + "red " + "blue " * 60
    (part,) = ContextIndex(split(f"green|{text}"), Strict()).retrieve("red", 99, 0.1)
    assert "red" in part.text
    assert len(part.text) <= Strict.most


def test_whichever_chunk_it_is_that_an_encoder_refuses() -> None:
    encoder, chunks = Strict(), split("blue " * 110 + "|" + "bluered red " * 50)
    encoder.most = 600
    parts = ContextIndex(chunks, encoder)._chunks
    assert all(len(part.text) <= encoder.most for part in parts)
    assert b"".join(b"".join(part.pieces) for part in parts) == b"".join(
        b"".join(part.pieces) for part in chunks
    )


def test_an_encoder_that_is_down_is_not_asked_for_ever_shorter_texts() -> None:
    encoder = Strict()
    encoder.most = 0
    with pytest.raises(StoreError, match="must have less than 0 letters"):
        ContextIndex(split(f"green|{FACT}"), encoder)


def test_one_whose_tokenizer_is_no_transformers_is_tried() -> None:
    encoder = ShortSighted(16, "client")
    encoder.client.tokenizer = SimpleNamespace(encode_batch=None)  # type: ignore[attr-defined]
    text = "blue " * 60 + "red " + "blue " * 60
    (part,) = ContextIndex(split(f"green|{text}"), encoder).retrieve("red", 99, 0.1)
    assert "red" in part.text
    assert len(part.text.split()) <= 16


@pytest.mark.parametrize(
    ("prompts", "default"),
    [({"passage": "passage: of "}, None), ({"own": "a text: "}, "own")],
)
def test_what_a_model_puts_before_a_document_counts(
    prompts: dict[str, str], default: str | None
) -> None:
    encoder = ShortSighted(7, "client")
    vars(encoder.client).update(prompts=prompts, default_prompt_name=default)  # type: ignore[attr-defined]
    index = ContextIndex(split(f"green|{FACT}"), encoder)
    assert all(len(part.text.split()) <= 5 for part in index._chunks)


@pytest.mark.parametrize(("most", "way"), [(None, "client"), (None, "model")])
def test_where_the_encoder_reads_all_chunks_stay(most: Any, way: str) -> None:
    index = ContextIndex(split(f"red|{FACT}"), ShortSighted(most, way))
    assert len(index._chunks) == 2
