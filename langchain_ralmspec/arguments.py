"""Constructor arguments: unknown ones are refused, copies are checked like new."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn, Self

from pydantic import BaseModel, model_validator

from langchain_ralmspec.errors import InvalidValueError, UnknownArgumentError


class StrictArguments(BaseModel):
    """Mixin for pydantic models that must not swallow a mistyped argument."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any) -> Any:
        if isinstance(values, dict):
            known = set(cls.model_fields)
            known |= {f.alias for f in cls.model_fields.values() if f.alias}
            for name in values:
                if name not in known:
                    raise UnknownArgumentError.of(cls.__name__, name, known)
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
        return type(self)(**{**self._given, **(update or {})})

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
                pickle.dumps(value)
            except (TypeError, AttributeError, pickle.PicklingError) as error:
                msg = (
                    f"{type(self).__name__} cannot be pickled, for its {name}, of type "
                    f"{type(value).__name__!r}, cannot: {error}"
                )
                raise InvalidValueError(msg) from error
        return partial(type(self), **self._given), ()

    @property
    def _given(self) -> dict[str, Any]:
        """The arguments that were given."""
        return {name: getattr(self, name) for name in self.model_fields_set}
