"""From what a user calls a drafter to one that is ready for an answer."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_ralmspec.answer.token_loop import TARGET
from langchain_ralmspec.engine.model import find_file
from langchain_ralmspec.errors import InvalidValueError, ModelFileError, hint
from langchain_ralmspec.files import absolute_file, is_file
from langchain_ralmspec.rapid.documents import join
from langchain_ralmspec.rapid.lookup import PromptLookupDrafter
from langchain_ralmspec.rapid.model_drafters import (
    RagDrafter,
    TextDrafter,
    require_same_vocabulary,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_ralmspec.answer.sampling import Sampler
    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.engine.weights import Weights
    from langchain_ralmspec.rapid.documents import Chunk
    from langchain_ralmspec.rapid.draft import Drafter
    from langchain_ralmspec.rapid.prompt import Conversation

LOOKUP, SELF, TEXT = "lookup", "self", "text:"
"""Names of drafters; behind the last one comes a path."""

_NAMES = (LOOKUP, SELF, "auto")

_ROOM = 1024  # contexts of drafters are multiples of this, so that they are shared


@dataclass(slots=True)
class DrafterFactory:
    """Opens drafters, and holds their models from answer to answer.

    A held model needs its file no more, as long as it has the context that is needed.

    Attributes:
        load: loads the model at a path, or of weights that are loaded already, with a
            number of tokens of context.
    """

    load: Callable[[str | Weights, int], Model]
    _models: dict[str, tuple[int, Model]] = field(default_factory=dict)  # with n_ctx
    _fitting: set[str] = field(default_factory=set)  # that have the target's vocabulary

    def open(
        self,
        wanted: str | Path | Drafter,
        *,
        target: Weights,
        n_prompt: int,
        n_beside: int,
        conversation: Conversation,
        chunks: Sequence[Chunk],
        sampler: Sampler | None,
        is_enough: Callable[[str, Sequence[float]], bool],
    ) -> Drafter:
        """Make a drafter ready for one answer.

        Args:
            wanted: a name, a path or a drafter.
            target: has the vocabulary of drafts.
            n_prompt: tokens of the target's prompt.
            n_beside: tokens that a drafter's context must hold beside the chunks.
            conversation: what a drafter that is a model is asked.
            chunks: what it reads.
            sampler: draws its tokens if their probabilities are needed, else None.
            is_enough: whether a drafter stops behind tokens of these probabilities.

        Raises:
            InvalidValueError: there are no chunks to read, or the drafter has another
                vocabulary than the target.
        """
        if not isinstance(wanted, str | Path):
            return wanted
        if wanted == LOOKUP:
            return PromptLookupDrafter(n_prompt)
        path = str(target.path) if wanted == SELF else path_of(wanted)
        if wanted != SELF and path not in self._models:
            require_known(wanted)
        if not chunks:
            msg = (
                f"drafter={str(wanted)!r} reads what is retrieved from the context, "
                "which takes embeddings; give embeddings=…, or drafter='lookup'"
            )
            raise InvalidValueError(msg)
        source = target if wanted == SELF else path
        model = self._load(path, source, n_beside, chunks)

        is_text = str(wanted).startswith(TEXT)
        if not is_text and path not in self._fitting:
            require_same_vocabulary(target, model.weights)
            self._fitting.add(path)

        def prompt() -> tuple[int, ...]:
            head, tail = conversation.around(model)
            return (*head, *model.weights.tokenize(join(chunks)), *tail)

        name = name_of(wanted)
        own = partial(RagDrafter, sampler=sampler)
        make: Callable[..., Drafter] = TextDrafter if is_text else own
        return make(
            name=name,
            model=model,
            prompt=prompt,
            target=target,
            n_prompt=n_prompt,
            is_enough=partial(is_enough, name),
        )

    def _load(
        self, path: str, source: str | Weights, n_beside: int, chunks: Sequence[Chunk]
    ) -> Model:
        """The drafter's model, with a context of its own and no longer than needed."""
        # Another vocabulary may need more tokens for the same text.
        n_chunks = 2 * sum(len(chunk.tokens) for chunk in chunks)
        n_ctx = math.ceil((n_chunks + n_beside + _ROOM // 2) / _ROOM) * _ROOM
        held = self._models.get(path)
        is_same = held and source in {path, held[1].weights}
        if held is None or held[0] != n_ctx or not is_same:
            held = self._models[path] = n_ctx, self.load(source, n_ctx)
            self._fitting.discard(path)  # the file may be another one now
        return held[1]


def names_of(drafters: Sequence[str | Path | Drafter]) -> list[str]:
    """The names by which tokens and counts tell drafters apart.

    Raises:
        InvalidValueError: two have one name, or one is called as the target.
    """
    names = [TARGET]
    for drafter in drafters:
        name = name_of(drafter)
        if name in names:
            msg = f"drafter names must be unique and not {TARGET!r}; got {name!r}"
            raise InvalidValueError(msg + " twice" * (name != TARGET))
        names.append(name)
    return names[1:]


def name_of(drafter: str | Path | Drafter) -> str:
    """What a drafter is called: by itself, by its name, or as its file."""
    if not isinstance(drafter, str | Path):
        return drafter.name
    is_name = drafter in {LOOKUP, SELF}
    return str(drafter) if is_name else Path(path_of(drafter)).stem


def path_of(drafter: str | Path) -> str:
    """The path of a drafter that is given as one."""
    return str(drafter).removeprefix(TEXT)


def absolute_of(drafter: str | Path | Drafter) -> str | Path | Drafter:
    """The drafter, its path absolute; what looks like a name, perhaps misspelt, stays.

    Raises:
        InvalidValueError: it is no path.
    """
    if isinstance(drafter, Path):
        return absolute_file(drafter)
    if not isinstance(drafter, str):
        return drafter
    path = path_of(drafter)
    is_path = drafter != path or "/" in path or os.sep in path or Path(path).suffix
    if drafter in _NAMES or not (is_path or is_file(path)):
        return drafter
    return f"{TEXT if drafter != path else ''}{absolute_file(path)}"


def require_known(given: str | Path) -> None:
    """Check that what is neither a name nor a file was not meant to be one of them.

    Raises:
        InvalidValueError: it is neither; names the nearest.
    """
    wanted = str(given)
    if wanted in _NAMES or is_file(Path(path_of(wanted)).expanduser()):
        return
    with suppress(ModelFileError):  # a loaded one needs its file no more
        find_file(path_of(wanted))
        return
    msg = (
        f"drafter={wanted!r} is neither a drafter's name nor a GGUF file; "
        f"{hint(wanted, _NAMES)}, or "
        "give the path of a file, with 'text:' before one of another vocabulary"
    )
    raise InvalidValueError(msg)
