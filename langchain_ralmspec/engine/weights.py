"""A model file loaded into memory: its vocabulary, metadata and tensors."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_ralmspec.arguments import Live
from langchain_ralmspec.engine.binding import library
from langchain_ralmspec.engine.markers import Markers, is_composed
from langchain_ralmspec.errors import DecodeError, InvalidValueError, ModelFileError
from langchain_ralmspec.text import cuts_of_long_numbers, cuts_of_long_runs, well_formed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_BYTES = 2**31 - 1  # llama.cpp counts them in 32 bits


def stamp_of(status: os.stat_result) -> tuple[int, int]:
    """What tells a file from one that is put in its place: its size, and its time."""
    return status.st_size, status.st_mtime_ns


_HEADER = 2**26  # bytes; vocabularies take up to 20 million


class Weights(Live):
    """A GGUF loaded once; one that llama.cpp cannot load is a ``ModelFileError``."""

    def __init__(
        self,
        path: Path,
        *,
        n_gpu_layers: int = 0,
        use_mmap: bool | None = None,
        use_mlock: bool = False,
    ) -> None:
        self.handle: Any = None
        self._lib = lib = library()
        self.path, self.n_gpu_layers = path, n_gpu_layers
        self._pid = os.getpid()
        # The content that is loaded, even when the file is deleted or replaced.
        with path.open("rb") as file:
            self.stamp = stamp_of(os.fstat(file.fileno()))
            self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        if use_mmap is not None or use_mlock:
            modes = ("NONE", "MMAP", "MLOCK", "MMAP_MLOCK")
            mode = modes[(use_mmap is not False) + 2 * use_mlock]
            params.load_mode = getattr(lib, f"LLAMA_LOAD_MODE_{mode}")
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
        adds_bos = lib.llama_vocab_get_add_bos(self._vocab)
        # Tokens before a plain text: BOS, where the model wants it.
        self.text_start: tuple[int, ...] = (self.bos,) if adds_bos else ()
        self._pieces: dict[int, bytes] = {}

    def metadata(self, key: str) -> str | None:
        """Value of a GGUF metadata key as text, or None when it is absent."""
        read, name = self._lib.llama_model_meta_val_str, key.encode()
        length = read(self.handle, name, None, 0)
        if length < 0:
            return None
        buffer = ctypes.create_string_buffer(length + 1)
        read(self.handle, name, buffer, length + 1)
        return buffer.value.decode("utf-8", errors="replace")

    @property
    def has_chat_template(self) -> bool:
        """Whether the file brings a chat template."""
        return bool(self.metadata("tokenizer.chat_template"))

    @property
    def stretches_positions(self) -> bool:
        """Whether rotary positions may hang on the size of the context (LongRoPE)."""
        name = self.metadata("general.architecture")
        told = self.metadata(f"{name}.rope.scaling.original_context_length")
        # Some files have the factors alone: among the names of tensors, which stand
        # behind metadata and vocabulary.
        named = self._content.find(b"rope_factors_long", 0, _HEADER) >= 0
        return told is not None or named

    @cached_property
    def sha256(self) -> str:
        """Checksum of what the file held when it was loaded."""
        return hashlib.sha256(self._content).hexdigest()

    @cached_property
    def has_plain_kv(self) -> bool:
        """Whether it keeps keys and values alone, and of all layers alike."""
        lib, handle = library(), self.handle
        is_recurrent = lib.llama_model_is_recurrent(handle)
        is_hybrid = lib.llama_model_is_hybrid(handle)
        return not (is_recurrent or is_hybrid or lib.llama_model_n_swa(handle))

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of a token's keys and values, of 16 bits; 0 if hard to say.

        That is where layers share them, or keep something smaller or nothing.
        """
        name = self.metadata("general.architecture")
        n_layers = self._number("block_count", 0)
        n_heads = self._number("attention.head_count", 0)
        n_kept = self._number("attention.head_count_kv", 0)
        is_plain = not any(
            self.metadata(f"{name}.{key}")
            for key in ("attention.kv_lora_rank", "attention.shared_kv_layers")
        )
        if not (n_layers and n_heads and is_plain):
            return 0
        return 2 * n_layers * n_kept * sum(self.head_widths)

    @property
    def head_widths(self) -> tuple[int, int]:
        """Numbers of a key, and of a value; 0 where that is not told."""
        n_heads = self._number("attention.head_count", 0)
        width = self.n_embd // n_heads if n_heads else 0
        names = "attention.key_length", "attention.value_length"
        key, value = (self._number(name, width) for name in names)
        return key, value

    def _number(self, key: str, otherwise: int) -> int:
        """A number of the architecture; lists, one number a layer, are not told."""
        told = self.metadata(f"{self.metadata('general.architecture')}.{key}")
        return int(told) if told is not None and told.isdigit() else otherwise

    @property
    def quantization(self) -> str | None:
        """How most tensors are stored, e.g. ``Q4_0``; None where the file is silent."""
        kind = self.metadata("general.file_type")
        for name, value in vars(self._lib).items():
            for prefix in ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_"):
                if name.startswith(prefix) and str(value) == kind:
                    return str(name).removeprefix(prefix)
        return None

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of ``text``, without BOS; ``special`` parses control tokens."""
        return self.tokenize_runs([(text, special)])

    def tokenize_runs(self, runs: Iterable[tuple[str, bool]]) -> list[int]:
        """Token ids of a text in runs, and whether control tokens in each one count.

        Raises:
            InvalidValueError: a run is longer than llama.cpp can count.
        """
        tokens: list[int] = []
        known: dict[tuple[str, bool], list[int]] = {}  # of those that follow others
        for text, special in runs:
            for part in self._parts(well_formed(text), special=special):
                if not tokens:
                    tokens = self._encode(part, special=special)
                    continue
                if (part, special) not in known:
                    known[part, special] = self._continue(part, special=special)
                tokens += known[part, special]
        return tokens

    def tokenize_prompt(
        self, text: str, *, special: bool
    ) -> tuple[tuple[int, ...], list[int]]:
        """BOS, where the model wants it, and the tokens behind it.

        It is not doubled where the text begins with it.
        """
        tokens = self.tokenize(text, special=special)
        n_brought = len(self.text_start)
        if tuple(tokens[:n_brought]) == self.text_start:
            tokens = tokens[n_brought:]
        return self.text_start, tokens

    def _parts(self, text: str, *, special: bool) -> Iterator[str]:
        """A text in parts that llama.cpp reads as they are meant, and survives."""
        cuts: list[int] = []
        if self._splits_by_regex:
            cuts += cuts_of_long_runs(text)
        if self._groups_from_the_last:
            cuts += cuts_of_long_numbers(text)
        if special:
            cuts = [self.markers.start_of(text, cut) for cut in cuts]
        elif self._imitations:
            # Parsed even in plain text: only in two halves they are nothing but text.
            cuts += (found.start() + 1 for found in self._imitations.finditer(text))
        for start, end in pairwise(sorted({0, *cuts, len(text)})):
            yield text[start:end]

    def _continue(self, text: str, *, special: bool) -> list[int]:
        """Token ids of what follows other text: it gets no space in front."""
        if self._space_first:
            line = self._encode("\n", special=False)
            tokens = self._encode(f"\n{text}", special=special)
            if tokens[: len(line)] == line:
                return tokens[len(line) :]
        return self._encode(text, special=special)

    def _encode(self, text: str, *, special: bool) -> list[int]:
        data = text.encode()
        # A token is at least one byte; some vocabularies add a space in front.
        size = len(data) + 2
        if size > _MAX_BYTES:
            msg = f"a text of {len(data)} bytes is too long; give it in parts"
            raise InvalidValueError(msg)
        tokens = (self._lib.llama_token * size)()
        count = self._lib.llama_tokenize(
            self._vocab, data, len(data), tokens, size, False, special
        )
        if count < 0:
            msg = f"llama.cpp cannot tokenize a text of {len(data)} bytes"
            raise DecodeError(msg)
        return list(tokens[:count])

    @cached_property
    def markers(self) -> Markers:
        """The texts that are control tokens, where control tokens count."""
        controls = {self.token_text(token): token for token in self.controls}
        sought, others = self._defined_markers
        return Markers(controls, others, sought)

    @cached_property
    def controls(self) -> frozenset[int]:
        """Control and unknown tokens; the :meth:`piece` of each is empty."""
        kinds = ~self._lib.LLAMA_TOKEN_ATTR_USER_DEFINED
        return frozenset(t for t, kind in self._special.items() if kind & kinds)

    @cached_property
    def _defined_markers(self) -> tuple[list[str], list[str]]:
        """Markers of the chat template that the file calls user-defined tokens.

        Files of old converters call all of them so; llama.cpp parses them even where
        control tokens do not count. First those that the template looks for in
        contents, as for the end of a thought, then the others.
        """
        source = self.metadata("tokenizer.chat_template") or ""
        kind = self._lib.LLAMA_TOKEN_ATTR_USER_DEFINED
        defined = (token for token, own in self._special.items() if own == kind)
        names = list(map(self.token_text, defined))
        names = [n for n in names if n in source or is_composed(n, source)]
        names = [name for name in names if len(name) > 1 and name[0] in "<["]
        sought = r"(['\"]){0}\1\s+(not\s+)?in\b|\.\w+\(\s*['\"]{0}"
        found = [n for n in names if re.search(sought.format(re.escape(n)), source)]
        return found, [name for name in names if name not in found]

    @cached_property
    def _imitations(self) -> re.Pattern[str] | None:
        sought, others = self._defined_markers
        names = [*sought, *others]
        return Markers({}, names).pattern if names else None

    @cached_property
    def _special(self) -> dict[int, int]:
        """Tokens that llama.cpp parses in texts, and which of its kinds they are."""
        lib, read = self._lib, self._lib.llama_vocab_get_attr
        kinds = (
            lib.LLAMA_TOKEN_ATTR_CONTROL
            | lib.LLAMA_TOKEN_ATTR_UNKNOWN
            | lib.LLAMA_TOKEN_ATTR_USER_DEFINED
        )
        found = ((token, read(self._vocab, token)) for token in range(self.n_vocab))
        return {token: kind & kinds for token, kind in found if kind & kinds}

    @cached_property
    def _splits_by_regex(self) -> bool:
        kind = self._lib.llama_vocab_type(self._vocab)
        return bool(kind == self._lib.LLAMA_VOCAB_TYPE_BPE)

    @cached_property
    def _groups_from_the_last(self) -> bool:
        """Whether digits are read in threes that are counted from the last."""
        return self.metadata("tokenizer.ggml.pre") == "superbpe"

    @cached_property
    def _space_first(self) -> bool:
        """Whether llama.cpp puts a space in front of a text."""
        pieces = map(self.piece, self._encode("a", special=False))
        return b"".join(pieces).startswith(b" ")

    @cached_property
    def longest_token(self) -> int:
        """No token has more bytes than this."""
        read = self._lib.llama_vocab_get_text
        names = (read(self._vocab, token) or b"" for token in range(self.n_vocab))
        return max(map(len, names), default=1)

    def piece(self, token: int) -> bytes:
        """Bytes of one token; empty for control tokens."""
        piece, size = self._pieces.get(token), 64
        while piece is None:
            buffer = ctypes.create_string_buffer(size)
            length = self._lib.llama_token_to_piece(
                self._vocab, token, buffer, size, 0, False
            )
            if length >= 0:
                piece = self._pieces[token] = buffer.raw[:length]
            size = -length
        return piece

    @property
    def vocabulary(self) -> Any:
        """llama.cpp's handle of it, which lives as long as the weights."""
        return self._vocab

    @cached_property
    def first_bytes(self) -> NDArray[np.int16]:
        """The first byte of each token's text, -1 for those without; ``(n_vocab,)``."""
        pieces = map(self.piece, range(self.n_vocab))
        return np.array([piece[0] if piece else -1 for piece in pieces], np.int16)

    @cached_property
    def byte_tokens(self) -> dict[int, int]:
        """For each byte a token whose text it is, where there is one."""
        found: dict[int, int] = {}
        for token in range(self.n_vocab):
            piece = self.piece(token)
            if len(piece) == 1:
                found.setdefault(piece[0], token)
        return found

    @cached_property
    def ends(self) -> list[int]:
        """Tokens that end a generation."""
        return [token for token in range(self.n_vocab) if self.is_end(token)]

    def token_text(self, token: int) -> str:
        """The vocabulary's own name of a token; empty where there is none."""
        if not 0 <= token < self.n_vocab:  # which llama.cpp would not survive
            return ""
        text: bytes = self._lib.llama_vocab_get_text(self._vocab, token) or b""
        return text.decode("utf-8", errors="replace")

    @property
    def named_tokens(self) -> dict[str, str]:
        """Special tokens under the names by which chat templates know them.

        There are always ``bos_token`` and ``eos_token``; of others those that the
        file tells of.
        """
        lib, unknown = self._lib, self.metadata("tokenizer.ggml.unknown_token_id") or ""
        named = {
            "unk": int(unknown) if unknown.isdecimal() else -1,
            "pad": lib.llama_vocab_pad(self._vocab),
            "sep": lib.llama_vocab_sep(self._vocab),
            "mask": lib.llama_vocab_mask(self._vocab),
        }
        told = {name: t for name, t in named.items() if 0 <= t < self.n_vocab}
        every = {"bos": self.bos, "eos": self.eos, **told}
        return {f"{name}_token": self.token_text(t) for name, t in every.items()}

    def is_end(self, token: int) -> bool:
        """Whether the token ends a generation (EOS, EOT and their kin)."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter may be going down
            if self.handle and self._pid == os.getpid():  # a fork's parent frees it
                self._lib.llama_model_free(self.handle)
