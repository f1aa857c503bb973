"""A sequence of tokens whose KV is kept: extend, roll back, save."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_ralmspec.arguments import Live
from langchain_ralmspec.engine.kv import KV
from langchain_ralmspec.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Sequence as Tokens

    import numpy as np
    from numpy.typing import NDArray

    from langchain_ralmspec.engine.kv import Snapshot
    from langchain_ralmspec.engine.slots import Slots


class Sequence(Live):
    """Tokens decoded one after another on a path of their own.

    A sequence is *virtual*: there may be more of them than the context has slots. The
    one that has been idle longest is moved to host memory and back, bit for bit, so
    callers need not know where a sequence is. Its slot and memory are free again when
    the object is gone; there is nothing to close.
    """

    def __init__(
        self, slots: Slots, snapshot: Snapshot | None = None, owner: object = None
    ) -> None:
        """Start empty or from a snapshot; ``owner`` lives as long as this object."""
        self._slots, self._owner = slots, owner
        self._kv = KV(snapshot.length, parked=snapshot.state) if snapshot else KV()

    @property
    def length(self) -> int:
        """Number of tokens decoded so far."""
        return self._kv.length

    def extend(self, tokens: Tokens[int]) -> NDArray[np.float32]:
        """Decode ``tokens`` and return the logits after the last, ``(n_vocab,)``.

        Raises:
            ContextOverflowError: the context has no room; nothing was decoded.
            DecodeError: llama.cpp failed; the sequence is as long as before.
            InvalidValueError: no tokens.
        """
        if not tokens:
            msg = "extend() needs at least one token, got none"
            raise InvalidValueError(msg)
        return self._slots.decode(self._kv, tokens, n_logits=1).ravel()

    def score(self, tokens: Tokens[int]) -> NDArray[np.float32]:
        """Decode ``tokens`` in one call and return the logits after each of them.

        The shape is ``(len(tokens), n_vocab)``. Raises as :meth:`extend` does, and an
        :class:`InvalidValueError` for more tokens than one call takes.
        """
        self._check_one_call(tokens)
        return self._slots.decode(self._kv, tokens, n_logits=len(tokens))

    def observe(
        self, tokens: Tokens[int], *, n_logits: int = 1, forget: int = 0, keep: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Decode ``tokens`` in one call and return hidden states as well.

        Before that, ``forget`` tokens behind the first ``keep`` make room. What later
        tokens have seen of them stays in the KV. Moving such a sequence between
        memories closes the gap, and so keeps its numbers but for rounding, not to the
        bit.

        Returns:
            The logits after each of the last ``n_logits`` tokens, as :meth:`score`
            gives them, and the final hidden state at every token,
            ``(len(tokens), n_embd)``.

        Raises:
            ContextOverflowError: as for :meth:`extend`.
            DecodeError: the context cannot forget tokens, or llama.cpp failed; the
                sequence is as before, or empty if it had forgotten tokens by then.
            InvalidValueError: as for :meth:`score`, or more to forget than there are.
        """
        self._check_one_call(tokens)
        if not (forget >= 0 and 0 <= keep <= self.length - forget):
            msg = (
                f"cannot forget {forget} tokens behind the first {keep} of a sequence "
                f"of {self.length}"
            )
            raise InvalidValueError(msg)
        return self._slots.observe(
            self._kv, tokens, n_logits=n_logits, forget=forget, keep=keep
        )

    def prefill(self, tokens: Tokens[int]) -> None:
        """Decode ``tokens`` for their KV alone; raises as :meth:`extend` does."""
        if tokens:
            self._slots.decode(self._kv, tokens, n_logits=0)

    def truncate(self, length: int) -> None:
        """Roll back to the first ``length`` tokens."""
        if not 0 <= length <= self.length:
            msg = f"cannot truncate a sequence of {self.length} tokens to {length}"
            raise InvalidValueError(msg)
        self._slots.truncate(self._kv, length)

    def save(self) -> Snapshot:
        """Copy the KV to host memory."""
        return self._slots.save(self._kv)

    def _check_one_call(self, tokens: Tokens[int]) -> None:
        most = self._slots.n_batch
        if not 0 < len(tokens) <= most:
            msg = f"one call takes 1 to {most} tokens, got {len(tokens)}"
            raise InvalidValueError(msg)
