"""A model as the rest of the package sees it: loaded once, shared, locked."""

from __future__ import annotations

import threading
import weakref
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langchain_ralmspec.engine.binding import (
    Context,
    Weights,
    check_file,
    system_info,
    version,
)
from langchain_ralmspec.engine.prefixes import PrefixCache, PrefixFolder
from langchain_ralmspec.engine.selftest import (
    can_roll_back,
    exact_batch_size,
    is_repeatable,
)
from langchain_ralmspec.engine.sequence import Sequence, Snapshot
from langchain_ralmspec.engine.templates import ChatTemplate
from langchain_ralmspec.errors import ContextOverflowError, InvalidValueError
from langchain_ralmspec.machine import usable_cores

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from collections.abc import Sequence as Tokens

    from numpy.typing import NDArray

N_SLOTS = 4
"""Sequences that are in the context at once; the others wait in host memory."""

PREFIX_CACHE_BYTES = 512 * 2**20
"""Host memory for the KV of document prefixes, per model."""

PREFIX_FOLDER_BYTES = 8 * 2**30
"""Disk space for it, per folder."""

_shared: weakref.WeakValueDictionary[tuple[object, ...], Model] = (
    weakref.WeakValueDictionary()
)
_shared_weights: weakref.WeakValueDictionary[tuple[object, ...], Weights] = (
    weakref.WeakValueDictionary()
)
_sharing = threading.Lock()


def default_threads() -> tuple[int, int]:
    """Threads for single tokens and for batches: half of the usable cores, and all.

    A single token is bound by memory, and its hundreds of small operations each
    end in a barrier: a second hyper-thread, or one that was put to sleep while
    another library computed, costs more there than it brings (measured on two
    cores: 8 ms with one thread, 7 to 28 ms with two).
    """
    usable = usable_cores()
    return max(1, usable // 2), usable


class Model:
    """Weights with a context of several slots, safe to use from many threads.

    Every operation on the context takes the model's lock for one decode call at
    most, so requests of several threads interleave and an abandoned one blocks
    nobody.
    """

    @classmethod
    def load(  # the knobs of llama.cpp that a user may turn
        cls,
        path: str | os.PathLike[str],
        *,
        n_ctx: int = 2048,
        n_batch: int = 512,
        n_threads: int | None = None,
        n_gpu_layers: int = 0,
        n_slots: int = N_SLOTS,
        flash_attention: bool | None = None,
        exact_batches: bool = False,
        hidden_only: bool = False,
        kv_cache_bytes: int = PREFIX_CACHE_BYTES,
        kv_cache_dir: str | os.PathLike[str] | None = None,
    ) -> Model:
        """Load a model, or share the one that is loaded with the same settings.

        Args:
            path: a GGUF file.
            n_ctx: tokens per sequence; 0 takes the length the model was trained on.
            n_batch: tokens decoded in one call at most.
            n_threads: threads of every decode; None takes :func:`default_threads`.
            n_gpu_layers: layers to put on a GPU; -1 for all.
            n_slots: sequences that are in the context at once.
            flash_attention: whether to use it; None leaves it to llama.cpp.
            exact_batches: have batches of tokens give the bits that the same tokens
                give one by one, as far as the kernels can (``exact_batch_size``):
                single tokens by one thread, with flash attention.
            hidden_only: compute hidden states and no logits, for ``observe`` alone.
            kv_cache_bytes: host memory for the KV of prefixes.
            kv_cache_dir: a folder that keeps it as well, for other processes.

        Raises:
            ModelFileError: the file is missing, corrupt or not a GGUF.
            InvalidValueError: a number is out of range.
        """
        for name, value, least in (
            ("n_ctx", n_ctx, 0),
            ("n_batch", n_batch, 1),
            ("n_threads", n_threads, 1),
            ("n_slots", n_slots, 1),
            ("kv_cache_bytes", kv_cache_bytes, 0),
        ):
            if value is not None and value < least:
                msg = f"{name} must be at least {least}, got {value}"
                raise InvalidValueError(msg)
        file = check_file(path)
        threads = (n_threads, n_threads) if n_threads else default_threads()
        if exact_batches:
            threads, flash_attention = (1, threads[1]), True
        folder = None if kv_cache_dir is None else Path(kv_cache_dir).resolve()
        stat = file.stat()
        weights_key = (file, stat.st_mtime_ns, stat.st_size, n_gpu_layers)
        settings = (n_ctx, n_batch, threads, n_slots, flash_attention, hidden_only)
        key = (*weights_key, *settings, kv_cache_bytes, folder)
        with _sharing:
            model = _shared.get(key)
            if model is None:
                weights = _shared_weights.get(weights_key)
                if weights is None:
                    weights = Weights(file, n_gpu_layers=n_gpu_layers)
                    _shared_weights[weights_key] = weights
                model = cls(
                    weights,
                    n_ctx=n_ctx,
                    n_batch=n_batch,
                    n_threads=threads,
                    n_slots=n_slots,
                    flash_attention=flash_attention,
                    hidden_only=hidden_only,
                    kv_cache_bytes=kv_cache_bytes,
                    kv_cache_dir=folder,
                )
                _shared[key] = model
            return model

    def __init__(
        self,
        weights: Weights,
        *,
        n_ctx: int,
        n_batch: int,
        n_threads: tuple[int, int],
        n_slots: int = N_SLOTS,
        flash_attention: bool | None = None,
        hidden_only: bool = False,
        kv_cache_bytes: int = PREFIX_CACHE_BYTES,
        kv_cache_dir: Path | None = None,
    ) -> None:
        """Open a context over ``weights`` (see :meth:`load`)."""
        self.weights = weights
        self.n_ctx = n_ctx or weights.n_ctx_train
        self._context = Context(
            weights,
            n_ctx=self.n_ctx,
            n_slots=n_slots,
            n_batch=min(n_batch, self.n_ctx),
            n_threads=n_threads,
            flash_attention=flash_attention,
            hidden_only=hidden_only,
        )
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._residents: list[weakref.ref[Sequence] | None] = [None] * n_slots
        self._idle_order = list(range(n_slots))  # longest idle first
        folder = None
        if kv_cache_dir is not None:
            folder = PrefixFolder(
                kv_cache_dir,
                max_bytes=PREFIX_FOLDER_BYTES,
                fingerprint=self._fingerprint(),
            )
        self._prefixes = PrefixCache(kv_cache_bytes, folder)

    def _fingerprint(self) -> dict[str, str | int]:
        """All that the bits of a KV depend on, besides its tokens."""
        return {
            "model": self.weights.sha256,
            "llama_cpp": version(),
            "n_ctx": self.n_ctx,  # some models stretch their positions by it
            "n_batch": self.n_batch,
            "n_threads": self.n_threads[1],
            "flash_attention": self.flash_attention,
            "n_gpu_layers": self.weights.n_gpu_layers,
            "system": system_info(),
        }

    @cached_property
    def repeatable(self) -> bool:
        """Whether decoding repeats itself bit for bit (see ``selftest``)."""
        return is_repeatable(self)

    @cached_property
    def can_roll_back(self) -> bool:
        """Whether a sequence can be cut; recurrent models' cannot."""
        return can_roll_back(self)

    @cached_property
    def exact_batch_size(self) -> int:
        """Tokens that one call takes with the bits that they give one by one."""
        return exact_batch_size(self)

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template.

        Raises:
            ChatTemplateError: the model has none, or it does not compile.
        """
        return ChatTemplate(self.weights)

    @property
    def path(self) -> Path:
        """The GGUF file."""
        return self.weights.path

    @property
    def n_threads(self) -> tuple[int, int]:
        """Threads for single tokens, and for batches."""
        return self._context.n_threads

    @property
    def n_batch(self) -> int:
        """Tokens that one decode call takes at most."""
        return self._context.n_batch

    @property
    def flash_attention(self) -> str:
        """How llama.cpp was asked for it, in its words: auto, enabled, disabled."""
        return self._context.flash_attention

    def open(self, prefix: Tokens[int], *, keep: bool = True) -> Sequence:
        """Start a sequence that holds ``prefix``.

        The prefix's KV is computed once, from nothing and in one canonical way, and
        copied afterwards, while the cache of prefixes has room for it.

        Args:
            prefix: token ids.
            keep: whether to put it into that cache.

        Raises:
            ContextOverflowError: the prefix does not fit the context.
        """
        return self.find_or_open(prefix, keep=keep)[0]

    def find_or_open(
        self, prefix: Tokens[int], *, keep: bool = True
    ) -> tuple[Sequence, bool]:
        """Do what :meth:`open` does, and tell whether the KV was there already."""
        key = tuple(prefix)
        # One after the other: who waits for a long text finds it in the end.
        with self._opening if keep else nullcontext():
            snapshot = self._prefixes.get(key)
            if snapshot is not None:
                return Sequence(self, snapshot), True
            sequence = Sequence(self)
            sequence.prefill(key)
            if keep:
                self._prefixes.put(key, sequence.save())
            return sequence, False

    def forget_prefixes(self) -> None:
        """Drop the KV of all prefixes in memory, so that a timing starts cold."""
        self._prefixes.clear()

    def decode(
        self, sequence: Sequence, tokens: Tokens[int], *, n_logits: int
    ) -> NDArray[np.float32]:
        """Decode tokens at the end of a sequence.

        Returns:
            The logits after each of the last ``n_logits`` tokens, which must fit the
            last call, shape ``(n_logits, n_vocab)``.
        """
        self._require_room(sequence, len(tokens))
        size = self._context.n_batch
        logits = np.empty((0, self.weights.n_vocab), np.float32)
        start = sequence.length
        for first in range(0, len(tokens), size):
            chunk = tokens[first : first + size]
            is_last = first + size >= len(tokens)
            with self._growing(sequence, back_to=start) as slot:
                logits = self._context.decode(
                    slot, chunk, start + first, n_logits=n_logits if is_last else 0
                )
                sequence.length += len(chunk)
        return logits

    def observe(
        self,
        sequence: Sequence,
        tokens: Tokens[int],
        *,
        n_logits: int,
        forget: int = 0,
        keep: int = 0,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Decode one call of tokens (see :meth:`Sequence.observe`)."""
        self._require_room(sequence, len(tokens) - forget)
        with self._growing(sequence, back_to=sequence.length) as slot:
            if forget:
                self._context.forget(slot, keep, forget)
                sequence.length -= forget
            start = sequence.length
            seen = self._context.observe(slot, tokens, start, n_logits=n_logits)
            sequence.length += len(tokens)
        return seen

    def _require_room(self, sequence: Sequence, n: int) -> None:
        end = sequence.length + n
        if end > self.n_ctx:
            msg = f"{end} tokens do not fit a context of n_ctx={self.n_ctx}"
            raise ContextOverflowError(msg)

    @contextmanager
    def _growing(self, sequence: Sequence, *, back_to: int) -> Iterator[int]:
        """Give the slot of a sequence; a failure takes it ``back_to`` a length."""
        with self._lock:
            try:
                yield self._make_resident(sequence)
            except BaseException:
                # What has been forgotten does not come back, and the rest is not
                # rotated to where it belongs: nothing of it is of use.
                sequence.length = back_to if sequence.length >= back_to else 0
                if sequence.slot is not None:
                    self._context.remove(sequence.slot, sequence.length)
                raise

    def truncate(self, sequence: Sequence, length: int) -> None:
        """Roll a sequence back (see :meth:`Sequence.truncate`)."""
        with self._lock:
            slot = self._make_resident(sequence)
            self._context.remove(slot, length)
            sequence.length = length

    def save(self, sequence: Sequence) -> Snapshot:
        """Copy a sequence's KV (see :meth:`Sequence.save`)."""
        with self._lock:
            if sequence.slot is None and sequence.parked is not None:
                return Snapshot(sequence.length, sequence.parked)
            slot = self._make_resident(sequence)
            return Snapshot(sequence.length, self._context.save(slot))

    def _make_resident(self, sequence: Sequence) -> int:
        """Bring a sequence into a slot, parking the longest idle one if need be."""
        slot = sequence.slot
        if slot is None:
            slot = self._free_slot()
            self._context.remove(slot, 0)
            if sequence.parked is not None:
                self._context.load(slot, sequence.parked)
                sequence.parked = None
                # What an interrupted extend() had added before it was parked.
                self._context.remove(slot, sequence.length)
            sequence.slot = slot
            self._residents[slot] = weakref.ref(sequence)
        self._idle_order.remove(slot)
        self._idle_order.append(slot)
        return slot

    def _free_slot(self) -> int:
        for slot in self._idle_order:
            resident = self._residents[slot]
            if resident is None or resident() is None:
                return slot
        slot = self._idle_order[0]
        resident = self._residents[slot]
        idle = resident() if resident else None
        if idle is not None:
            idle.parked = self._context.save(slot)
            idle.slot = None
        # At once: should what comes next fail, nobody may be taken to live here.
        self._residents[slot] = None
        return slot
