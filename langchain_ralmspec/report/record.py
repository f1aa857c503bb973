"""What a report knows of an answer: plain data, checked when it is read."""

from __future__ import annotations

import json
import reprlib
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.text import well_formed

VERSION: Literal[1] = 1

Method = Literal["RaLMSpec", "RAPID", "kNN-LM"]
Part = Literal[
    "generating",
    "reading",
    "guessing",
    "waiting",
    "prefilling",
    "drafting",
    "verifying",
]
Origin = Literal["known", "confirmed", "proven"]
"""Documents of a step: known before it was written, guessed and verified, or proven."""

# A year is no answer's; beyond, a page could not tell two moments from one another.
Seconds = Annotated[float, Field(ge=0, le=1e8)]
Count = Annotated[int, Field(ge=0, le=2**53)]


def _characters(value: Any) -> Any:
    """A text without halves of characters, which could not be encoded."""
    return well_formed(value) if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_characters)]


class _Plain(BaseModel):
    """Data that has no more and no fewer fields than are named, and finite numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class _Lasting(_Plain):
    """Something with a beginning and an end, in seconds from where the answer began."""

    start: Seconds
    end: Seconds

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end < self.start:
            msg = f"it ends at {self.end}, before it starts, at {self.start}"
            raise ValueError(msg)
        return self


class Span(_Lasting):
    """What the loop was doing in between."""

    part: Part


class Step(_Lasting):
    """Tokens that are part of the answer.

    Attributes:
        at: when they became final.
        pieces: what each of them adds to the text.
        sources: who had proposed each, where tokens are proposed.
        documents: numbers of the documents, from 0, that they were written under.
        origin: how these were known.
    """

    at: Seconds
    pieces: tuple[Text, ...]
    sources: tuple[Text, ...] = ()
    documents: tuple[Count, ...] = ()
    origin: Origin = "known"


class RollBack(_Lasting):
    """Tokens that were taken back, from when they were begun to when that was."""

    tokens: Count
    text: Text


class Call(_Lasting):
    """A verification in the store, of guesses the first of which were right."""

    guesses: Count
    right: Count

    @model_validator(mode="after")
    def _no_more_than_all(self) -> Self:
        if self.right > self.guesses:
            msg = f"{self.right} of {self.guesses} guesses cannot be right"
            raise ValueError(msg)
        return self


class Passage(_Plain):
    """A document: its id, its title if it has one, and its first words."""

    id: Text
    title: Text
    text: Text


class Record(_Plain):
    """One answer, as it was written."""

    format: Literal["ralmspec-run"] = "ralmspec-run"
    version: Literal[1] = VERSION
    method: Method
    question: Text = ""
    finish_reason: Literal["stop", "length"] | None = None
    figures: dict[str, Annotated[float, Field(ge=0, le=2**53)] | None]
    """Counts and seconds, by the names that the statistics have for them."""
    counts: dict[str, dict[Text, Count]]
    """What is counted by name: plans, lengths of drafts, what drafters drafted."""
    spans: tuple[Span, ...] = ()
    steps: tuple[Step, ...] = ()
    roll_backs: tuple[RollBack, ...] = ()
    calls: tuple[Call, ...] = ()
    documents: tuple[Passage, ...] = ()

    @model_validator(mode="after")
    def _about_its_own_documents(self) -> Self:
        for number, step in enumerate(self.steps):
            for document in step.documents:
                if document >= len(self.documents):
                    msg = (
                        f"steps.{number} stands on document {document}, but there are "
                        f"{len(self.documents)}"
                    )
                    raise ValueError(msg)
            if step.sources and len(step.sources) != len(step.pieces):
                msg = (
                    f"steps.{number} names {len(step.sources)} sources of "
                    f"{len(step.pieces)} tokens"
                )
                raise ValueError(msg)
        return self

    @classmethod
    def read(cls, text: str, where: str) -> Self:
        """Read what :meth:`to_json` wrote; ``where`` names it in errors.

        Raises:
            InvalidValueError: it is no such thing, or one of another version.
        """
        try:
            return cls.model_validate_json(text.encode("utf-8", "replace"))
        except ValidationError as error:
            raise _refused(error, where) from error

    def to_json(self) -> str:
        """All of it as JSON, in ASCII."""
        return json.dumps(self.model_dump(mode="json"), allow_nan=False)


def _refused(error: ValidationError, where: str) -> InvalidValueError:
    """Say what the first fault is, and where; quote what is there."""
    first, *others = error.errors(include_url=False)
    place = ".".join(map(str, first["loc"]))
    said = first["msg"]
    if first["type"] not in {"missing", "value_error"}:  # ours quote what they refuse
        said += f", got {reprlib.repr(first['input'])}"
    more = f" (and {len(others)} faults more)" if others else ""
    return InvalidValueError(
        f"{where} is no saved run of version {VERSION}: "
        f"{f'{place}: ' if place else ''}{said}{more}; write one with run.to_json()"
    )
