"""What every face of a local model takes: the model, and how tokens are chosen."""

from __future__ import annotations

import os
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from langchain_core.globals import get_llm_cache
from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from langchain_ralmspec.answer.transcript import Transcript, stops_of
from langchain_ralmspec.answer.vocabulary import Spoken, Vocabulary
from langchain_ralmspec.arguments import is_remade, require_text
from langchain_ralmspec.base.cache_keys import stamp_at
from langchain_ralmspec.base.call_settings import CallSettings
from langchain_ralmspec.base.configured import close_configured
from langchain_ralmspec.base.llama_cpp import refuse
from langchain_ralmspec.engine import Model
from langchain_ralmspec.engine.context import KVType
from langchain_ralmspec.engine.grammar import Grammar
from langchain_ralmspec.engine.limits import RANGES
from langchain_ralmspec.engine.model import PREFIX_CACHE_BYTES, find_file
from langchain_ralmspec.errors import UnknownArgumentError
from langchain_ralmspec.files import absolute, absolute_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from langchain_core.messages.ai import UsageMetadata
    from langchain_core.messages.content import Citation

    from langchain_ralmspec.answer.run import Run
    from langchain_ralmspec.answer.sampling import Sampler
    from langchain_ralmspec.base.tracing import ModelRun
    from langchain_ralmspec.engine.grammar import Marker
    from langchain_ralmspec.engine.weights import Weights


def _path_by(make: Callable[[str | os.PathLike[str]], Path]) -> BeforeValidator:
    """A check that makes paths absolute; what is no path is left to pydantic."""

    def checked(value: Any) -> Any:
        return str(make(value)) if isinstance(value, str | os.PathLike) else value

    return BeforeValidator(checked)


def in_range(name: str, default: int | None) -> Any:
    """The field of a number that ``Model.load()`` takes, with its bounds."""
    least, most = RANGES[name]
    return Field(default=default, ge=least, le=most)


FilePath = Annotated[str, _path_by(absolute_file)]
FolderPath = Annotated[str, _path_by(absolute)]

_OF_THE_ENGINE = (
    "n_ctx",
    "n_batch",
    "n_threads",
    "n_gpu_layers",
    "use_mmap",
    "use_mlock",
    "kv_type",
    "rope_freq_base",
    "rope_freq_scale",
    "joint_decoding",
    "max_queue",
    "kv_cache_bytes",
    "kv_cache_dir",
)
"""Arguments of ``Model.load()`` that all faces take."""


@dataclass(frozen=True, slots=True)
class PreparedAnswer:
    """An answer that is written while its text is read; then more can be told."""

    text: Iterable[str]  # in pieces, none of which is taken back
    metadata: Callable[[], dict[str, Any]]  # how the answer came about
    usage: Callable[[], UsageMetadata]  # tokens in and out
    # Whether it begins inside a thought; None where thoughts are not told apart.
    is_thinking: bool | None = None
    # Tells of look-ups as runs beneath this one; called before the text is read.
    trace: Callable[[ModelRun], None] = lambda _: None
    # The documents behind what a message says of it.
    citations: Callable[[str], list[Citation]] | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer may be, and which control tokens are part of its text."""

    grammar: Grammar | None
    vocabulary: Vocabulary

    @classmethod
    def of(
        cls,
        weights: Weights,
        *grammars: str | None,
        root: str = "root",
        marker: Marker | None = None,
        spoken: str = "",
        shown: str = "",
    ) -> Form:
        """Make it of grammars, of which an answer follows one; none leave it free.

        Args:
            weights: have the vocabulary.
            grammars: in GBNF.
            root: the rule that a grammar begins with, if it has one of this name.
            marker: from where on they hold.
            spoken: control tokens in this text are part of an answer's.
            shown: those in this one are as well, but no grammar allows them.

        Raises:
            GrammarError: one cannot be parsed.
        """

        def controls_in(text: str) -> list[int]:
            parts = weights.markers.spelling(text)
            return [part for part in parts if isinstance(part, int)]

        controls = controls_in(spoken)
        every = {*controls, *controls_in(shown)}
        names = {token: weights.token_text(token).encode() for token in every}
        texts = [text for text in grammars if text is not None]
        grammar = (
            Grammar(
                weights,
                *texts,
                root=root,
                marker=marker,
                spoken=controls,
                shown=controls_in(shown),
            )
            if texts
            else None
        )
        return cls(grammar, Spoken(weights, names) if names else weights)


class LocalGeneration(CallSettings):
    """Arguments of every face: llama.cpp's, and those of ``CallSettings``."""

    _of_calls: ClassVar[tuple[str, ...]] = ()  # that calls take beside these
    model_path: FilePath
    """A GGUF file: a string or a ``Path``, ``~`` expanded; absolute from then on."""
    n_ctx: int = in_range("n_ctx", 2048)
    """Tokens of prompt, documents and answer together; 0 takes the model's own."""
    n_batch: int = in_range("n_batch", 512)
    """Tokens that are decoded in one call at most."""
    n_threads: int | None = in_range("n_threads", None)
    """Threads of a decode; None: half the cores for single tokens, all for batches."""
    n_gpu_layers: int = in_range("n_gpu_layers", 0)
    """Layers on a GPU; -1 for all."""
    use_mmap: bool | None = None
    """Whether the model's file is mapped into memory; None leaves it to llama.cpp."""
    use_mlock: bool = False
    """Whether the model is kept from being swapped out."""
    kv_type: KVType = "f16"
    """Numbers of the KV: of 16 bits, or of 8.5 with ``"q8_0"``. The latter take about
    half of memory and ``kv_cache_dir``, and answers may differ a little."""
    rope_freq_base: float = Field(default=0.0, ge=0)
    """Base frequency of rotary positions; 0 takes the model's own."""
    rope_freq_scale: float = Field(default=0.0, ge=0)
    """Factor on the frequencies of rotary positions; 0 takes the model's own."""
    joint_decoding: bool | None = None
    """Whether the next tokens of requests at the same time are decoded by one call,
    which reads the model once for all. None: where no bit changes by it, which is
    measured when a second request comes. With True near ties may fall otherwise."""
    max_queue: int | None = in_range("max_queue", None)
    """Requests that may wait, the shortest first, while as many are answered as
    the context holds: 4 (of ``RapidChain`` 2), or up to 16 where they are decoded
    together. One more is a ``QueueFullError``; 0 lets none wait. None: all are answered
    at once, by turns."""
    kv_cache_bytes: int = in_range("kv_cache_bytes", PREFIX_CACHE_BYTES)
    """Bytes of host memory for the KV of what answers begin with, a document above all,
    so that it need not be read again. They are free once no object with these settings
    is left; 0 keeps none."""
    kv_cache_dir: FolderPath | None = None
    """A folder for that KV, 8 GiB at most, so that it outlives the process; absolute
    from then on."""
    stop: list[str] | None = None
    """Strings that end the answer; they are not part of it."""

    # The process and the settings that the model was loaded with, and the model. Models
    # are shared for as long as somebody holds them: this does.
    _loaded: tuple[int, dict[str, Any], Model] | None = PrivateAttr(default=None)

    @property
    def engine(self) -> Model:
        """The model, loaded on first use and shared by the whole process.

        A loaded model needs its file no more. Another one is loaded once an argument
        that the model was loaded with has changed, and in a forked process.
        """
        if (loaded := self._held) is not None:
            return loaded
        settings = self._engine_settings()
        model = Model.load(**settings)
        self._accept(model)
        self._loaded = os.getpid(), settings, model
        return model

    @property
    def _held(self) -> Model | None:
        """The model, if it is loaded with the settings of now."""
        if self._loaded is None:
            return None
        *loaded_with, model = self._loaded
        return model if loaded_with == [os.getpid(), self._engine_settings()] else None

    def warm_up(self) -> None:
        """Load all that the first answer would load, and look at what it would.

        The model's file is read, and its template; so are the encoder, and the store
        is asked once, where there are any.

        Raises:
            RaLMSpecError: what the first answer would raise: a ``ModelFileError``, a
                ``StoreError``, or the like.
        """
        model = self.engine
        if model.weights.has_chat_template:
            model.template  # noqa: B018  compiled once
        # Weights are mapped into memory; who decodes first waits for the disk.
        model.open(model.weights.tokenize("\n")[:1], keep=False)

    def close(self) -> None:
        """Let go of the model, and of what was kept of the texts that it has read.

        Its memory is free once no other object shares it, and no answer is being
        written; what was read is in the ``kv_cache_dir`` by then. Closing twice does no
        harm, and an answer that is asked for afterwards loads the model again. Stores
        are yours, and stay as they are. What was configured of this one
        (``configurable_fields``) is closed as well.
        """
        if self._loaded is not None and self._loaded[0] == os.getpid():
            self._loaded[2].flush()
        self._loaded = None
        self._forget()
        close_configured(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @model_validator(mode="after")
    def _find_files(self) -> Self:
        # The first answer may be hours away; but copies, and what comes out of pickles,
        # may well be made where the file is not, or is not yet.
        if not is_remade():
            find_file(self.model_path)
        return self

    @model_validator(mode="before")
    @classmethod
    def _refuse_llama_cpp(cls, values: Any) -> Any:
        for name in values if isinstance(values, dict) else ():
            if name not in cls.model_fields:
                refuse(cls.__name__, name)
        return values

    @model_validator(mode="after")
    def _settle_cache(self) -> Self:
        if "cache" in type(self).model_fields and (why := self._uncacheable()):
            if self.__dict__["cache"]:
                msg = (
                    f"answers cannot be cached here, for {why}; leave cache out, or "
                    "cache in your own code, which knows what an answer depends on"
                )
                raise ValueError(msg)
            if self.__dict__["cache"] is None and get_llm_cache() is not None:
                warnings.warn(
                    f"LangChain's cache is set, but answers are not cached here, for "
                    f"{why}; cache=False says that this is meant",
                    RuntimeWarning,
                    stacklevel=2,
                )
            # Not as an assignment, for the argument was not given.
            self.__dict__["cache"] = False
        return self

    def _uncacheable(self) -> str | None:
        """Why an answer must not serve another call like this one; None if it may."""
        return None

    def _engine_settings(self) -> dict[str, Any]:
        """Arguments of ``Model.load()``."""
        return {"path": self.model_path} | {
            name: getattr(self, name) for name in _OF_THE_ENGINE
        }

    def _accept(self, model: Model) -> None:
        """Check a model that was just loaded, and forget what belongs to another."""
        self._forget()

    def _forget(self) -> None:
        """Drop what is known of the model, and what is loaded beside it."""

    def get_token_ids(self, text: str) -> list[int]:
        """Ids of the model's tokens in a text, or those of ``custom_get_token_ids``."""
        require_text("the text", text)
        custom = getattr(self, "custom_get_token_ids", None)  # a chain has none
        return self.engine.weights.tokenize(text) if custom is None else custom(text)

    def get_num_tokens(self, text: str) -> int:
        """Number of the model's tokens in a text."""
        return len(self.get_token_ids(text))

    def _sampling(self, overrides: dict[str, Any]) -> CallSettings:
        known, owner = CallSettings.model_fields, type(self).__name__
        per_call = {*known, "stop", *self._of_calls}
        for name in [name for name in overrides if name not in known]:
            if name in type(self).model_fields:
                told = ", ".join(sorted(per_call))
                msg = f"{name!r} cannot be given per call; give it when {owner} is made"
                raise UnknownArgumentError(f"{msg}. Per call: {told}")
            refuse(owner, name)
            raise UnknownArgumentError.of(owner, name, per_call)
        return CallSettings(**{name: getattr(self, name) for name in known} | overrides)

    def _written_by(
        self,
        model: Model,
        sampling: CallSettings,
        stop: Sequence[str] | None,
        form: Form | None = None,
    ) -> tuple[Transcript, Sampler]:
        """An empty answer, and what chooses its tokens.

        It ends at the face's and the call's stop strings, and has the form of the
        grammar, if there is one, and no other is given.
        """
        form = form or Form.of(model.weights, sampling.grammar)
        stops = [*stops_of(self.stop), *stops_of(stop)]
        spelt = map(model.weights.markers.spelling, stops)
        grammar = form.grammar
        transcript = Transcript(
            form.vocabulary,
            max_tokens=sampling.max_tokens,
            stops=stops,
            control_stops=[
                parts for parts in spelt if any(isinstance(part, int) for part in parts)
            ],
            is_complete=None if grammar is None else grammar.is_complete,
        )
        return transcript, sampling.sampler(grammar)

    def _n_together(self, n: int) -> int:
        """How many of ``n`` answers are written at once."""
        return self.engine.n_together(n)

    @property
    def _may_wait(self) -> bool:
        """Whether an answer may wait until others have ended."""
        return self.max_queue is not None

    def _values_of(self, names: Iterable[str], *without: str) -> dict[str, Any]:
        """Some arguments, in order: the cache key of a configured model, for traces."""
        values = {name: getattr(self, name) for name in sorted({*names} - {*without})}
        # Another file may have been put in the place of the one that is loaded.
        model = self._held
        values["model_file"] = (
            stamp_at(self.model_path) if model is None else model.weights.stamp
        )
        # Where a cache, or what forbids one, was assigned later, nothing is found.
        return values | ({"call": uuid.uuid4().hex} if self._uncacheable() else {})

    def _tracing_params(self) -> dict[str, Any]:
        # The file's name as given: params are asked for before anything is loaded.
        name = Path(self.model_path).stem
        return {"ls_provider": "ralmspec", "ls_model_name": name}


def info_of(run: Run[Any], model: Model) -> dict[str, Any]:
    """What every face tells about a finished answer."""
    return {
        "finish_reason": run.finish_reason,
        "model_name": model.path.stem,
        "speculation": run.stats.as_dict(),
    }


def usage_of(run: Run[Any], n_beside: int = 0) -> UsageMetadata:
    """Tokens in, ``n_beside`` of which the prompt does not count, and out."""
    n_input, n_output = run.stats.prompt_tokens + n_beside, len(run.tokens)
    return {
        "input_tokens": n_input,
        "output_tokens": n_output,
        "total_tokens": n_input + n_output,
    }
