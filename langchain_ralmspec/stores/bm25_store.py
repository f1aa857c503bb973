"""Documents found by their words: BM25, the sparse retriever of the paper."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from langchain_ralmspec.errors import InvalidValueError, MissingExtraError, StoreError
from langchain_ralmspec.files import absolute, read_json_lines, replacing_folder
from langchain_ralmspec.stores.arguments import check_k, check_number
from langchain_ralmspec.stores.base import Hit, Metric, Query
from langchain_ralmspec.stores.bm25_index import Analyzer, BM25Index, Tokenizer
from langchain_ralmspec.stores.failures import reported_as_store_error
from langchain_ralmspec.stores.faiss_rows import FixedRows
from langchain_ralmspec.text import well_formed_json

_FORMAT = "langchain-ralmspec BM25Store 9"
_MANIFEST = "bm25_store.json"
_DOCUMENTS = "documents.jsonl"


class BM25Store:
    """Documents scored by BM25 in Lucene's variant, as Pyserini does.

    The weights are computed once, from the statistics of all the documents, so a
    store does not change: build it anew for other documents. Only documents that have
    a word of the query are found: fewer than were asked for, or none.

    Made by ``from_documents()`` or ``load()``.

    Args:
        index: one row for each document.
        documents: in the order of the rows.
        ids: one per document, ascending, so that the order of rows is theirs.

    Attributes:
        metric: None: there are no vectors to compare. A score is the sum of the weights
            of the query's tokens.
        dimension: None, likewise.
        top_k_is_stable: True: every search looks at all the documents.
    """

    metric: Metric | None = None
    dimension: int | None = None
    top_k_is_stable = True
    stays_in_process = True

    def __init__(
        self, index: BM25Index, documents: Sequence[Document], ids: Sequence[str]
    ) -> None:
        self._index, self._documents, self._ids = index, documents, ids

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        *,
        k1: float = 0.9,
        b: float = 0.4,
        stopwords: str | Sequence[str] | None = "english",
        stemmer: str | None = "porter",
        tokenizer: Tokenizer | None = None,
    ) -> BM25Store:
        """Index the text of documents.

        Words of any script are found, of one letter too; in Chinese, Japanese, Korean
        and Thai every two neighbouring characters are taken for one, and each alone is
        found by a query of it alone. Arabic and Hebrew are found with vowels and
        without. Documents that have ids give the same store in whatever order they
        come.

        Args:
            documents: at least one. Their ids must be unique; one without id gets
                its place, counted from 0, behind a ``#`` if that is another's id.
            k1: how much a word's repetition counts, at least 0.
            b: how much long documents are held back, from 0 to 1.
            stopwords: words to leave out: a language that bm25s has a list for, or
                the words themselves, or None. ``"english"`` is Lucene's list.
            stemmer: what brings words to their stem: the name of a Snowball
                algorithm (mostly that of a language), or None.
            tokenizer: a function from a text to its tokens, for documents and queries,
                in place of all that: stop words and stemmer too. ``load()`` must be
                given it again.

        Raises:
            MissingExtraError: the extra ``bm25`` is not installed.
            StoreError: the tokenizer raised.
            InvalidValueError: there is no document, or none with a word, or ids are
                not unique, or an argument is none of the above.
        """
        check_number("k1", k1, 0)
        check_number("b", b, 0, 1)
        rows = FixedRows(documents)
        ids = sorted(rows.ids().values())
        if not ids:
            raise InvalidValueError("documents is empty; give at least one document")
        ordered = [rows.document(id_) for id_ in ids]
        texts = [document.page_content for document in ordered]
        analyzer = Analyzer(stopwords, stemmer, tokenizer)
        index = BM25Index.build(texts, analyzer, k1=k1, b=b)
        return cls(index, ordered, ids)

    @classmethod
    def load(
        cls, folder: str | Path, *, tokenizer: Tokenizer | None = None
    ) -> BM25Store:
        """Read a store that ``save()`` wrote to a folder. Nothing is unpickled.

        Args:
            folder: where it was saved.
            tokenizer: that of ``from_documents()``, if one was given there.

        Raises:
            MissingExtraError: the extra ``bm25`` is not installed.
            StoreError: the folder is missing, damaged, something else's, or of an
                earlier version, which cut texts otherwise; or the store was made with a
                tokenizer and none is given, or the other way round.
        """
        path = absolute(folder)
        try:
            manifest = _read_manifest(path, tokenizer)
            names = manifest["stopwords"], manifest["stemmer"]
            analyzer = Analyzer(*names, tokenizer)
            lines = read_json_lines(path / _DOCUMENTS)
            documents = [Document(**fields) for _, fields in lines]
            ids = [str(document.id) for document in documents]
            index = BM25Index.load(path, analyzer, n_documents=len(documents))
        except MissingExtraError:
            raise
        except Exception as cause:
            raise StoreError(
                f"no BM25Store can be loaded from {str(folder)!r}: "
                f"{type(cause).__name__}: {cause}; build it with "
                "BM25Store.from_documents() and save() it there"
            ) from cause
        return cls(index, documents, ids)

    def save(self, folder: str | Path) -> None:
        """Write the store to disk, in place of one that was saved there before.

        The files are NumPy arrays and JSON, without pickle. They are written beside
        the folder and change places with it when they are whole.

        Args:
            folder: where to; made if need be.

        Raises:
            InvalidValueError: something else is there, or metadata is not JSON.
            StoreError: the files could not be written.
        """
        path = absolute(folder)
        with ExitStack() as stack:
            what = f"save to {str(folder)!r}"
            stack.enter_context(reported_as_store_error("BM25Store", what))
            if path.exists() and not _is_replaceable(path):
                raise InvalidValueError(
                    f"{str(folder)!r} exists and is no saved BM25Store; "
                    "give a new folder"
                )
            new = stack.enter_context(replacing_folder(path))
            self._index.save(new)
            with (new / _DOCUMENTS).open("x", encoding="utf-8") as file:
                file.writelines(map(_line, self._ids, self._documents))
            manifest = {
                "format": _FORMAT,
                "stopwords": self._index.analyzer.stopwords,
                "stemmer": self._index.analyzer.stemmer,
                "has_tokenizer": self._index.analyzer.tokenizer is not None,
                "sha256": {each.name: _sha256(each) for each in sorted(new.iterdir())},
            }
            text = json.dumps(manifest, indent=2)
            (new / _MANIFEST).write_text(text, encoding="utf-8")

    def encode(self, texts: Sequence[str]) -> list[Query]:
        """Turn query texts into queries, which are searched by text."""
        return [Query(text) for text in texts]

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        """Find the ``k`` best documents for every query, as ``Store.search()`` does.

        The queries are scored one after the other: threads gained nothing.

        Raises:
            InvalidValueError: ``k`` is below 1.
            StoreError: bm25s raised.
        """
        check_k(k)
        with reported_as_store_error("BM25Store", "search"):
            return [
                [
                    Hit(self._ids[row], self._documents[row], score)
                    for row, score in self._index.best(tokens, k)
                ]
                for tokens in self._index.tokens([query.text for query in queries])
            ]

    def count(self) -> int:
        """Number of stored documents."""
        return len(self._ids)

    def version(self) -> int:
        """Always the same: the store does not change."""
        return 0


def _line(id_: str, document: Document) -> str:
    """One document as a line of JSON."""
    fields = {
        "id": id_,
        "page_content": document.page_content,
        "metadata": document.metadata,
    }
    for name, value in fields.items():
        try:
            value = fields[name] = well_formed_json(value)  # noqa: PLW2901
            lost = json.loads(json.dumps(value)) != value and "it would change"
        except (TypeError, ValueError, RecursionError) as cause:
            lost = str(cause)
        if lost:
            raise InvalidValueError(
                f"document {id_!r} cannot be saved: its {name} {value!r} "
                f"is not JSON ({lost}); turn it into text, numbers, lists and dicts"
            )
    return f"{json.dumps(fields)}\n"


def _read_manifest(folder: Path, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What the folder says it is, if it is that and every file is as it was saved."""
    text = (folder / _MANIFEST).read_text(encoding="utf-8")
    manifest: dict[str, Any] = json.loads(text)
    if manifest["format"] != _FORMAT:
        raise ValueError(f"its format is {manifest['format']!r}, not {_FORMAT!r}")
    if manifest["has_tokenizer"] is not (tokenizer is not None):
        had = "a" if manifest["has_tokenizer"] else "no"
        msg = f"it was made with {had} tokenizer, got tokenizer={tokenizer!r}"
        raise ValueError(msg)
    there = {each.name for each in folder.iterdir() if each.is_file()} - {_MANIFEST}
    if there != manifest["sha256"].keys():
        raise ValueError(f"its files are {sorted(there)}, others than were saved")
    for name, checksum in manifest["sha256"].items():
        if _sha256(folder / name) != checksum:
            raise ValueError(f"{name} is not as it was saved")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_replaceable(path: Path) -> bool:
    """Whether a save may take this place: an older save's and nothing but it."""
    if not path.is_dir():
        return False
    there = {entry.name for entry in path.iterdir()}
    if _MANIFEST not in there:
        return not there
    try:
        saved = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return there <= {_MANIFEST, *saved}
