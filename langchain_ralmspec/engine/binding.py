"""The only module that calls llama.cpp: weights, a context, and nothing clever.

Everything here is a thin, checked layer over ``llama_cpp.llama_cpp`` (ctypes).
A decode releases the interpreter lock. Nothing here is thread-safe on its own:
:class:`langchain_ralmspec.engine.model.Model` holds the lock of a context.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_ralmspec.errors import (
    DecodeError,
    InvalidValueError,
    MissingExtraError,
    ModelFileError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Sequence as Tokens

    from numpy.typing import NDArray

_GGUF_MAGIC = b"GGUF"
# llama.cpp's names for the hidden states behind the last norm; the later one stays.
_HIDDEN = (b"result_norm", b"result_embd_pooled")

QUANTIZATIONS = {
    "Q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0",
    "Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "F16": "LLAMA_FTYPE_MOSTLY_F16",
}
"""What a GGUF can be turned into, and llama.cpp's constant for it."""


def _library() -> Any:
    try:
        import llama_cpp
    except ImportError as error:
        raise MissingExtraError.of("llama_cpp", "llama") from error
    logger = logging.getLogger("llama-cpp-python")
    if logger.level == logging.NOTSET:  # its default prints every tensor to stderr
        logger.setLevel(logging.ERROR)
    return llama_cpp.llama_cpp


def check_file(path: str | os.PathLike[str]) -> Path:
    """Check that ``path`` is a readable GGUF file before llama.cpp sees it.

    Raises:
        ModelFileError: no such file, or its first bytes are not a GGUF's.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        msg = f"no model file at {str(file)!r}; give model_path the path of a GGUF"
        raise ModelFileError(msg)
    with file.open("rb") as stream:
        magic = stream.read(len(_GGUF_MAGIC))
    if magic != _GGUF_MAGIC:
        msg = f"{str(file)!r} is not a GGUF file (it starts with {magic!r})"
        raise ModelFileError(msg)
    return file.resolve()


def version() -> str:
    """The version of llama-cpp-python, and so of the bits that llama.cpp computes."""
    _library()
    return metadata.version("llama-cpp-python")


def system_info() -> str:
    """The instructions of the processor that this llama.cpp uses."""
    text: bytes = _library().llama_print_system_info()
    return text.decode()


def requantize(source: Path, target: Path, quantization: str) -> None:
    """Write ``source`` once more with another quantization.

    Args:
        source: a GGUF file, itself quantized or not.
        target: where to write; its folder exists.
        quantization: a key of ``QUANTIZATIONS``.

    Raises:
        ModelFileError: llama.cpp could not do it.
    """
    lib = _library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, QUANTIZATIONS[quantization])
    params.allow_requantize = True
    with _silence():
        lib.llama_backend_init()
        code = lib.llama_model_quantize(
            os.fsencode(source), os.fsencode(target), params
        )
    if code != 0:
        msg = (
            f"llama.cpp could not turn {str(source)!r} into {quantization} "
            f"(code {code}); is there room in {str(target.parent)!r}?"
        )
        raise ModelFileError(msg)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep llama.cpp from writing a line per tensor to stderr.

    The wrapper's log callback asks this logger's level before it prints.
    """
    logger = logging.getLogger("llama-cpp-python")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class Weights:
    """A GGUF loaded once: its vocabulary, metadata and tensors."""

    def __init__(self, path: Path, *, n_gpu_layers: int = 0) -> None:
        """Load the file.

        Raises:
            ModelFileError: llama.cpp cannot load it (truncated or unsupported).
        """
        self.handle: Any = None
        self._lib = lib = _library()
        self.path = path
        self.n_gpu_layers = n_gpu_layers
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        self.handle = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            msg = (
                f"llama.cpp cannot load {str(path)!r}; the file is truncated, corrupt "
                "or of an architecture that this llama-cpp-python does not know"
            )
            raise ModelFileError(msg)
        self._vocab = lib.llama_model_get_vocab(self.handle)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self._vocab)
        self.n_embd: int = lib.llama_model_n_embd(self.handle)
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self.handle)
        self.bos: int = lib.llama_vocab_bos(self._vocab)
        self.eos: int = lib.llama_vocab_eos(self._vocab)
        self.adds_bos: bool = lib.llama_vocab_get_add_bos(self._vocab)
        self._pieces: dict[int, bytes] = {}

    def metadata(self, key: str) -> str | None:
        """Value of a GGUF metadata key as text, or None when it is absent."""
        length = self._lib.llama_model_meta_val_str(self.handle, key.encode(), None, 0)
        if length < 0:
            return None
        buffer = ctypes.create_string_buffer(length + 1)
        self._lib.llama_model_meta_val_str(
            self.handle, key.encode(), buffer, length + 1
        )
        return buffer.value.decode("utf-8", errors="replace")

    @property
    def has_chat_template(self) -> bool:
        """Whether the file brings a chat template."""
        return bool(self.metadata("tokenizer.chat_template"))

    @cached_property
    def sha256(self) -> str:
        """Checksum of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def quantization(self) -> str | None:
        """How most tensors are stored, e.g. ``Q4_0``; None where the file is silent."""
        kind = self.metadata("general.file_type")
        prefixes = ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_")
        names = {
            str(value): name.removeprefix(prefix)
            for name, value in vars(self._lib).items()
            for prefix in prefixes
            if name.startswith(prefix)
        }
        return names.get(kind) if kind else None

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of ``text``, without BOS; ``special`` parses control tokens."""
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            msg = f"{text[error.start : error.end]!r} is not a character: {error}"
            raise InvalidValueError(msg) from error
        # A token is at least one byte; some vocabularies add a space in front.
        size = len(data) + 2
        tokens = (self._lib.llama_token * size)()
        count = self._lib.llama_tokenize(
            self._vocab, data, len(data), tokens, size, False, special
        )
        if count < 0:
            msg = f"llama.cpp cannot tokenize a text of {len(data)} bytes"
            raise DecodeError(msg)
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        """Bytes of one token; empty for control tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token)
        return piece

    def _read_piece(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = self._lib.llama_token_to_piece(
                self._vocab, token, buffer, size, 0, False
            )
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def token_text(self, token: int) -> str:
        """The vocabulary's own name of a token, control tokens included."""
        text: bytes = self._lib.llama_vocab_get_text(self._vocab, token) or b""
        return text.decode("utf-8", errors="replace")

    def is_end(self, token: int) -> bool:
        """Whether the token ends a generation (EOS, EOT and their kin)."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def close(self) -> None:
        """Free the weights."""
        if self.handle:
            self._lib.llama_model_free(self.handle)
            self.handle = None

    def __del__(self) -> None:
        """Free the weights when the last user is gone."""
        with contextlib.suppress(Exception):  # the interpreter may be going down
            self.close()


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


class Context:
    """KV memory for ``n_slots`` independent sequences, and the decode call.

    Each slot has a KV stream of its own (``kv_unified=False``), so that what
    one sequence holds cannot leak into the rounding of another.
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
    ) -> None:
        """Allocate the context.

        Args:
            weights: the model.
            n_ctx: tokens per slot.
            n_slots: sequences.
            n_batch: tokens in one decode call at most.
            n_threads: threads for single tokens, and for batches.
            flash_attention: whether to use it; None leaves it to llama.cpp.
            hidden_only: end every decode at the hidden states. Logits are not
                computed then, and what is read of them is arbitrary.

        Raises:
            DecodeError: llama.cpp cannot allocate it.
        """
        self.handle: Any = None
        self._lib = lib = weights._lib  # noqa: SLF001  same module
        self._weights = weights  # keeps the weights alive as long as the context
        params = lib.llama_context_default_params()
        params.n_ctx = n_ctx * n_slots
        params.n_batch = params.n_ubatch = n_batch
        params.n_seq_max = n_slots
        params.n_threads, params.n_threads_batch = n_threads
        params.kv_unified = False
        params.swa_full = True  # a sliding window would forget what we roll back to
        params.no_perf = True
        if flash_attention is not None:
            params.flash_attn_type = int(flash_attention)  # of the enum, auto is -1
        self._stop = _stop_at_hidden(lib) if hidden_only else None
        self._worker: ThreadPoolExecutor | None = None
        if self._stop is not None:  # llama.cpp calls it, so it is kept alive
            params.cb_eval = self._stop
            self._worker = ThreadPoolExecutor(1, "llama-decode")
        self.n_threads = n_threads
        name: bytes = lib.llama_flash_attn_type_name(params.flash_attn_type)
        self.flash_attention = name.decode()
        self.handle = lib.llama_init_from_model(weights.handle, params)
        if not self.handle:
            msg = (
                f"llama.cpp cannot allocate a context of {n_slots} × {n_ctx} tokens; "
                "lower n_ctx"
            )
            raise DecodeError(msg)
        self.n_batch = n_batch
        # Made once: as_array() of a pointer makes a type at every call, 0.1 ms.
        self._logits_type = ctypes.c_float * weights.n_vocab
        self._hidden_type = ctypes.c_float * weights.n_embd
        self._gives_hidden = False
        self._memory = lib.llama_get_memory(self.handle)
        self._allocate_batch(n_batch)

    def _allocate_batch(self, size: int) -> None:
        # One batch, refilled at every call. All its tokens belong to one
        # sequence, so every seq_id pointer points at the same integer.
        self._tokens = np.zeros(size, np.int32)
        self._positions = np.zeros(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        ones = np.ones(size, np.int32)
        self._slot = ctypes.c_int32(0)
        slot = ctypes.POINTER(ctypes.c_int32)
        pointers = (slot * size)(*([ctypes.pointer(self._slot)] * size))
        self._batch_memory = (ones, pointers)
        int32, int8 = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_int8)
        self._batch = self._lib.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(int32),
            embd=None,
            pos=self._positions.ctypes.data_as(int32),
            n_seq_id=ones.ctypes.data_as(int32),
            seq_id=ctypes.cast(pointers, ctypes.POINTER(slot)),
            logits=self._wanted.ctypes.data_as(int8),
        )

    def decode(
        self, slot: int, tokens: Tokens[int], position: int, *, n_logits: int
    ) -> NDArray[np.float32]:
        """Decode at most ``n_batch`` tokens of one sequence from ``position`` on.

        Returns:
            The logits after each of the last ``n_logits`` tokens, shape
            ``(n_logits, n_vocab)``, a copy.

        Raises:
            DecodeError: llama.cpp reports a failure (1: no free KV cells).
        """
        self._decode(slot, tokens, position, n_outputs=n_logits, hidden=False)
        return self._logits(n_logits)

    def observe(
        self, slot: int, tokens: Tokens[int], position: int, *, n_logits: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Do what :meth:`decode` does, and give the hidden states as well.

        The logits are the same, bit for bit. llama.cpp computes those of all tokens.

        Returns:
            The logits after each of the last ``n_logits`` tokens, and the hidden
            state (behind the last norm) of every token, shape
            ``(len(tokens), n_embd)``; copies.

        Raises:
            DecodeError: llama.cpp reports a failure (1: no free KV cells), or the
                model has no hidden states of single tokens.
        """
        n = len(tokens)
        self._decode(slot, tokens, position, n_outputs=n, hidden=True)
        hidden = np.empty((n, self._weights.n_embd), np.float32)
        for row in range(n):
            pointer = self._lib.llama_get_embeddings_ith(self.handle, row)
            if not pointer:
                msg = (
                    f"{str(self._weights.path)!r} gives no hidden states of single "
                    "tokens; use a model that generates text"
                )
                raise DecodeError(msg)
            memory = self._hidden_type.from_address(ctypes.addressof(pointer.contents))
            hidden[row] = np.ctypeslib.as_array(memory)
        return self._logits(n_logits), hidden

    def _decode(
        self,
        slot: int,
        tokens: Tokens[int],
        position: int,
        *,
        n_outputs: int,
        hidden: bool,
    ) -> None:
        if hidden != self._gives_hidden:
            self._lib.llama_set_embeddings(self.handle, hidden)
            self._gives_hidden = hidden
        n = len(tokens)
        self._tokens[:n] = tokens
        self._positions[:n] = np.arange(position, position + n)
        self._wanted[: n - n_outputs] = 0
        self._wanted[n - n_outputs : n] = 1
        self._slot.value = slot
        self._batch.n_tokens = n
        code = self._computed()
        if code != 0:
            msg = f"llama_decode returned {code} for {n} tokens at position {position}"
            raise DecodeError(msg)

    def _computed(self) -> int:
        """Run llama.cpp on the batch and give its code.

        With a callback, in another thread: Ctrl-C is raised in the main thread's
        Python code, and were that the callback's, ctypes would drop it and answer
        llama.cpp anything. Nobody may touch the context before that thread is done.
        """
        if self._worker is None:
            return int(self._lib.llama_decode(self.handle, self._batch))
        code = self._worker.submit(self._lib.llama_decode, self.handle, self._batch)
        try:
            return int(code.result())
        finally:
            while not code.done():
                with contextlib.suppress(KeyboardInterrupt):  # the first one is raised
                    wait([code])

    def _logits(self, n: int) -> NDArray[np.float32]:
        """Those after each of the last ``n`` tokens."""
        rows = np.empty((n, self._weights.n_vocab), np.float32)
        for row in range(n):
            pointer = self._lib.llama_get_logits_ith(self.handle, row - n)
            if not pointer:
                msg = f"{str(self._weights.path)!r} gives no logits; it cannot generate"
                raise DecodeError(msg)
            memory = self._logits_type.from_address(ctypes.addressof(pointer.contents))
            rows[row] = np.ctypeslib.as_array(memory)
        return rows

    def remove(self, slot: int, position: int) -> None:
        """Forget everything of a sequence from ``position`` on.

        Raises:
            DecodeError: the model's memory cannot be cut there (recurrent models).
        """
        if not self._lib.llama_memory_seq_rm(self._memory, slot, position, -1):
            msg = f"the model's memory cannot be rolled back to position {position}"
            raise DecodeError(msg)

    def forget(self, slot: int, position: int, n: int) -> None:
        """Forget ``n`` tokens of a sequence; those behind them move up.

        Their keys are rotated to their new positions at the next decode only, so that
        must come before the sequence is saved.

        Raises:
            DecodeError: the model's memory cannot do that; all is as before.
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
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        read = self._lib.llama_state_seq_set_data(
            self.handle, pointer, state.size, slot
        )
        if read != state.size:
            msg = f"llama.cpp restored {read} of {state.size} bytes of a sequence"
            raise DecodeError(msg)

    def close(self) -> None:
        """Free the context."""
        if self.handle:
            self._lib.llama_free(self.handle)
            self.handle = None

    def __del__(self) -> None:
        """Free the context when its owner is gone."""
        with contextlib.suppress(Exception):  # the interpreter may be going down
            self.close()
