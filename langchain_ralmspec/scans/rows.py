"""The rows of a matrix as they are kept and multiplied with queries."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_ralmspec.scans.candidates import FLOAT32_ERROR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

BLOCK_ROWS = 1 << 18
"""Rows of a block of a copy; no product crosses the border of two."""

ROUNDING = 1e-6
"""How far a float32 score, a product's here or FAISS's own, may be from the true one.

Relative to the sum of the squared lengths of its two vectors: FAISS's BLAS route
subtracts numbers of that size. A product stays below a quarter of it.
"""

_FLOAT32_ROUNDING = 2.0**-23  # of a sum, at every number added
_BFLOAT16_ROUNDING = 2.0**-8  # of a number, relative: 8 bits are kept


class Rows:
    """Rows in float32, in place or copied: in blocks, so that growing moves none.

    Attributes:
        matrix: the matrix as it is now where its rows are not copied, else None.
        n_rows: number of rows that were appended.
        longest: a length that none exceeds; not finite where a row is not.
    """

    matrix: Floats | None = None

    def __init__(self) -> None:
        self.n_rows, self.longest = 0, 0.0
        self._squares: list[Floats] = []
        self._blocks: list[Any] = []

    @property
    def squares(self) -> Floats:
        """The squared length of every row."""
        if len(self._squares) > 1:
            self._squares = [np.concatenate(self._squares)]
        return self._squares[0]

    def append(self, chunk: Floats, n_known: int) -> None:
        """Take more rows in, all of one block, of the ``n_known`` there are to take."""
        with np.errstate(over="ignore"):
            squares = np.einsum("nd,nd->n", chunk, chunk)
        longest = longest_of(squares, chunk.shape[1])
        if self.matrix is None:  # without memory this raises, and nothing has changed
            self._write(self._room_for(chunk, n_known), chunk)
        self._squares.append(squares)
        # A length that is no number stays one, which is looked at later.
        self.longest = float(np.maximum(self.longest, longest))
        self.n_rows += len(chunk)

    def part(self, start: int, stop: int) -> Any:
        """The rows from ``start`` to ``stop``, all of one block."""
        if self.matrix is not None:
            return self.matrix[start:stop]
        number, first = divmod(start, BLOCK_ROWS)
        return self._blocks[number][first : first + stop - start]

    def errors(self, queries: Floats) -> NDArray[np.float64]:
        """Largest error of a product with each query, relative to the lengths."""
        return np.full(len(queries), _sum_error(queries))

    def scores(self, factors: Floats, part: Any, added: Any, torch: Any) -> Floats:
        """Multiply some rows with every factor.

        Args:
            factors: shape ``(n_factors, dimension)``.
            part: the rows, as :meth:`part` gives them.
            added: a number for each row, added to its products; or None.
            torch: multiplies; numpy, whose rounding no setting changes, if None.

        Returns:
            Shape ``(n_factors, len(part))``, valid until the next call.
        """
        products: Floats
        if torch is None:
            products = factors @ part.T
            if added is not None:
                products += added
            return products
        # As X·Qᵀ: up to four times as fast as Q·Xᵀ for 2 to 8 queries.
        products = np.empty((len(part), len(factors)), np.float32)
        out = torch.from_numpy(products)
        torch.mm(torch.from_numpy(part), torch.from_numpy(factors).T, out=out)
        if added is not None:
            out.add_(torch.from_numpy(added)[:, None])
        return products.T

    def _room_for(self, chunk: Floats, n_known: int) -> Any:
        """The part of the last block to write to; a full block grows by copying."""
        number, first = divmod(self.n_rows, BLOCK_ROWS)
        stop = first + len(chunk)
        if number == len(self._blocks) or len(self._blocks[number]) < stop:
            # Twice as many, so that rows that come one by one are seldom copied.
            size = min(BLOCK_ROWS, max(n_known - number * BLOCK_ROWS, 2 * first))
            block = self._empty((size, chunk.shape[1]))
            if first:
                block[:first] = self._blocks[number][:first]
            self._blocks[number:] = [block]
        return self._blocks[number][first:stop]

    def _empty(self, shape: tuple[int, int]) -> Any:
        """Memory for a new block, of the type that rows are kept in."""
        return np.empty(shape, np.float32)

    def _write(self, part: Any, chunk: Floats) -> None:
        part[:] = chunk


class BFloat16Rows(Rows):
    """Rows rounded to bfloat16, multiplied by torch.

    One query is bound by reading the matrix, many by multiplying it; a processor that
    multiplies bfloat16 natively does that several times as fast as float32, so that
    many queries cost little more than one.

    Attributes:
        most_lost: length that rounding took from a row at most, relative to its own.
    """

    def __init__(self, torch: ModuleType) -> None:
        super().__init__()
        self.most_lost = 0.0
        self._torch = torch
        # Fresh memory costs as much as the product.
        self._products = _empty(torch, (0,), torch.bfloat16)
        self._scores = _empty(torch, (0,), torch.float32)

    def errors(self, queries: Floats) -> NDArray[np.float64]:
        """Those of rounding both vectors, as measured, and the sum and the product."""
        exact = self._torch.from_numpy(queries)
        rounded = exact.to(self._torch.bfloat16)
        lost = _lost_by_rounding(self._torch, exact, rounded).numpy()
        both = (1 + self.most_lost) * (1 + lost)
        errors: NDArray[np.float64] = (
            both * (1 + _BFLOAT16_ROUNDING) - 1 + _sum_error(queries)
        )
        return errors

    def scores(self, factors: Floats, part: Any, added: Any, torch: Any) -> Floats:
        """Products, a line per factor, in memory that the next call takes again."""
        torch, shape = self._torch, (len(factors), len(part))
        size = shape[0] * shape[1]
        if size > len(self._scores):
            self._products = _empty(torch, (size,), torch.bfloat16)
            self._scores = _empty(torch, (size,), torch.float32)
        products = self._products[:size].view(shape)
        rounded = torch.from_numpy(factors).to(torch.bfloat16)
        torch.mm(rounded, part.T, out=products)
        scores = self._scores[:size].view(shape)
        scores.copy_(products)  # mixed types in one operation are slow
        if added is not None:
            scores.add_(torch.from_numpy(added))
        numbers: Floats = scores.numpy()
        return numbers

    def _empty(self, shape: tuple[int, int]) -> Any:
        return _empty(self._torch, shape, self._torch.bfloat16)

    def _write(self, part: Any, chunk: Floats) -> None:
        """Round rows, and measure what is lost."""
        exact = self._torch.from_numpy(chunk)
        part[:] = exact
        lost = float(_lost_by_rounding(self._torch, exact, part).max())
        self.most_lost = max(self.most_lost, lost)


def longest_of(squares: Floats, dimension: int) -> float:
    """A length that none exceeds, by squared lengths that were summed in float32."""
    error = max(FLOAT32_ERROR, dimension * _FLOAT32_ROUNDING / 2)
    return float(np.sqrt(squares.max())) * (1 + error)


def block_end(start: int) -> int:
    """Where the block ends that this row is in."""
    return (start // BLOCK_ROWS + 1) * BLOCK_ROWS


def _empty(torch: ModuleType, shape: tuple[int, ...], dtype: Any) -> Any:
    """Memory that no setting of the caller's thread has to do with."""
    with torch.inference_mode(mode=False):
        return torch.empty(shape, dtype=dtype, device="cpu")


def _sum_error(queries: Floats) -> float:
    dimension: int = queries.shape[1]
    return max(FLOAT32_ERROR, dimension * _FLOAT32_ROUNDING)


def _lost_by_rounding(torch: ModuleType, exact: Any, rounded: Any) -> Any:
    """Length that rounding takes from rows, relative to their own, in float64."""

    def lengths(vectors: Any) -> Any:
        return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)

    return lengths(exact - rounded.float()) / lengths(exact).clamp(min=1e-300)
