"""A model as the rest of the package sees it: loaded once, and shared."""

from __future__ import annotations

import os
import threading
import weakref
from functools import cached_property
from pathlib import Path
from typing import Any

from langchain_ralmspec.engine.binding import (
    build_info,
    check_file,
    require_no_forked_gpu,
)
from langchain_ralmspec.engine.context import Context, KVType
from langchain_ralmspec.engine.limits import (
    attention_for,
    known_kv_type,
    require_kv,
    require_ranges,
    require_size,
)
from langchain_ralmspec.engine.prefix_folder import PrefixFolder
from langchain_ralmspec.engine.prefixes import PrefixCache
from langchain_ralmspec.engine.reader import Reader
from langchain_ralmspec.engine.request_queue import RequestQueue
from langchain_ralmspec.engine.slots import Slots
from langchain_ralmspec.engine.templates import ChatTemplate
from langchain_ralmspec.engine.threads import default_threads, threads_for
from langchain_ralmspec.engine.weights import Weights, stamp_of
from langchain_ralmspec.files import absolute, absolute_file
from langchain_ralmspec.machine import stop_idle_openmp_threads

N_SLOTS = 4
"""Sequences that are in the context at once; the others wait in host memory."""

PREFIX_CACHE_BYTES = 512 * 2**20
"""Host memory for the KV of document prefixes, per model."""

Source = str | os.PathLike[str] | Weights

_shared = weakref.WeakValueDictionary[tuple[object, ...], "Model"]()
_shared_weights = weakref.WeakValueDictionary[tuple[object, ...], Weights]()
_last_weights = weakref.WeakValueDictionary[Path, Weights]()  # of each path
_sharing = threading.Lock()


def _renew_lock() -> None:
    global _sharing  # noqa: PLW0603  another thread may have held it at the fork
    _sharing = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(before=stop_idle_openmp_threads, after_in_child=_renew_lock)


def find_file(path: Source) -> tuple[Path, tuple[int, int]]:
    """A GGUF and its stamp; of one that is gone, what is loaded of it will do.

    Raises:
        ModelFileError: it is none, or it is not there and is not loaded either.
    """
    if isinstance(path, Weights):
        return path.path, path.stamp
    given = absolute_file(path)
    weights = _last_weights.get(given)
    if weights is not None and not os.path.exists(given):  # noqa: PTH110  may be barred
        return weights.path, weights.stamp
    file = check_file(given)
    return file, stamp_of(file.stat())


class Model(Reader):
    """Weights, the slots of a context and the KV of prefixes; any thread may use it.

    Once it is loaded, it needs neither its file nor the working directory.

    Attributes:
        weights: the model file's vocabulary, metadata and tensors.
        path: the GGUF file, absolute.
        n_ctx: tokens of a sequence at most.
        n_batch: tokens that one decode call takes at most.
        n_threads: threads for single tokens, and for batches.
        flash_attention: ``auto``, ``enabled`` or ``disabled``, as llama.cpp was asked.
        queue: where requests wait until they are answered.
    """

    @classmethod
    def load(
        cls,
        path: Source,
        *,
        n_ctx: int = 2048,
        n_batch: int = 512,
        n_threads: int | None = None,
        n_gpu_layers: int = 0,
        n_slots: int = N_SLOTS,
        flash_attention: bool | None = None,
        exact_batches: bool = False,
        hidden_only: bool = False,
        kv_type: KVType = "f16",
        use_mmap: bool | None = None,
        use_mlock: bool = False,
        rope_freq_base: float = 0.0,
        rope_freq_scale: float = 0.0,
        joint_decoding: bool | None = None,
        max_queue: int | None = None,
        kv_cache_bytes: int = PREFIX_CACHE_BYTES,
        kv_cache_dir: str | os.PathLike[str] | None = None,
    ) -> Model:
        """Load a model, or share the one that is loaded with the same settings.

        Args:
            path: a GGUF file, or weights that were loaded from one by these arguments.
            n_ctx: tokens per sequence; 0 takes the length the model was trained on.
            n_batch: tokens decoded in one call at most.
            n_threads: threads of every decode; None takes :func:`default_threads`.
            n_gpu_layers: layers to put on a GPU; -1 for all.
            n_slots: sequences that are in the context at once.
            flash_attention: whether to use it; None leaves it to llama.cpp.
            exact_batches: have batches give the bits that their tokens give one by
                one, as far as kernels can (``exact_batch_size``): by one thread for
                single tokens, and flash attention.
            hidden_only: compute hidden states and no logits, for ``observe`` alone.
            kv_type: numbers of the KV: of 16 bits, or of about 8 (``"q8_0"``), which
                changes what the model says a little, and takes flash attention.
            use_mmap: whether the file is mapped into memory; None leaves it open.
            use_mlock: whether it is kept from being swapped out.
            rope_freq_base: base frequency of rotary positions; 0 is the model's own.
            rope_freq_scale: factor on their frequencies; 0 is the model's own.
            joint_decoding: whether threads that want a token at the same time have
                them decoded by one call; None: where that changes no bit of them,
                which is measured when it comes to it.
            max_queue: requests that may wait while as many are answered as the context
                holds; None lets all be answered at once, by turns.
            kv_cache_bytes: host memory for the KV of prefixes.
            kv_cache_dir: a folder that keeps it as well, for other processes.

        Raises:
            ModelFileError: the file is missing, corrupt or not a GGUF.
            DecodeError: llama.cpp cannot allocate the context, or the process was
                forked from one that had a GPU.
            InvalidValueError: a number is out of range, or the KV of ``n_slots``
                sequences takes more memory than there is, or its numbers need flash
                attention.
        """
        require_ranges(
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_threads=default_threads()[1] if n_threads is None else n_threads,
            n_gpu_layers=n_gpu_layers,
            n_slots=n_slots,
            kv_cache_bytes=kv_cache_bytes,
            max_queue=0 if max_queue is None else max_queue,
        )
        attention = attention_for(known_kv_type(kv_type), flash_attention)
        threads = threads_for(n_threads)
        if exact_batches:
            threads, attention = (1, threads[1]), True
        settings: dict[str, Any] = {
            "n_ctx": n_ctx,
            "n_batch": n_batch,
            "n_threads": threads,
            "n_slots": n_slots,
            "flash_attention": attention,
            "hidden_only": hidden_only,
            "kv_type": kv_type,
            "rope_freq_base": float(rope_freq_base),
            "rope_freq_scale": float(rope_freq_scale),
        }
        loading: dict[str, Any] = {
            "n_gpu_layers": n_gpu_layers,
            "use_mmap": use_mmap,
            "use_mlock": use_mlock,
        }
        own: dict[str, Any] = {
            "joint_decoding": joint_decoding,
            "max_queue": max_queue,
            "kv_cache_bytes": kv_cache_bytes,
            "kv_cache_dir": None if kv_cache_dir is None else absolute(kv_cache_dir),
        }
        with _sharing:
            return cls._shared_with(path, loading, settings, own)

    @classmethod
    def _shared_with(
        cls,
        given: Source,
        loading: dict[str, Any],
        settings: dict[str, Any],
        own: dict[str, Any],
    ) -> Model:
        """The one model of all who give the same arguments."""
        require_no_forked_gpu()
        path = given.path if isinstance(given, Weights) else absolute_file(given)
        weights_key = (*find_file(given), *loading.values())
        # A forked process shares the weights, which nobody changes, and no context.
        key = (*weights_key, *settings.values(), *own.values(), os.getpid())
        model = _shared.get(key)
        if model is None:
            weights = _shared_weights.get(weights_key)
            if weights is None:
                weights = Weights(check_file(path), **loading)
                _shared_weights[weights_key] = weights
            longest = settings["n_ctx"] or weights.n_ctx_train
            require_kv(weights, longest, settings["n_slots"], settings["kv_type"])
            context = Context(weights, **settings)
            _shared[key] = model = cls(context, **own)
        _last_weights[path] = model.weights
        return model

    def __init__(
        self,
        context: Context,
        *,
        joint_decoding: bool | None,
        max_queue: int | None,
        kv_cache_bytes: int,
        kv_cache_dir: Path | None,
    ) -> None:
        """Take over a context, as :meth:`load` does."""
        self.weights, self.path = context.weights, context.weights.path
        self.n_ctx, self.flash_attention = context.n_ctx, context.flash_attention
        self.n_batch, self.n_threads = context.n_batch, context.n_threads
        self._rope, self._kv_type = context.rope, context.kv_type
        slots = Slots(context, joint_decoding=joint_decoding)
        self.queue = RequestQueue(lambda: slots.n_places, max_queue)
        folder = None
        if kv_cache_dir is not None:
            folder = PrefixFolder(kv_cache_dir, self._fingerprint())
        prefixes = PrefixCache(kv_cache_bytes, folder, slots.can_restore)
        super().__init__(context.weights, slots, prefixes)

    def _fingerprint(self) -> dict[str, str | int]:
        """All that the bits of a KV depend on, besides its tokens."""
        return {
            **build_info(),
            "model": self.weights.sha256,
            "n_ctx": self.n_ctx,  # some models stretch their positions by it
            "n_batch": self.n_batch,
            "n_threads": self.n_threads[1],
            "flash_attention": self.flash_attention,
            "n_gpu_layers": self.weights.n_gpu_layers,
            # Where these are as they always were, entries of before are good still.
            **({"rope": str(self._rope)} if any(self._rope) else {}),
            **({"kv_type": self._kv_type} if self._kv_type != "f16" else {}),
        }

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template; raises as :class:`ChatTemplate` does."""
        return ChatTemplate(self.weights)

    def require_size(self, *texts: str) -> None:
        """Refuse texts that surely do not fit, before any work is done on them.

        Raises:
            ContextOverflowError: they have more bytes than ``n_ctx`` tokens can have.
        """
        require_size(texts, self.n_ctx, self.weights)

    def n_together(self, n: int) -> int:
        """How many of ``n`` answers to write at once; 1 where they take turns anyway.

        Measured now if it was not before; slots are added for them.
        """
        return self._slots.n_together(n)
