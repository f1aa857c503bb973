"""From what a user calls a drafter to one that is ready for an answer."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.rapid.documents import join
from langchain_ralmspec.rapid.lookup import PromptLookupDrafter
from langchain_ralmspec.rapid.loop import TARGET
from langchain_ralmspec.rapid.model_drafters import (
    RagDrafter,
    TextDrafter,
    require_same_vocabulary,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.rapid.documents import Chunk
    from langchain_ralmspec.rapid.draft import Drafter
    from langchain_ralmspec.rapid.loop import LongRequest
    from langchain_ralmspec.rapid.prompt import Conversation

LOOKUP, SELF, TEXT = "lookup", "self", "text:"
"""Names of drafters; behind the last one comes a path."""

_ROOM = 1024  # contexts of drafters are multiples of this, so that they are shared


@dataclass(slots=True)
class Opening:
    """Opens drafters, and holds their models from answer to answer.

    Attributes:
        load: loads the model at a path with so many tokens of context.
    """

    load: Callable[[str, int], Model]
    _models: dict[str, Model] = field(default_factory=dict)
    _fitting: set[str] = field(default_factory=set)  # that have the target's vocabulary

    def open(
        self,
        wanted: Sequence[str | Path | Drafter],
        request: LongRequest,
        conversation: Conversation,
        chunks: Sequence[Chunk],
    ) -> list[Drafter]:
        """Make drafters ready for one answer.

        Args:
            wanted: names, paths or drafters.
            request: the answer.
            conversation: what drafters that are models are asked.
            chunks: what they read.

        Raises:
            InvalidValueError: they need chunks and there are none, or have another
                vocabulary than the target, or two have one name.
        """
        opened = [
            self._open(one, request, conversation, chunks)
            if isinstance(one, str | Path)
            else one
            for one in wanted
        ]
        _require_distinct(opened)
        return opened

    def _open(
        self,
        wanted: str | Path,
        request: LongRequest,
        conversation: Conversation,
        chunks: Sequence[Chunk],
    ) -> Drafter:
        n_prompt = len(request.document) + len(request.tail)
        if wanted == LOOKUP:
            return PromptLookupDrafter(n_prompt)
        _require_known(str(wanted))
        if not chunks:
            msg = (
                f"drafter={str(wanted)!r} reads what is retrieved from the context, "
                "which takes embeddings; give embeddings=…, or drafter='lookup'"
            )
            raise InvalidValueError(msg)
        target = request.target.weights
        is_self, is_text = wanted == SELF, str(wanted).startswith(TEXT)
        path = str(target.path) if is_self else str(wanted).removeprefix(TEXT)
        model = self._load(path, request, chunks)
        name = SELF if is_self else Path(path).stem

        def prompt() -> tuple[int, ...]:
            head, tail = conversation.around(model)
            return (*head, *model.weights.tokenize(join(chunks)), *tail)

        def is_enough(confidences: Sequence[float]) -> bool:
            return request.scheduler.is_enough(name, confidences)

        if is_text:
            return TextDrafter(
                model,
                prompt,
                target=target,
                n_prompt=n_prompt,
                is_enough=is_enough,
                name=name,
            )
        if path not in self._fitting:
            require_same_vocabulary(target, model.weights)
            self._fitting.add(path)
        return RagDrafter(
            model,
            prompt,
            n_prompt=n_prompt,
            n_vocab=target.n_vocab,
            is_enough=is_enough,
            sampler=None if request.acceptance.is_lossless else request.sampler,
            name=name,
        )

    def _load(self, path: str, request: LongRequest, chunks: Sequence[Chunk]) -> Model:
        """The drafter's model, with a context of its own and no longer than needed."""
        # Another vocabulary may need more tokens for the same text.
        n_chunks = 2 * sum(len(chunk.tokens) for chunk in chunks)
        n_answer = request.transcript.max_tokens
        needed = n_chunks + len(request.tail) + n_answer + _ROOM // 2
        self._models[path] = self.load(path, math.ceil(needed / _ROOM) * _ROOM)
        return self._models[path]


def _require_known(wanted: str) -> None:
    """Check that what is neither a name nor a path was not meant to be one of them."""
    known = [LOOKUP, SELF, "auto"]
    if wanted == SELF or Path(wanted.removeprefix(TEXT)).expanduser().is_file():
        return
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    msg = (
        f"drafter={wanted!r} is neither a drafter's name nor a GGUF file; {hint}, or "
        "give the path of a file, with 'text:' before one of another vocabulary"
    )
    raise InvalidValueError(msg)


def _require_distinct(drafters: Sequence[Drafter]) -> None:
    """Check that tokens and counts can be told apart by the drafters' names."""
    names = [TARGET]
    for drafter in drafters:
        if drafter.name in names:
            msg = f"two things that write would be called {drafter.name!r}; rename one"
            raise InvalidValueError(msg)
        names.append(drafter.name)
