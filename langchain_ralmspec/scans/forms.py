"""The forms in which the rows of a matrix are multiplied with queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_ralmspec.scans.candidates import FLOAT32_ERROR

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from numpy.typing import NDArray

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
    """Rows of a matrix, copied in blocks, so that growing moves none.

    Attributes:
        n_rows: number of rows that were appended.
    """

    def __init__(self, empty: Callable[[tuple[int, int]], Any]) -> None:
        """Start without rows.

        Args:
            empty: gives fresh memory; the system hands it out as it is written to.
        """
        self.n_rows = 0
        self._empty = empty
        self._blocks: list[Any] = []

    def append(self, chunk: NDArray[np.float32]) -> None:
        """Copy more rows, all of one block."""
        number, first = divmod(self.n_rows, BLOCK_ROWS)
        if number == len(self._blocks):
            self._blocks.append(self._empty((BLOCK_ROWS, chunk.shape[1])))
        self.write(self._blocks[number][first : first + len(chunk)], chunk)
        self.n_rows += len(chunk)

    def write(self, part: Any, chunk: NDArray[np.float32]) -> None:
        """Fill a part of a block."""
        part[:] = chunk

    def part(self, start: int, stop: int) -> Any:
        """The rows from ``start`` to ``stop``, all of one block."""
        number, first = divmod(start, BLOCK_ROWS)
        return self._blocks[number][first : first + stop - start]


class RowsInPlace(Rows):
    """Rows of a float32 matrix that are not copied.

    Attributes:
        matrix: the matrix as it is now.
    """

    matrix: NDArray[np.float32]

    def __init__(self) -> None:
        """Start without rows."""
        super().__init__(np.empty)

    def append(self, chunk: NDArray[np.float32]) -> None:
        """Count more rows."""
        self.n_rows += len(chunk)

    def part(self, start: int, stop: int) -> NDArray[np.float32]:
        """The rows from ``start`` to ``stop``."""
        return self.matrix[start:stop]


class BFloat16Rows(Rows):
    """Rows rounded to bfloat16.

    Attributes:
        most_lost: length that rounding took from a row at most, relative to its own.
    """

    def __init__(self, torch: ModuleType) -> None:
        """Start without rows."""
        super().__init__(lambda shape: empty(torch, shape, torch.bfloat16))
        self.most_lost = 0.0
        self._torch = torch

    def write(self, part: Any, chunk: NDArray[np.float32]) -> None:
        """Round rows, and measure what is lost."""
        exact = self._torch.from_numpy(chunk)
        part[:] = exact
        lost = float(_lost_by_rounding(self._torch, exact, part).max())
        self.most_lost = max(self.most_lost, lost)


class Form:
    """Rows in float32, multiplied by numpy, whose rounding no setting changes.

    Attributes:
        rows: where they are kept; forms may share them.
    """

    def __init__(self, rows: Rows) -> None:
        """Multiply these rows."""
        self.rows = rows

    def errors(self, queries: NDArray[np.float32]) -> NDArray[np.float64]:
        """Largest error of a product with each query, relative to the lengths."""
        return np.full(len(queries), _sum_error(queries))

    def usual_errors(self, queries: NDArray[np.float32]) -> NDArray[np.float64]:
        """Error that no product has unless torch was told to round more coarsely."""
        return self.errors(queries)

    def scores(
        self,
        factors: NDArray[np.float32],
        start: int,
        stop: int,
        added: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """Multiply some rows with every factor.

        Args:
            factors: shape ``(n_factors, dimension)``.
            start: the first row.
            stop: the row behind the last one, in the same block.
            added: a number for each row, added to its products.

        Returns:
            Shape ``(n_factors, stop - start)``, valid until the next call.
        """
        products: NDArray[np.float32] = factors @ self.rows.part(start, stop).T
        if added is not None:
            products += added
        return products


class TorchForm(Form):
    """Rows in float32, multiplied by torch."""

    def __init__(self, rows: Rows, torch: ModuleType) -> None:
        """Multiply these rows."""
        super().__init__(rows)
        self._torch = torch

    def usual_errors(self, queries: NDArray[np.float32]) -> NDArray[np.float64]:
        """Twice those that are relative to the sum of squared lengths.

        A process may let torch round to bfloat16 or TF32, in several ways that no one
        function of torch reports (``set_float32_matmul_precision`` is one).
        """
        return np.full(len(queries), 2 * ROUNDING)

    def scores(
        self,
        factors: NDArray[np.float32],
        start: int,
        stop: int,
        added: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """Products as X·Qᵀ: up to four times as fast as Q·Xᵀ for 2 to 8 queries."""
        torch = self._torch
        products = np.empty((stop - start, len(factors)), np.float32)
        out, rows = torch.from_numpy(products), self.rows.part(start, stop)
        torch.mm(torch.from_numpy(rows), torch.from_numpy(factors).T, out=out)
        if added is not None:
            out.add_(torch.from_numpy(added)[:, None])
        return products.T


class BFloat16Form(Form):
    """Rows in bfloat16, multiplied by torch.

    One query is bound by reading the matrix, many by multiplying it; a processor that
    multiplies bfloat16 natively does that several times as fast as float32, so that
    many queries cost little more than one.
    """

    def __init__(self, rows: BFloat16Rows, torch: ModuleType) -> None:
        """Multiply these rows."""
        super().__init__(rows)
        self._rounded, self._torch = rows, torch
        # Fresh memory costs as much as the product.
        self._products = empty(torch, (0,), torch.bfloat16)
        self._scores = empty(torch, (0,), torch.float32)

    def errors(self, queries: NDArray[np.float32]) -> NDArray[np.float64]:
        """Those of rounding both vectors, as measured, and the sum and the product."""
        exact = self._torch.from_numpy(queries)
        rounded = exact.to(self._torch.bfloat16)
        lost = _lost_by_rounding(self._torch, exact, rounded).numpy()
        both = (1 + self._rounded.most_lost) * (1 + lost)
        errors: NDArray[np.float64] = (
            both * (1 + _BFLOAT16_ROUNDING) - 1 + _sum_error(queries)
        )
        return errors

    def scores(
        self,
        factors: NDArray[np.float32],
        start: int,
        stop: int,
        added: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """Products, a line per factor, in memory that the next call takes again."""
        torch, shape = self._torch, (len(factors), stop - start)
        size = shape[0] * shape[1]
        if size > len(self._scores):
            self._products = empty(torch, (size,), torch.bfloat16)
            self._scores = empty(torch, (size,), torch.float32)
        products = self._products[:size].view(shape)
        rounded = torch.from_numpy(factors).to(torch.bfloat16)
        torch.mm(rounded, self.rows.part(start, stop).T, out=products)
        scores = self._scores[:size].view(shape)
        scores.copy_(products)  # mixed types in one operation are slow
        if added is not None:
            scores.add_(torch.from_numpy(added))
        numbers: NDArray[np.float32] = scores.numpy()
        return numbers


def empty(torch: ModuleType, shape: tuple[int, ...], dtype: Any) -> Any:
    """Memory that no setting of the caller's thread has to do with."""
    with torch.inference_mode(mode=False):
        return torch.empty(shape, dtype=dtype, device="cpu")


def _sum_error(queries: NDArray[np.float32]) -> float:
    dimension: int = queries.shape[1]
    return max(FLOAT32_ERROR, dimension * _FLOAT32_ROUNDING)


def _lost_by_rounding(torch: ModuleType, exact: Any, rounded: Any) -> Any:
    """Length that rounding takes from rows, relative to their own, in float64."""

    def lengths(vectors: Any) -> Any:
        return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)

    return lengths(exact - rounded.float()) / lengths(exact).clamp(min=1e-300)
