"""Does a token have the same bits in company, decoded with those of other sequences?

Which kernels compute a token depends on how many there are in a call, and on how long
the longest sequence is. So it is measured, in the context and with the settings that
answers are written with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from langchain_ralmspec.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from langchain_ralmspec.engine.context import Context

MOST_TOGETHER = 16
"""Sequences with a token in one call, at most."""

_LONGEST = 544  # attention is split for lone tokens behind 512, by several threads
_SIZES = (2, 3, 4, 5, 8, MOST_TOGETHER)  # kernels change between some of these
_N_STEPS = 2  # tokens of each sequence: the second one reads what the first left


class Company:
    """How many sequences may have a token in one call without a bit of it changing.

    Attributes:
        most: as far as it was measured; 1 before.
    """

    def __init__(self, context: Context, *, exact: bool) -> None:
        """Measure nothing yet; if not ``exact``, any company will do.

        On a GPU no company is exact: its kernels part the work by the lengths of all
        sequences together, which no test of short ones tells.
        """
        self.most = 1 if exact else MOST_TOGETHER
        self._context = context
        # Slots that there were when it was measured; all, where there is no need to.
        is_measured = not exact or context.weights.n_gpu_layers != 0
        self._n_measured = MOST_TOGETHER if is_measured else 1

    @property
    def is_exact(self) -> bool:
        """Whether nothing has changed in any company so far."""
        return self.most == self._n_measured

    @property
    def limit(self) -> int:
        """How many may turn out to be exact together."""
        return MOST_TOGETHER if self.is_exact else self.most

    @property
    def is_behind(self) -> bool:
        """Whether there are slots for a larger company, which may be exact as well."""
        n_slots = min(self._context.n_slots, MOST_TOGETHER)
        return self.is_exact and n_slots > self._n_measured

    def measure(self) -> None:
        """Measure it for as many sequences as there are slots.

        What these held is lost.
        """
        before, n_slots = self._n_measured, min(self._context.n_slots, MOST_TOGETHER)
        sizes = sorted({n_slots, *(n for n in _SIZES if before < n < n_slots)})
        self._clear()
        try:
            most = self._most(sizes)
        except DecodeError:  # a recurrent memory cannot be rolled back
            most = 1
        finally:
            self._clear()
        self.most, self._n_measured = most, n_slots

    def _clear(self) -> None:
        for slot in range(self._context.n_slots):
            self._context.remove(slot, 0)

    def _most(self, sizes: Sequence[int]) -> int:
        """The largest of ascending sizes up to which nothing changes, or as before."""
        rng, largest = np.random.default_rng(2), sizes[-1]
        n_tokens = self._context.weights.n_vocab
        tokens = rng.integers(0, n_tokens, (_N_STEPS, largest))
        # From the longest down to short ones, all of one text.
        longest = min(_LONGEST, self._context.n_cells - _N_STEPS)
        lengths = [longest - n * (longest // largest) for n in range(largest)]
        text = self._read(rng.integers(0, n_tokens, longest).tolist())
        alone = self._decoded(text, lengths, tokens, 1)
        most = self.most
        for size in sizes:
            together = self._decoded(text, lengths[:size], tokens[:, :size], size)
            if not np.array_equal(together, alone[:, :size]):
                break
            most = size
        return most

    def _read(self, tokens: list[int]) -> NDArray[np.uint8]:
        """The KV of a text."""
        n_batch = self._context.n_batch
        for at in range(0, len(tokens), n_batch):
            self._context.decode(0, tokens[at : at + n_batch], at, n_logits=0)
        return self._context.save(0)

    def _decoded(
        self,
        text: NDArray[np.uint8],
        lengths: Sequence[int],
        tokens: NDArray[np.int64],
        size: int,
    ) -> NDArray[np.float32]:
        """The logits behind tokens of sequences, of which ``size`` are in one call.

        Args:
            text: the KV of a text that all sequences begin with.
            lengths: of these beginnings.
            tokens: of each step, those of all sequences.
            size: 1, or as many as there are sequences.

        Returns:
            Shape ``(steps, sequences, n_vocab)``.
        """
        context, slots = self._context, range(len(lengths))
        for slot, length in zip(slots, lengths, strict=True):
            context.remove(slot, 0)
            context.load(slot, text)
            context.remove(slot, length)
        rows = []
        for step, drawn in enumerate(tokens.tolist()):
            positions = [length + step for length in lengths]
            for at in range(0, len(lengths), size):
                part = slice(at, at + size)
                call = slots[part], drawn[part], positions[part]
                rows.append(context.decode_each(*call))
        return np.concatenate(rows).reshape(len(tokens), len(lengths), -1)
