"""Constructor arguments: what no check by type refuses, and copies checked like new."""

from __future__ import annotations

import copy
import pickle
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from langchain_ralmspec.errors import InvalidValueError, UnknownArgumentError

if TYPE_CHECKING:
    from types import FrameType

    from pydantic.fields import FieldInfo

T = TypeVar("T")


_remaking: ContextVar[bool] = ContextVar("remaking", default=False)


def is_remade() -> bool:
    """Whether the object that is being made is a copy, or comes out of a pickle.

    Then what is outside of it, such as files, was looked at when the first was made.
    """
    return _remaking.get()


def _remade(kind: Callable[..., T], arguments: Mapping[str, Any]) -> T:
    token = _remaking.set(True)
    try:
        return kind(**arguments)
    finally:
        _remaking.reset(token)


def owned(value: Any) -> Any:
    """A value whose dicts, lists, tuples and sets the caller cannot change any more.

    Such containers are copied, at every depth, and pydantic models of data alone. What
    else is in them is kept: functions, documents, and filter objects of other kinds.

    Raises:
        InvalidValueError: a container holds itself, or thousands of others.
    """
    try:
        return _copied(value)
    except RecursionError as error:
        msg = f"{reprlib.repr(value)} is nested too deeply, or holds itself"
        raise InvalidValueError(msg) from error


def _copied(value: Any) -> Any:
    if isinstance(value, dict | list | set):
        copied: Any = copy.copy(value)  # of its own class
        if isinstance(value, dict):
            copied.update((key, _copied(each)) for key, each in value.items())
        elif isinstance(value, list):
            copied[:] = map(_copied, value)
        return copied
    if is_data(value):
        copied = copy.copy(value)
        for own in (vars(copied), copied.model_extra or {}):
            own.update(_copied(own))
        return copied
    return tuple(map(_copied, value)) if type(value) is tuple else value


def is_data(value: Any) -> bool:
    """Whether it is a pydantic model of data alone, such as a filter of Qdrant's.

    What can do more than any model can, as documents, retrievers and stores, is not.
    """
    if not isinstance(value, BaseModel) or callable(value):
        return False
    kind = type(value)
    can = {name for name in dir(kind) if not name.startswith("_")}
    return can <= {*dir(BaseModel)} and not kind.__private_attributes__


class Live:
    """Mixin for what holds another library's memory, or an answer half written.

    Python would make a copy that frees the same memory once more.

    Attributes:
        instead: what to do, where somebody wants a copy.
    """

    instead = "keep the object that made it, and have it make another"

    def __reduce__(self) -> NoReturn:
        name = type(self).__name__
        msg = f"a {name} can neither be copied nor pickled; {self.instead}"
        raise InvalidValueError(msg)


class StrictArguments(BaseModel):
    """Mixin for pydantic models that must not swallow a mistyped argument.

    Arguments are the object's own: what a caller does to a dict or list afterwards has
    no effect.
    """

    # No bound holds for a number that is none: nan > 0 is as false as nan <= 0.
    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _know_and_own(cls, values: Any) -> Any:
        if isinstance(values, dict):
            known = set(cls.model_fields)
            known |= {f.alias for f in cls.model_fields.values() if f.alias}
            for name in values:
                if name not in known:
                    raise UnknownArgumentError.of(cls.__name__, name, known)
            return {name: owned(value) for name, value in values.items()}
        return values

    @model_validator(mode="before")
    @classmethod
    def _refuse_truth_values(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for name, value in values.items():
                if isinstance(value, bool) and _is_number(cls.model_fields.get(name)):
                    msg = f"{name} must be a number, got {value}"
                    raise InvalidValueError(msg)
        return values

    def model_copy(
        self,
        *,
        update: Mapping[str, Any] | None = None,
        deep: bool = False,
    ) -> Self:
        """Make another object with some arguments changed.

        Unlike pydantic's, the copy is constructed: the changes are validated, and
        nothing derived from the old arguments (an open store, a loaded model) stays.

        Args:
            update: arguments that differ.
            deep: not possible here: stores and models are shared.
        """
        if deep:
            self.__deepcopy__()
        return _remade(type(self), {**self._given, **(update or {})})

    def __copy__(self) -> Self:
        # Pydantic's would share what was derived from the arguments, some of which
        # works no longer than the first object lives.
        return self.model_copy()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> NoReturn:
        name = type(self).__name__
        msg = (
            f"{name} cannot be copied deeply: stores and models are shared; "
            "model_copy() makes another object that shares them"
        )
        raise InvalidValueError(msg)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle holds the arguments, for a loaded model could not be in it. They
        # are tried here because what pickle says of a lock names nobody's argument.
        for name, value in self._given.items():
            try:
                _dumps_in_use()(value)
            except (TypeError, AttributeError, pickle.PicklingError) as error:
                msg = (
                    f"{type(self).__name__} cannot be pickled, for its {name}, of type "
                    f"{type(value).__name__!r}, cannot: {error}"
                )
                raise InvalidValueError(msg) from error
        return _remade, (type(self), self._given)

    @property
    def _given(self) -> dict[str, Any]:
        """The arguments that were given."""
        return {name: getattr(self, name) for name in self.model_fields_set}


def _dumps_in_use() -> Callable[[Any], bytes]:
    """The function of the pickler that is at work: joblib, Dask or Ray have others."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  nothing else tells
    while frame is not None:
        module = str(frame.f_globals.get("__name__")).rpartition(".")[2]
        if module in {"cloudpickle", "_dill"}:
            dumps: Callable[[Any], bytes] = frame.f_globals.get("dumps", pickle.dumps)
            return dumps
        frame = frame.f_back
    return pickle.dumps


def _is_number(field: FieldInfo | None) -> bool:
    """Whether a field takes numbers, for which pydantic would take True as 1."""
    if field is None:
        return False
    kinds = {field.annotation, *get_args(field.annotation)}
    return bool not in kinds and bool(kinds & {int, float})


def several(name: str, given: Any, what: str) -> Any:
    """What was given for several things, which is no text, dict or single thing.

    Raises:
        InvalidValueError: it is; names the argument.
    """
    # A single document or message is iterable as well: over its fields.
    single = (str, bytes, Mapping, BaseModel)
    if isinstance(given, single) or not isinstance(given, Iterable):
        msg = f"{name} must be a list of {what}, got {reprlib.repr(given)}"
        raise InvalidValueError(msg)
    return given


def require_text(name: str, given: object) -> None:
    """Raise an ``InvalidValueError`` for what is no string."""
    if not isinstance(given, str):
        msg = f"{name} must be a string, got {given!r:.80}"
        raise InvalidValueError(msg)
