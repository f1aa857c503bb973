"""Which sequence sits in which slot of llama.cpp's context, and what is done there."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Tokens
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np

from langchain_ralmspec.arguments import Live
from langchain_ralmspec.engine.company import MOST_TOGETHER, Company
from langchain_ralmspec.engine.fair_lock import FairLock
from langchain_ralmspec.engine.joint import JointDecoder
from langchain_ralmspec.engine.kv import KV, Snapshot
from langchain_ralmspec.engine.limits import host_bytes
from langchain_ralmspec.errors import ContextOverflowError, DecodeError
from langchain_ralmspec.machine import free_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from langchain_ralmspec.engine.context import Context
    from langchain_ralmspec.engine.joint import Call

is_abandoned: ContextVar[Callable[[], bool]] = ContextVar(
    "whether nobody waits any more for what is decoded", default=lambda: False
)
"""Asked before each call of llama.cpp, of which a long text takes many.

A generator cannot be closed while a thread is in it; so this thread closes it itself.
"""


class Slots(Live):
    """A context shared by any number of sequences, safe to use from many threads.

    The sequence that has been idle longest is parked in host memory when another one
    needs its slot. A slot is free again when its sequence is gone.

    Every operation takes the lock for one decode call at most, so requests of several
    threads interleave and an abandoned one blocks nobody.
    """

    def __init__(self, context: Context, *, joint_decoding: bool | None = None) -> None:
        """Take over a context; nobody else may call it from now on.

        ``joint_decoding`` is that of :meth:`Model.load`.
        """
        self.n_batch = context.n_batch
        self._context = context
        self._lock = FairLock()
        self._company = Company(context, exact=not joint_decoding)
        self._takes_turns = joint_decoding is False
        # Weakly: else all of it would stay until garbage is collected.
        me = weakref.proxy(self)
        self._decode_one = JointDecoder(
            lambda calls: me._decode_each(calls),  # noqa: PLW0108, SLF001
            lambda: me._most_together(),  # noqa: PLW0108, SLF001
        )
        self._n_slots = n_slots = context.n_slots  # at first
        self._most_slots = MOST_TOGETHER if context.can_change_slots else n_slots
        self._residents = weakref.WeakValueDictionary[int, KV]()  # by slot
        self._idle_order = list(range(context.n_slots))  # longest idle first
        # A free slot, and the state that it holds: who restores it need not load it.
        self._tried: tuple[int, NDArray[np.uint8]] | None = None

    def decode(
        self, kv: KV, tokens: Tokens[int], *, n_logits: int
    ) -> NDArray[np.float32]:
        """Decode any number of tokens; the last call gives all ``n_logits`` logits."""
        self._require_room(kv, len(tokens))
        if len(tokens) == n_logits == 1:
            return self._decode_jointly(kv, tokens[0])[np.newaxis]
        size, start = self.n_batch, kv.length
        logits = np.empty((0, self._context.weights.n_vocab), np.float32)
        for first in range(0, len(tokens), size):
            chunk = tokens[first : first + size]
            is_last = first + size >= len(tokens)
            with self._growing(kv, len(tokens) - first, back_to=start) as slot:
                logits = self._context.decode(
                    slot, chunk, start + first, n_logits=n_logits if is_last else 0
                )
                kv.length += len(chunk)
        return logits

    def _decode_jointly(self, kv: KV, token: int) -> NDArray[np.float32]:
        self.require_own_process()  # where another thread may never be done
        _require_reader()
        start = kv.length
        try:
            return self._decode_one(kv, token)
        except BaseException:
            if kv.length > start:  # others were faster than Ctrl-C
                with self._locked():
                    self._take_back(kv, start)
            raise

    def _most_together(self) -> int:
        return 1 if self._takes_turns else self._company.limit

    def _decode_each(self, calls: list[Call]) -> float:
        """Decode one token of each of the first sequences, all that may be at once.

        Returns the seconds that it took, without any for a lock or for more slots.
        """
        with self._locked():
            joined = calls[: self._number_together(len(calls))]
            self._fit(1 + max(call.kv.length for call in joined))
            joined = joined[: self._context.n_slots]
            before = [call.kv.length for call in joined]
            try:
                return self._decode_together(joined)
            except BaseException:
                for call, length in zip(joined, before, strict=True):
                    if call.logits is None:
                        self._take_back(call.kv, length)
                raise

    def _decode_together(self, calls: list[Call]) -> float:
        # Neighbours in the context are computed together.
        by_slot = {self._make_resident(call.kv): call for call in calls}
        slots = sorted(by_slot)
        calls = [by_slot[slot] for slot in slots]
        start = time.perf_counter()
        logits = self._context.decode_each(
            slots,
            [call.token for call in calls],
            [call.kv.length for call in calls],
        )
        seconds = time.perf_counter() - start
        for call, row in zip(calls, logits, strict=True):
            call.kv.length += 1
            call.logits = row
        return seconds

    def _take_back(self, kv: KV, length: int) -> None:
        kv.length = length
        if kv.slot is not None:
            with suppress(DecodeError):  # a recurrent memory cannot be rolled back
                self._context.remove(kv.slot, length)

    def _number_together(self, n: int) -> int:
        """How many of ``n`` sequences to decode at once; slots are added for them."""
        context, company = self._context, self._company
        if n == 1:
            return 1
        self._measure_company()
        if n > context.n_slots and company.is_exact:
            self._add_slots(n)
            self._measure_company()
        return min(n, context.n_slots, company.most)

    def n_together(self, n: int) -> int:
        """How many of ``n`` answers to write at once, by tokens decoded together.

        However long these become, all of them stay in the context.
        """
        if self._takes_turns:
            return 1
        with self._locked():
            number, context = self._number_together(n), self._context
            is_room = context.n_cells >= context.n_ctx or self._can_hold(
                2 * context.n_ctx, context.n_slots
            )
            return number if is_room else min(number, self._n_slots)

    @property
    def n_places(self) -> int:
        """How many answers can be in the context at once, as far as is known by now."""
        context, most = self._context, min(self._most_together(), self._most_slots)
        is_room = most > context.n_slots and self._can_hold(context.n_cells, most)
        return most if is_room else context.n_slots

    def _measure_company(self) -> None:
        if self._company.is_behind:
            self._park_all()
            self._company.measure()

    def _add_slots(self, n: int) -> None:
        """Have ``n`` slots or some more, if there is room for that."""
        context = self._context
        n_slots = min(max(n, 2 * context.n_slots), MOST_TOGETHER)  # so it is rare
        if n_slots <= self._most_slots and self._can_hold(context.n_cells, n_slots):
            try:
                self._reopen(context.n_cells, n_slots)
            except DecodeError:
                self._most_slots = context.n_slots

    def _can_hold(self, n_tokens: int, n_slots: int) -> bool:
        """Whether what slots take beyond the first ones leaves half of memory free."""
        context, free = self._context, free_memory()
        n_more = n_tokens * (n_slots - self._n_slots)
        wanted = host_bytes(context.weights, n_more, context.kv_type)
        return free is None or 2 * wanted <= free

    def observe(
        self,
        kv: KV,
        tokens: Tokens[int],
        *,
        n_logits: int,
        forget: int = 0,
        keep: int = 0,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Decode one call of tokens; see :meth:`Sequence.observe`."""
        self._require_room(kv, len(tokens) - forget)
        with self._growing(kv, len(tokens), back_to=kv.length) as slot:
            if forget:
                self._context.forget(slot, keep, forget)
                kv.length -= forget
            seen = self._context.observe(slot, tokens, kv.length, n_logits=n_logits)
            kv.length += len(tokens)
        return seen

    def truncate(self, kv: KV, length: int) -> None:
        """Roll a sequence back to its first ``length`` tokens."""
        with self._locked():
            self._context.remove(self._make_resident(kv), length)
            kv.length = length

    def save(self, kv: KV) -> Snapshot:
        """Copy a sequence to host memory."""
        with self._locked():
            if kv.slot is None and kv.parked is not None:
                return Snapshot(kv.length, kv.parked)
            return Snapshot(kv.length, self._context.save(self._make_resident(kv)))

    def can_restore(self, snapshot: Snapshot) -> bool:
        """Whether llama.cpp takes a snapshot for what it says that it is.

        It stays loaded, so that a sequence that begins with it now need not load it.
        """
        if snapshot.length > self._context.n_ctx:
            return False
        with self._locked():
            self._fit(snapshot.length)
            slot = self._free_slot()  # and free it stays
            self._tried = None
            self._context.remove(slot, 0)
            try:
                self._context.load(slot, snapshot.state)
            except DecodeError:
                return False
            is_sound = self._context.length(slot) == snapshot.length
            self._tried = (slot, snapshot.state) if is_sound else None
            return is_sound

    def require_own_process(self) -> None:
        """Raise a :class:`DecodeError` in a process forked from the one that loaded."""
        if os.getpid() != self._context.pid:
            msg = (
                "this model's context was made before the process was forked, and "
                "cannot be used in both; begin the answer anew, by a model that is "
                "loaded here"
            )
            raise DecodeError(msg)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.require_own_process()  # whose lock may have been held at the fork
        with self._lock:
            yield

    def _require_room(self, kv: KV, n: int) -> None:
        end, n_ctx = kv.length + n, self._context.n_ctx
        if end > n_ctx:
            msg = f"{end} tokens do not fit a context of n_ctx={n_ctx}"
            raise ContextOverflowError(msg)

    @contextmanager
    def _growing(self, kv: KV, n: int, *, back_to: int) -> Iterator[int]:
        """Give the slot of a sequence that ``n`` tokens are to be added to.

        A failure takes it ``back_to`` a length.
        """
        with self._locked():
            try:
                _require_reader()
                self._fit(min(kv.length + n, self._context.n_ctx))
                yield self._make_resident(kv)
            except BaseException:
                # What has been forgotten does not come back, and the rest is not
                # rotated to where it belongs: nothing of it is of use.
                self._take_back(kv, back_to if kv.length >= back_to else 0)
                raise

    def _make_resident(self, kv: KV) -> int:
        """Bring a sequence into a slot, parking the longest idle one if need be."""
        slot = kv.slot
        if slot is None:
            self._fit(kv.length)
            slot = self._free_slot()
            (held, state), self._tried = self._tried or (None, None), None
            if held != slot or state is not kv.parked:
                self._context.remove(slot, 0)
                if kv.parked is not None:
                    self._context.load(slot, kv.parked)
            if kv.parked is not None:
                kv.parked = None
                # What an interrupted extend() had added before it was parked.
                self._context.remove(slot, kv.length)
            kv.slot = slot
            self._residents[slot] = kv
        self._idle_order.remove(slot)
        self._idle_order.append(slot)
        return slot

    def _fit(self, n_tokens: int) -> None:
        """Have room for that many tokens in each slot, all parked if it must grow."""
        context = self._context
        if max(1, n_tokens) <= context.n_cells:
            return
        is_room = self._can_hold(2 * n_tokens, context.n_slots)
        self._reopen(n_tokens, context.n_slots if is_room else self._n_slots)

    def _reopen(self, n_tokens: int, n_slots: int) -> None:
        """Have slots of that size and number, all parked."""
        self._park_all()
        try:
            self._context.grow(n_tokens, n_slots)
        finally:
            self._idle_order = list(range(self._context.n_slots))

    def _park_all(self) -> None:
        for kv in list(self._residents.values()):
            self._park(kv)
        self._tried = None

    def _park(self, kv: KV) -> None:
        assert kv.slot is not None  # noqa: S101  it is a resident
        kv.parked = self._context.save(kv.slot)
        # At once: should what comes next fail, nobody may be taken to live here.
        self._residents.pop(kv.slot, None)
        kv.slot = None

    def _free_slot(self) -> int:
        for slot in self._idle_order:
            if slot not in self._residents:
                return slot
        slot = self._idle_order[0]
        idle = self._residents.get(slot)
        if idle is not None:
            self._park(idle)
        return slot


def _require_reader() -> None:
    """Close the generator that this thread is in, if nobody reads from it any more."""
    if is_abandoned.get()():
        raise GeneratorExit
