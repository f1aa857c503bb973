"""Prefixes are read once, and their KV is kept for whoever begins alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Tokens
from contextlib import nullcontext, suppress
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from langchain_ralmspec.arguments import Live
from langchain_ralmspec.engine.heads import LEAST_PART, Head, aligned, parted
from langchain_ralmspec.engine.sequence import Sequence
from langchain_ralmspec.errors import DecodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from langchain_ralmspec.engine.kv import Snapshot
    from langchain_ralmspec.engine.prefixes import PrefixCache
    from langchain_ralmspec.engine.slots import Slots
    from langchain_ralmspec.engine.weights import Weights

_MEASURED = (4, 12)  # tokens of two prefixes, whose sizes tell that of any


class Read(NamedTuple):
    """A prompt that was read to its end.

    Attributes:
        sequence: holds all of it.
        n_known: for how many of its first tokens the KV was there.
        logits: those after its last token, ``(n_vocab,)``.
        keep: has the KV of its prefix kept, if it was not before; what stands behind
            the prefix is forgotten, so this is for the end.
    """

    sequence: Sequence
    n_known: int
    logits: NDArray[np.float32]
    keep: Callable[[], None]


class Reader(Live):
    """Reads tokens into new sequences, and keeps the KV of prefixes.

    Args:
        weights: the model file's vocabulary.
        slots: where sequences are decoded.
        prefixes: the KV that is kept.
    """

    def __init__(self, weights: Weights, slots: Slots, prefixes: PrefixCache) -> None:
        self.weights, self._slots, self._prefixes = weights, slots, prefixes
        self.n_batch = slots.n_batch
        self._opening = threading.Lock()
        # Whether a text has the same KV however it is cut; None as long as unknown. On
        # a GPU no test of one text tells that of others, and what is no plain KV may
        # not be rolled back.
        may_be = weights.has_plain_kv and weights.n_gpu_layers == 0
        self._cuts_freely: bool | None = None if may_be else False

    def new_sequence(self, snapshot: Snapshot | None = None) -> Sequence:
        """Start an empty sequence, or one that continues from a snapshot."""
        return Sequence(self._slots, snapshot, owner=self)  # which the next load shares

    def open(self, prefix: Tokens[int], *, keep: bool = True) -> Sequence:
        """Start a sequence that holds ``prefix``, which must fit the context.

        The prefix's KV is computed once, in one canonical way, and copied afterwards,
        while the cache of prefixes has room; without ``keep``, it is not put there.
        """
        return self.find_or_open(prefix, keep=keep)[0]

    def find_or_open(
        self,
        prefix: Tokens[int],
        *,
        part: int = 0,
        ends: Tokens[int] = (),
        keep: bool = True,
        namespace: str | None = None,
    ) -> tuple[Sequence, int]:
        """Do what :meth:`open` does, and tell for how many tokens the KV was there.

        A prefix is read in parts of ``part`` tokens (0 takes ``n_batch``) that end at
        ``ends`` (see :func:`~langchain_ralmspec.engine.heads.parted`), each in calls of
        its own. Where the KV of others that begin with the same parts is there, those
        are not read again: the same calls in the same order give the same bits. Within
        a ``namespace``, only what was read within it counts as there.
        """
        parts, heads = self._parted(prefix, part, ends, namespace)
        self._slots.require_own_process()  # a lock of another's may never be free
        # One after the other: who waits for a long text finds it in the end.
        with self._opening if keep else nullcontext():
            sequence, n_known = self._begin(heads)
            for number, each in enumerate(parts[n_known:], n_known + 1):
                sequence.prefill(each)
                # What stands before documents, if it is short: nobody need cut it off.
                is_shared = number == 1 and _is_end(sequence.length, ends)
                if keep and (number == len(parts) or is_shared):
                    self._prefixes.put(heads[:number], sequence.save())
            return sequence, _length(heads[:n_known])

    def read(
        self,
        prefix: Tokens[int],
        rest: Tokens[int],
        *,
        part: int = 0,
        ends: Tokens[int] = (),
        namespace: str | None = None,
    ) -> Read:
        """Start a sequence that holds ``prefix`` and what follows it, never empty.

        The prefix's parts and namespace are those of :meth:`find_or_open`, and so is
        its KV. Where a text has the same KV however it is cut, as it does on most
        processors, what is missing is read in as few calls as there can be.
        """
        parts, heads = self._parted(prefix, part, ends, namespace)
        self._slots.require_own_process()
        text = (*prefix, *rest)
        with self._opening:
            if self._may_cut_anywhere(parts, len(text)):
                read = self._read_whole(parts, heads, text, ends)
                if self._cuts_freely is None:
                    self._cuts_freely = self._is_as_in_parts(read, text)
                if self._cuts_freely:
                    return read
        sequence, n_known = self.find_or_open(
            prefix, part=part, ends=ends, namespace=namespace
        )
        return Read(sequence, n_known, sequence.extend(rest), lambda: None)

    def _may_cut_anywhere(self, parts: Tokens[Tokens[int]], n_tokens: int) -> bool:
        """Whether a text may be cut otherwise: it is long enough to be cut in two."""
        two = 2 * LEAST_PART
        # Parts have to be calls as well, in which nothing is left over.
        are_calls = max([two, *map(len, parts)]) <= self.n_batch
        is_long = n_tokens - _first_call(parts) >= two
        return self._cuts_freely is not False and is_long and are_calls

    def _read_whole(
        self,
        parts: Tokens[Tokens[int]],
        heads: Tokens[Head],
        text: Tokens[int],
        ends: Tokens[int],
    ) -> Read:
        """Read a text that begins with parts in calls of ``LEAST_PART`` or more."""
        if len(parts) > 1 and len(parts[-1]) < LEAST_PART:  # it has a KV of its own
            heads = heads[:-1]
        sequence, n_known = self._begin(heads)
        n_known, start = _length(heads[:n_known]), _first_call(parts)
        if start and not n_known:
            sequence.prefill(text[:start])
            if _is_end(start, ends):
                self._prefixes.put(heads[:1], sequence.save())
        at = max(start, aligned(min(n_known, len(text) - LEAST_PART)))
        if at < sequence.length:
            sequence.truncate(at)
        for end in _calls(at, len(text), self.n_batch):
            logits = sequence.extend(text[sequence.length : end])

        def keep() -> None:
            length = _length(heads)
            if n_known < length <= sequence.length:
                with suppress(DecodeError):  # it will be read again
                    sequence.truncate(length)
                    self._prefixes.put(heads, sequence.save())

        return Read(sequence, min(n_known, at), logits, keep)

    def _is_as_in_parts(self, read: Read, text: Tokens[int]) -> bool:
        """Whether a text that was read whole has the logits that parts of it give."""
        sequence, border = read.sequence, aligned(len(text) - LEAST_PART)
        sequence.truncate(border - LEAST_PART)
        sequence.prefill(text[border - LEAST_PART : border])
        logits = sequence.extend(text[border:])
        return np.array_equal(logits, read.logits)

    def _parted(
        self, prefix: Tokens[int], part: int, ends: Tokens[int], namespace: str | None
    ) -> tuple[list[Tokens[int]], list[Head]]:
        controls = self.weights.controls if ends else ()
        parts = parted(tuple(prefix), part or self.n_batch, ends, controls)
        return parts, self._prefixes.heads(parts, namespace)

    def _begin(self, heads: Tokens[Head]) -> tuple[Sequence, int]:
        """A sequence of the first parts whose KV is kept, and their number."""
        n_known, snapshot = self._prefixes.longest(heads)
        sequence = self.new_sequence(snapshot)
        if not n_known or sequence.length == heads[n_known - 1].length:
            return sequence, n_known
        try:
            sequence.truncate(heads[n_known - 1].length)
        except DecodeError:  # a recurrent memory cannot be rolled back
            n_known, snapshot = self._prefixes.longest(heads, whole=True)
            return self.new_sequence(snapshot), n_known
        return sequence, n_known

    def keep(
        self,
        prefix: Tokens[int],
        *,
        part: int = 0,
        ends: Tokens[int] = (),
        namespace: str | None = None,
    ) -> int:
        """Have the KV of ``prefix`` kept, in the folder if there is one.

        Its parts and its namespace are those of :meth:`find_or_open`. Returns the
        number of tokens that were read for it; 0 where it was kept already.
        """
        _, heads = self._parted(prefix, part, ends, namespace)
        if not heads or self._prefixes.keeps(heads):
            return 0
        sequence, n_known = self.find_or_open(
            prefix, part=part, ends=ends, namespace=namespace
        )
        if n_known == len(prefix):  # it was in memory alone
            self._prefixes.put(heads, sequence.save())
        self._prefixes.flush()
        return len(prefix) - n_known

    def keeps(
        self,
        prefix: Tokens[int],
        *,
        part: int = 0,
        ends: Tokens[int] = (),
        namespace: str | None = None,
    ) -> bool:
        """Whether :meth:`keep` would find the KV of ``prefix`` kept."""
        _, heads = self._parted(prefix, part, ends, namespace)
        return bool(heads) and self._prefixes.keeps(heads)

    @property
    def keeps_in_folder(self) -> bool:
        """Whether KV is kept in a folder: one was given, and it may be used."""
        return self._prefixes.has_folder

    @property
    def room_for_prefixes(self) -> int:
        """Bytes of KV that are kept at most, in the folder if there is one."""
        return self._prefixes.room

    def kv_bytes(self, n_tokens: int) -> int:
        """Bytes that the KV of so many tokens takes where it is kept."""
        (least, most), (small, large) = _MEASURED, self._kv_sizes
        return round(small + (n_tokens - least) * (large - small) / (most - least))

    @cached_property
    def _kv_sizes(self) -> list[int]:
        token = self.weights.tokenize("a")[:1]
        return [self.open(token * n, keep=False).save().state.nbytes for n in _MEASURED]

    def flush(self) -> None:
        """Wait until the folder has the KV of all that was read."""
        self._slots.require_own_process()  # its writer is a thread of another's
        self._prefixes.flush()

    def forget_prefixes(self) -> None:
        """Drop the KV of all prefixes in memory, so that a timing starts cold."""
        self._prefixes.clear()


def _length(heads: Tokens[Head]) -> int:
    """Tokens of the last, and so the longest, of some heads."""
    return heads[-1].length if heads else 0


def _is_end(length: int, ends: Tokens[int]) -> bool:
    """Whether the text before all documents is so long, as it is parted."""
    return bool(ends) and length == aligned(ends[0])


def _first_call(parts: Tokens[Tokens[int]]) -> int:
    """Tokens that are read in a call of their own, being too few for another."""
    return len(parts[0]) if parts and len(parts[0]) < LEAST_PART else 0


def _calls(start: int, stop: int, size: int) -> Iterator[int]:
    """Ends of the fewest calls of at most ``size`` tokens, and ``LEAST_PART`` each."""
    while stop - start > size:
        start = aligned(min(start + size, stop - LEAST_PART))
        yield start
    yield stop
