"""llama.cpp's context: the KV memory of several sequences, and the decode call."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from langchain_ralmspec.arguments import Live
from langchain_ralmspec.engine.binding import library
from langchain_ralmspec.engine.streams import is_saved_so, with_streams
from langchain_ralmspec.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from langchain_ralmspec.engine.weights import Weights

# llama.cpp's names for the hidden states behind the last norm; the later one stays.
_HIDDEN = (b"result_norm", b"result_embd_pooled")


_CELLS = 256  # of which the KV of a sequence has a multiple

KVType = Literal["f16", "q8_0"]
KV_BITS: dict[KVType, float] = {"f16": 16, "q8_0": 8.5}
"""Bits of a number of the KV."""
_KV_TYPES: dict[KVType, int] = {"f16": 1, "q8_0": 8}  # ggml's numbers of them

_FIRST_CELLS = 1024
"""Tokens of a sequence that there is room for at first: a question and some passages.

Four sequences then take the KV that one of 4096 tokens takes.
"""


def _stop_at_hidden(lib: Any) -> Any:
    """A callback that ends a decode once the final hidden states are there.

    llama.cpp asks it about every tensor whether to pause behind it, and at a pause
    whether to go on. Without it, as where its name cannot be looked up, the logits of
    all tokens are computed too: half of the time for a small model.
    """
    try:
        name_of = lib._lib.ggml_get_name  # noqa: SLF001  not wrapped by llama_cpp
    except AttributeError:
        return None
    name_of.argtypes, name_of.restype = [ctypes.c_void_p], ctypes.c_char_p

    def answer(tensor: int, asks: bool, _: object) -> bool:  # noqa: FBT001  C's
        return asks and name_of(tensor) in _HIDDEN

    return lib.ggml_backend_sched_eval_callback(answer)


class Context(Live):
    """KV memory for ``n_slots`` independent sequences, and the decode call.

    Each slot has a KV stream of its own (``kv_unified=False``), so that what
    one sequence holds cannot leak into the rounding of another. A decode releases the
    interpreter lock, but one thread at a time may use a context: ``Slots`` locks it.

    The arguments are those of ``Model.load``; ``n_threads`` are for single tokens, and
    for batches. The attribute ``flash_attention`` is what llama.cpp was asked for, in
    its words: auto, enabled, disabled. ``n_cells`` is the number of tokens that a slot
    has room for; it grows up to ``n_ctx``, and no bit of a decode hangs on it.

    Raises:
        DecodeError: llama.cpp cannot allocate the context, or in a method: it failed.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        n_ctx: int,
        n_slots: int,
        n_batch: int,
        n_threads: tuple[int, int],
        flash_attention: bool | None = None,
        hidden_only: bool = False,
        kv_type: KVType = "f16",
        rope_freq_base: float = 0.0,
        rope_freq_scale: float = 0.0,
    ) -> None:
        self.kv_type = kv_type
        self.weights, self.n_slots, self.n_threads = weights, n_slots, n_threads
        self.rope = rope_freq_base, rope_freq_scale
        self.n_ctx = n_ctx = n_ctx or weights.n_ctx_train
        self.n_batch = n_batch = min(n_batch, n_ctx)
        self.handle: Any = None
        self.pid = os.getpid()  # a forked process can have only a part of it
        self._lib = lib = library()
        self._params = params = lib.llama_context_default_params()
        params.n_threads, params.n_threads_batch = n_threads
        params.kv_unified = False
        params.type_k = params.type_v = _KV_TYPES[kv_type]
        params.swa_full = True  # a sliding window would forget what we roll back to
        params.no_perf = True
        params.rope_freq_base = rope_freq_base  # 0: the model's own
        params.rope_freq_scale = rope_freq_scale
        if flash_attention is not None:
            params.flash_attn_type = int(flash_attention)  # of the enum, auto is -1
        self._stop = _stop_at_hidden(lib) if hidden_only else None
        self._worker: ThreadPoolExecutor | None = None
        if self._stop is not None:  # llama.cpp calls it, so it is kept alive
            params.cb_eval = self._stop
            self._worker = ThreadPoolExecutor(1, "llama-decode")
        name: bytes = lib.llama_flash_attn_type_name(params.flash_attn_type)
        self.flash_attention = name.decode()
        self.n_cells = 0
        # Some models stretch their positions by the size of the context.
        self._open(n_ctx if weights.stretches_positions else 1)
        # Whether what was saved can be loaded where there are more or fewer slots.
        self.can_change_slots = weights.has_plain_kv and is_saved_so(
            self.save(0), n_slots
        )
        # Made once: as_array() of a pointer makes a type at every call, 0.1 ms.
        self._logits_type = ctypes.c_float * weights.n_vocab
        self._hidden_type = ctypes.c_float * weights.n_embd

    def _open(self, n_tokens: int) -> None:
        """Allocate room for at least ``n_tokens`` of each sequence."""
        cells = max(_FIRST_CELLS, self.n_batch)
        while cells < n_tokens:
            cells *= 2
        # As much as llama.cpp makes of it, which else it says on stderr.
        cells = math.ceil(min(cells, self.n_ctx) / _CELLS) * _CELLS
        self._params.n_ctx = cells * self.n_slots
        self._params.n_seq_max = self.n_slots
        # llama.cpp ends the process where not every sequence could have a token.
        self._params.n_batch = self._params.n_ubatch = max(self.n_batch, self.n_slots)
        self.handle = self._lib.llama_init_from_model(self.weights.handle, self._params)
        if not self.handle:
            msg = (
                f"llama.cpp cannot allocate a context of {self.n_slots} × {cells} "
                "tokens; lower n_ctx"
            )
            raise DecodeError(msg)
        self.n_cells, self._gives_hidden = cells, False
        self._allocate_batch(self._params.n_batch)
        self._memory = self._lib.llama_get_memory(self.handle)

    def grow(self, n_tokens: int, n_slots: int) -> None:
        """Make room for ``n_tokens`` of each sequence; what the slots hold is lost."""
        before = self.n_cells, self.n_slots
        self._free()  # first, so that there are never two
        self.n_slots = n_slots
        try:
            self._open(n_tokens)
        except DecodeError:
            n_tokens, self.n_slots = before
            with contextlib.suppress(DecodeError):  # then the next call tries again
                self._open(n_tokens)
            raise

    def _free(self) -> None:
        if self.handle:
            self._lib.llama_free(self.handle)
        self.handle = self._memory = None
        self.n_cells = 0

    def _allocate_batch(self, size: int) -> None:
        # One batch, refilled at every call; each token points at its own slot.
        self._tokens = np.zeros(size, np.int32)
        self._positions = np.zeros(size, np.int32)
        self._slots = np.zeros(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        ones = np.ones(size, np.int32)
        int32, int8 = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_int8)
        addresses = self._slots.ctypes.data + 4 * np.arange(size, dtype=np.uintp)
        self._batch_memory = (ones, addresses)
        self._batch = self._lib.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(int32),
            embd=None,
            pos=self._positions.ctypes.data_as(int32),
            n_seq_id=ones.ctypes.data_as(int32),
            seq_id=addresses.ctypes.data_as(ctypes.POINTER(int32)),
            logits=self._wanted.ctypes.data_as(int8),
        )

    def decode(
        self, slot: int, tokens: Sequence[int], position: int, *, n_logits: int
    ) -> NDArray[np.float32]:
        """Decode at most ``n_batch`` tokens of one sequence from ``position`` on.

        Returns:
            The logits after each of the last ``n_logits`` tokens, a copy of shape
            ``(n_logits, n_vocab)``.
        """
        self._fill(slot, tokens, position, n_outputs=n_logits)
        self._decode(hidden=False)
        return self._logits(n_logits)

    def decode_each(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> NDArray[np.float32]:
        """Decode one token of each of several sequences in one call.

        Returns:
            The logits after each token, a copy of shape ``(len(tokens), n_vocab)``.
        """
        n = len(tokens)
        self._slots[:n], self._tokens[:n], self._positions[:n] = (
            slots,
            tokens,
            positions,
        )
        self._wanted[:n] = 1
        self._batch.n_tokens = n
        self._decode(hidden=False)
        return self._logits(n)

    def observe(
        self, slot: int, tokens: Sequence[int], position: int, *, n_logits: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Do what :meth:`decode` does, and give the hidden states as well.

        The logits are the same, bit for bit. llama.cpp computes those of all tokens.

        Returns:
            The logits after each of the last ``n_logits`` tokens, and the hidden
            state (behind the last norm) of every token, ``(len(tokens), n_embd)``.
        """
        n = len(tokens)
        self._fill(slot, tokens, position, n_outputs=n)
        self._decode(hidden=True)
        read = self._lib.llama_get_embeddings_ith
        what = "hidden states of single tokens; use a model that generates text"
        hidden = self._outputs(n, read, self._hidden_type, what)
        return self._logits(n_logits), hidden

    def _fill(
        self, slot: int, tokens: Sequence[int], position: int, *, n_outputs: int
    ) -> None:
        """Put tokens of one sequence into the batch; the last give outputs."""
        n = len(tokens)
        self._slots[:n], self._tokens[:n] = slot, tokens
        self._positions[:n] = np.arange(position, position + n)
        self._wanted[: n - n_outputs] = 0
        self._wanted[n - n_outputs : n] = 1
        self._batch.n_tokens = n

    def _decode(self, *, hidden: bool) -> None:
        if hidden != self._gives_hidden:
            self._lib.llama_set_embeddings(self.handle, hidden)
            self._gives_hidden = hidden
        code = self._computed()
        if code != 0:  # 1: no free KV cells
            n = self._batch.n_tokens
            msg = (
                f"llama_decode returned {code} for {n} tokens, the first at position "
                f"{self._positions[0]}"
            )
            raise DecodeError(msg)

    def _computed(self) -> int:
        """Run llama.cpp on the batch and give its code."""
        if self._worker is None:
            return int(self._lib.llama_decode(self.handle, self._batch))
        # With a callback, in another thread: Ctrl-C is raised in the main thread's
        # Python code, and were that the callback's, ctypes would drop it and answer
        # llama.cpp anything. Nobody may touch the context before that thread is done.
        code = self._worker.submit(self._lib.llama_decode, self.handle, self._batch)
        try:
            return int(code.result())
        finally:
            while not code.done():
                with contextlib.suppress(KeyboardInterrupt):  # the first one is raised
                    wait([code])

    def _logits(self, n: int) -> NDArray[np.float32]:
        read = self._lib.llama_get_logits_ith
        return self._outputs(n, read, self._logits_type, "logits; it cannot generate")

    def _outputs(self, n: int, read: Any, row_type: Any, what: str) -> NDArray[Any]:
        """Copies of what the last decode gave at each of its last ``n`` tokens."""
        rows = np.empty((n, row_type._length_), np.float32)
        for row in range(n):
            pointer = read(self.handle, row - n)
            if not pointer:
                raise DecodeError(f"{str(self.weights.path)!r} gives no {what}")
            memory = row_type.from_address(ctypes.addressof(pointer.contents))
            rows[row] = np.ctypeslib.as_array(memory)
        return rows

    def remove(self, slot: int, position: int) -> None:
        """Forget a sequence from ``position`` on; recurrent models cannot."""
        if not self._lib.llama_memory_seq_rm(self._memory, slot, position, -1):
            msg = f"the model's memory cannot be rolled back to position {position}"
            raise DecodeError(msg)

    def forget(self, slot: int, position: int, n: int) -> None:
        """Forget ``n`` tokens of a sequence; those behind them move up.

        Their keys are rotated to their new positions at the next decode only, so that
        must come before the sequence is saved. After a failure all is as before.
        """
        lib, memory, end = self._lib, self._memory, position + n
        if not lib.llama_memory_can_shift(memory) or not lib.llama_memory_seq_rm(
            memory, slot, position, end
        ):
            msg = f"the model's memory cannot forget {n} tokens from {position} on"
            raise DecodeError(msg)
        lib.llama_memory_seq_add(memory, slot, end, -1, -n)

    def save(self, slot: int) -> NDArray[np.uint8]:
        """Copy of a sequence's KV, as bytes."""
        size = self._lib.llama_state_seq_get_size(self.handle, slot)
        state = np.empty(size, np.uint8)
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        written = self._lib.llama_state_seq_get_data(self.handle, pointer, size, slot)
        if written != size:
            msg = f"llama.cpp saved {written} of {size} bytes of a sequence"
            raise DecodeError(msg)
        return state

    def load(self, slot: int, state: NDArray[np.uint8]) -> None:
        """Put a saved KV into a slot, replacing what it held."""
        if self.can_change_slots:
            state = with_streams(state, self.n_slots)
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        read = self._lib.llama_state_seq_set_data(
            self.handle, pointer, state.size, slot
        )
        if read != state.size:
            msg = f"llama.cpp restored {read} of {state.size} bytes of a sequence"
            raise DecodeError(msg)

    def length(self, slot: int) -> int:
        """Tokens of a sequence up to its last one."""
        return int(self._lib.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter may be going down
            if self.pid == os.getpid():  # a fork's parent frees it
                self._free()
