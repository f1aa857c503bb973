"""Constructor arguments: unknown ones are refused, naming the nearest."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, model_validator

from langchain_ralmspec.errors import UnknownArgumentError


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
