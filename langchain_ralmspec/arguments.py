"""Constructor arguments: unknown ones are refused, copies are checked like new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

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
            raise InvalidValueError("deep=True: stores and models cannot be copied")
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**given, **(update or {})})
