"""The files of a datastore: keys and tokens in corpus order, and what they are.

``keys.npy`` and ``tokens.npy`` are ordinary NumPy files, mapped into memory. The
manifest says how many of their rows count, and is written last: what an interrupted
writer has left behind it is not seen, and overwritten by the next one.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from langchain_ralmspec.errors import DatastoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

KeyType = Literal["float16", "float32"]

MANIFEST = "datastore.json"
_KEYS, _TOKENS = "keys.npy", "tokens.npy"
_FORMAT = "langchain-ralmspec kNN datastore 1"
_HEADER_BYTES = 128


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a datastore is.

    Attributes:
        model_sha256: checksum of the GGUF that made the keys, its tokenizer in it.
        model_name: of that file.
        dimension: of a key.
        key_type: of its numbers.
        n_entries: rows that count.
        typical_distance: squared distance of a key to the nearest of another place,
            the median.
    """

    model_sha256: str
    model_name: str
    dimension: int
    key_type: KeyType
    n_entries: int = 0
    typical_distance: float = 0.0

    def write(self, folder: Path) -> None:
        """Put it into a folder, whole or not at all."""
        fields = {"format": _FORMAT, **asdict(self)}
        new = folder / f"{MANIFEST}.new"
        new.write_text(json.dumps(fields, indent=2), encoding="utf-8")
        new.replace(folder / MANIFEST)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Take it from a folder.

        Raises:
            DatastoreError: there is none, or it is not one of ours.
        """
        file = folder / MANIFEST
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
            made_by = fields.pop("format")
            manifest = cls(**fields)
        except FileNotFoundError as error:
            msg = f"no datastore in {str(folder)!r}: build one with KNNDatastore.build"
            raise DatastoreError(msg) from error
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            msg = f"{str(file)!r} is not a datastore's: {error}; build it anew"
            raise DatastoreError(msg) from error
        if made_by != _FORMAT:
            msg = f"{str(file)!r} is a {made_by!r}, not a {_FORMAT!r}; build it anew"
            raise DatastoreError(msg)
        return manifest


class Entries:
    """Keys and tokens, mapped into memory.

    Attributes:
        folder: where they are.
        manifest: what they are.
        keys: float16 or float32, shape ``(n, dimension)``.
        tokens: int32, shape ``(n,)``.
    """

    def __init__(self, folder: Path) -> None:
        """Open the files.

        Raises:
            DatastoreError: a file is missing, truncated, or not as the manifest says.
        """
        self.folder = folder
        self.manifest = manifest = Manifest.read(folder)
        shape = (manifest.n_entries, manifest.dimension)
        self.keys = _mapped(folder / _KEYS, manifest.key_type, shape)
        self.tokens = _mapped(folder / _TOKENS, "int32", shape[:1])

    def __len__(self) -> int:
        """Number of entries."""
        return self.manifest.n_entries

    def read(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Copies of some keys, in float32, and of their tokens."""
        return self.keys[rows].astype(np.float32), np.asarray(self.tokens[rows])


class EntryWriter:
    """Adds entries behind those of a manifest."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Open the files for writing; they are made if they are missing."""
        self._manifest = manifest
        self.n_entries = manifest.n_entries
        shape = (self.n_entries, manifest.dimension)
        self._keys = _NpyFile(folder / _KEYS, manifest.key_type, shape)
        self._tokens = _NpyFile(folder / _TOKENS, "int32", shape[:1])

    def add(self, keys: NDArray[np.float32], tokens: NDArray[np.int32]) -> None:
        """Add entries: ``(n, dimension)`` keys and the ``(n,)`` tokens behind them."""
        self._keys.add(keys)
        self._tokens.add(tokens)
        self.n_entries += len(tokens)

    def close(self) -> None:
        """Finish the files; the manifest is the caller's to write."""
        self._keys.close()
        self._tokens.close()


class _NpyFile:
    """A NumPy file that grows: its header has room for any number of rows."""

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self._dtype, self._shape = np.dtype(dtype), shape
        row_bytes = self._dtype.itemsize * int(np.prod(shape[1:]))
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.seek(_HEADER_BYTES + shape[0] * row_bytes)

    def add(self, rows: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self._shape = (self._shape[0] + len(rows), *self._shape[1:])

    def close(self) -> None:
        self._file.truncate()
        self._file.seek(0)
        self._file.write(_header(self._dtype, self._shape))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """That of the NPY format 1.0, padded to a fixed length."""
    fields = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    magic = np.lib.format.magic(1, 0)
    length = _HEADER_BYTES - len(magic) - 2
    text = repr(fields).ljust(length - 1) + "\n"
    return magic + length.to_bytes(2, "little") + text.encode("ascii")


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The first rows of a NumPy file, mapped into memory.

    Raises:
        DatastoreError: it is missing, truncated or another one.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        msg = f"cannot open {str(path)!r}: {error}; build the datastore anew"
        raise DatastoreError(msg) from error
    if (
        array.dtype != np.dtype(dtype)
        or array.ndim != len(shape)
        or array.shape[1:] != shape[1:]
        or array.shape[0] < shape[0]
    ):
        msg = (
            f"{str(path)!r} holds {array.dtype} of shape {array.shape}, not {dtype} of "
            f"{shape} as its manifest says; build the datastore anew"
        )
        raise DatastoreError(msg)
    return array[: shape[0]]
