"""The files of a datastore: keys and tokens in corpus order, and what they are.

``keys.npy`` and ``tokens.npy`` are ordinary NumPy files, mapped into memory. The
manifest says how many of their rows count, and is written last: what an interrupted
writer has left behind them is not seen, and overwritten by the next one, whatever it
has made of the numbers of rows in the files' own headers.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from langchain_ralmspec.errors import DatastoreError, InvalidValueError
from langchain_ralmspec.files import replacing_file, replacing_folder
from langchain_ralmspec.scans import loaded_torch

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from numpy.typing import NDArray

KeyType = Literal["float16", "float32"]
KEY_TYPES: tuple[KeyType, ...] = ("float16", "float32")

MANIFEST = "datastore.json"
_KEYS, _TOKENS = "keys.npy", "tokens.npy"
_FORMAT = "langchain-ralmspec kNN datastore 1"
_HEADER_BYTES = 128


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a datastore is.

    Attributes:
        model_sha256: checksum of the GGUF that made the keys, its tokenizer in it.
        model_name: the stem of that file's name.
        dimension: length of a key.
        key_type: of a key's numbers.
        n_entries: rows that count.
        typical_distance: median squared distance of a key to the nearest elsewhere.
        id: of this build; what is added later does not change it.
    """

    model_sha256: str
    model_name: str
    dimension: int
    key_type: KeyType
    n_entries: int = 0
    typical_distance: float = 0.0
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def write(self, folder: Path) -> None:
        """Put the manifest into a folder, whole or not at all."""
        fields = {"format": _FORMAT, **asdict(self)}
        with (
            replacing_file(folder / MANIFEST) as new,
            new.open("w", encoding="utf-8") as file,
        ):
            json.dump(fields, file, indent=2)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read a folder's manifest.

        Raises:
            DatastoreError: there is none, or it is not one of ours.
        """
        file = folder / MANIFEST
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
            made_by = fields.pop("format")
            manifest = cls(**{"id": "", **fields})
        except FileNotFoundError as error:
            msg = f"no datastore in {str(folder)!r}: build one with KNNDatastore.build"
            raise DatastoreError(msg) from error
        except PermissionError as error:
            msg = f"the datastore {str(folder)!r} may not be read: {error.strerror}"
            raise DatastoreError(msg) from error
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise _broken(file, f"is not a datastore's: {error}") from error
        if made_by != _FORMAT:
            raise _broken(file, f"is a {made_by!r}, not a {_FORMAT!r}")
        for name, is_valid in _CHECKS.items():
            value = getattr(manifest, name)
            if not is_valid(value):
                raise _broken(file, f"says that {name} is {value!r}")
        return manifest


@contextmanager
def reported(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into a ``DatastoreError``."""
    try:
        yield
    except OSError as error:
        msg = (
            f"cannot write the datastore {str(folder)!r}: {error}; make room, or name "
            "a folder in a place that may be written to"
        )
        raise DatastoreError(msg) from error


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Do what ``replacing_folder`` does, with its own failures ``DatastoreError``."""
    with ExitStack() as stack:
        with reported(folder):
            new = stack.enter_context(replacing_folder(folder))
        yield new  # what fails here is not the disk's, or said to be
        with reported(folder):
            stack.close()


def _broken(file: Path, why: str) -> DatastoreError:
    return DatastoreError(
        f"{str(file)!r} {why}; delete its folder and build the datastore anew"
    )


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "model_sha256": lambda v: isinstance(v, str),
    "model_name": lambda v: isinstance(v, str),
    "dimension": lambda v: type(v) is int and v >= 1,
    "key_type": lambda v: v in KEY_TYPES,
    "n_entries": lambda v: type(v) is int and v >= 1,
    "typical_distance": lambda v: isinstance(v, int | float) and 0 < v < math.inf,
    "id": lambda v: isinstance(v, str) and v.isalnum(),  # a part of files' names
}
"""Whether a field of a manifest can be what a file says."""


class Entries:
    """Keys and tokens, mapped into memory.

    Attributes:
        manifest: what they are.
        keys: float16 or float32, shape ``(n, dimension)``.
        tokens: int32, shape ``(n,)``.
    """

    def __init__(self, folder: Path, manifest: Manifest | None = None) -> None:
        """Open a folder's files; without a manifest, its own is read.

        Raises:
            DatastoreError: a file is missing, truncated, or not as the manifest says.
        """
        self.manifest = manifest = manifest or Manifest.read(folder)
        shape = (manifest.n_entries, manifest.dimension)
        self.keys = _mapped(folder / _KEYS, manifest.key_type, shape)
        self.tokens = _mapped(folder / _TOKENS, "int32", shape[:1])

    def __len__(self) -> int:
        return self.manifest.n_entries

    def read(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Copies of some keys, in float32, and of their tokens."""
        keys, torch = self.keys[rows], loaded_torch()
        if torch is None:
            keys = keys.astype(np.float32)
        else:  # the same bits ten times sooner
            keys = torch.from_numpy(keys).float().numpy()
        return keys, np.asarray(self.tokens[rows])


class EntryWriter:
    """Adds entries behind those of a manifest, to files made if need be.

    What the disk refuses is an ``OSError``: see ``reported``.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._manifest = manifest
        self.n_entries = manifest.n_entries
        shape = (self.n_entries, manifest.dimension)
        with ExitStack() as opened:
            self._keys = _NpyFile(folder / _KEYS, manifest.key_type, shape)
            opened.callback(self._keys.close)  # should the other one not open
            self._tokens = _NpyFile(folder / _TOKENS, "int32", shape[:1])
            opened.pop_all()

    def add(self, keys: NDArray[np.float32], tokens: NDArray[np.int32]) -> None:
        """Add entries: ``(n, dimension)`` keys and the ``(n,)`` tokens behind them.

        Raises:
            InvalidValueError: a number is not finite as it is kept; nothing was added.
        """
        key_type = self._manifest.key_type
        with np.errstate(over="ignore"):
            kept = keys.astype(key_type)
        is_finite = np.isfinite(kept)
        if not is_finite.all():
            msg = (
                f"a number of a key is {keys[~is_finite][0]}, which cannot be kept as "
                f"{key_type}; build the datastore with key_type='float32', or with "
                "another model if it is kept so already"
            )
            raise InvalidValueError(msg)
        self._keys.add(kept)
        self._tokens.add(tokens)
        self.n_entries += len(tokens)

    def undo(self) -> None:
        """Forget what was added, so that the files do not keep a disk full."""
        self.n_entries = self._manifest.n_entries
        self._keys.cut(self.n_entries)
        self._tokens.cut(self.n_entries)

    def close(self) -> None:
        """Finish the files; the manifest is the caller's to write."""
        try:
            self._keys.close()
        finally:
            self._tokens.close()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only one who writes to a datastore, or raise a ``DatastoreError``."""
    busy = f"somebody else writes to the datastore {str(folder)!r}; wait for the end"
    if sys.platform == "win32":
        mark = folder / "writing"
        with reported(folder):
            try:
                mark.touch(exist_ok=False)
            except FileExistsError as error:
                msg = f"{busy}, or delete {str(mark)!r} if it was killed"
                raise DatastoreError(msg) from error
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)
    else:
        with ExitStack() as held:
            with reported(folder):
                # Closing it releases the lock.
                file = held.enter_context((folder / _TOKENS).open("ab"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise DatastoreError(busy) from error
            yield


class _NpyFile:
    """A NumPy file that grows: its header has room for any number of rows."""

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self._dtype, self._shape = np.dtype(dtype), shape
        self._row_bytes = self._dtype.itemsize * int(np.prod(shape[1:]))
        # No buffer: what it held when the disk was full would be tried again.
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._seek_end()

    def _seek_end(self) -> None:
        self._file.seek(_HEADER_BYTES + self._shape[0] * self._row_bytes)

    def add(self, rows: NDArray[Any]) -> None:
        self._write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self._shape = (self._shape[0] + len(rows), *self._shape[1:])

    def cut(self, n_rows: int) -> None:
        """Go back to the first rows."""
        self._shape = (n_rows, *self._shape[1:])

    def close(self) -> None:
        with self._file as file:
            self._seek_end()
            file.truncate()
            file.seek(0)
            self._write(_header(self._dtype, self._shape))
            os.fsync(file.fileno())

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """A header of the NPY format 1.0, padded to a fixed length."""
    fields = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    magic = np.lib.format.magic(1, 0)
    length = _HEADER_BYTES - len(magic) - 2
    text = repr(fields).ljust(length - 1) + "\n"
    return magic + length.to_bytes(2, "little") + text.encode("ascii")


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The first rows of a NumPy file, mapped into memory.

    Raises:
        DatastoreError: the file is missing, truncated or another one.
    """

    def refused(why: str) -> DatastoreError:
        return DatastoreError(f"{why}; build the datastore anew")

    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
            n_bytes = file.seek(0, os.SEEK_END) - _HEADER_BYTES
    except OSError as error:
        raise refused(f"cannot open {str(path)!r}: {error}") from error
    numbers = np.dtype(dtype)
    rows = re.search(rb"\((\d+),", header)
    if rows is None or header != _header(numbers, (int(rows[1]), *shape[1:])):
        raise refused(
            f"{str(path)!r} is not a NumPy file of {dtype} in rows of shape "
            f"{shape[1:]}, as its manifest says"
        )
    expected = numbers.itemsize * math.prod(shape)
    if n_bytes < expected:
        raise refused(
            f"{str(path)!r} holds {n_bytes} of the {expected} bytes that its manifest "
            "says"
        )
    return np.memmap(path, numbers, "r", _HEADER_BYTES, shape)
