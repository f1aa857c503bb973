"""JSON schemas in the words that llama-cpp-python's converter reads rightly.

It passes over whatever stands beside a word that it looks for first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any
from urllib.parse import unquote

from langchain_ralmspec.engine.patterns import rewritten

Schema = Mapping[str, Any]

_WORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"pattern", "format", "minLength", "maxLength"},
}
"""What is said of each type that something is said of."""

_KNOWN = {"type", "const", "enum", "anyOf", "oneOf", "allOf", "$ref"}.union(
    *_WORDS.values()
)
_TYPES = {*_WORDS, "number", "integer", "boolean", "null"}
_ANYTHING = {"type": "value"}  # the converter's word for any JSON
_MOST_STEPS = 20_000  # a few lines of references can take any number
_DEFINED = {"$defs", "definitions"}
_NAMED = {"properties", "patternProperties"}  # by names that are no words
_DATA = {"const", "enum", "default", "example", "examples"}


class Reader:
    """Says a schema, and those that it refers to, in the converter's words.

    A schema within another that has an ``$id`` is one of its own, as the standard has
    it: what it refers to is in itself.

    Attributes:
        parts: what is referred to, by names that no rule of the converter has.
    """

    def __init__(self, schema: Schema) -> None:
        """Read nothing yet of a schema that is JSON."""
        self.parts: dict[str, Schema] = {}
        self._names: dict[tuple[int, str], str] = {}
        self._steps = count()
        like = re.findall("part(t*)", json.dumps(schema))
        self._prefix = "part" + "t" * (len(max(like)) + 1 if like else 0)

    def plain(self, schema: Any, base: Schema) -> Schema:
        """A schema of ``base`` in the converter's words.

        Raises:
            ValueError: no grammar can say it.
        """
        own = self._said_by(schema)
        if schema is not True and "$id" in schema:
            base = schema
        if own.keys() == {"$ref"}:
            return {"$ref": self._part(own["$ref"], base)}
        if "$ref" in own or "allOf" in own:
            return self._merged(own, base)
        if word := next((word for word in ("anyOf", "oneOf") if word in own), ""):
            choices = _some(word, own.pop(word))
            if own:  # else it would pass over what is beside it
                choices = [{"allOf": [own, choice]} for choice in choices]
            return {"anyOf": [self.plain(choice, base) for choice in choices]}
        if "enum" in own:
            return {"enum": _some("enum", own["enum"])}
        return self._of_type(own, base)

    def _of_type(self, own: dict[str, Any], base: Schema) -> Schema:
        kind = own.get("type", [each for each in _WORDS if own.keys() & _WORDS[each]])
        if kind == []:
            return _ANYTHING
        if isinstance(kind, list):
            kinds = [
                {**_only(own, _WORDS.get(str(each), set())), "type": each}
                for each in kind
            ]
            if len(kinds) > 1:
                return {"anyOf": [self._of_type(each, base) for each in kinds]}
            (own,), (kind,) = kinds, kind
        if kind not in _TYPES:
            raise ValueError(f"there is no type {kind!r}")
        if kind == "object":
            return self._object(own, base)
        if kind == "array":
            return self._array(own, base)
        said = _only(own, _WORDS.get(kind, set()))
        if "pattern" in said:
            said = {"pattern": rewritten(said["pattern"])}
        return {"type": kind, **said}

    def _object(self, own: dict[str, Any], base: Schema) -> Schema:
        required, more = own.get("required", []), own.get("additionalProperties")
        if not own.keys() & {"properties", "additionalProperties"} and not required:
            return {"type": "object"}
        properties = {**own.get("properties", {})}
        for name in required:
            properties.setdefault(name, True)
        made: dict[str, Any] = {
            "type": "object",
            "properties": {
                name: self.plain(said, base)
                for name, said in properties.items()
                if said is not False or name in required
            },
            "required": required,
        }
        # Behind one that may be left out the converter forgets the comma.
        is_fixed = made["properties"].keys() <= {*required}
        if more is not None and more is not False and is_fixed:
            made["additionalProperties"] = self.plain(more, base)
        return made

    def _array(self, own: dict[str, Any], base: Schema) -> Schema:
        items, first = own.get("items", True), own.get("prefixItems")
        if isinstance(items, list):  # as of draft 4
            items, first = True, items
        if first:
            first = [*first, *[items] * (own.get("minItems", 0) - len(first))]
            first = first[: own.get("maxItems")]
        if first:
            return {
                "type": "array",
                "prefixItems": [self.plain(each, base) for each in first],
            }
        said = _only(own, {"minItems", "maxItems"})
        return {"type": "array", "items": self.plain(items, base), **said}

    def _part(self, ref: Any, base: Schema) -> str:
        """The name of what a reference leads to."""
        key = (id(base), str(ref))
        if key not in self._names:
            name = self._names[key] = f"{self._prefix}{len(self._names)}"
            self.parts[name] = self.plain(target_of(ref, base), base)
            if name in self._within(self.parts[name]):
                raise ValueError(
                    f"the $ref {ref!r} leads to itself, with nothing between"
                )
        return self._names[key]

    def _within(self, said: Schema) -> set[str]:
        """Names of what a schema may be as a whole."""
        names, choices = set(), [said]
        for each in choices:
            choices += each.get("anyOf", [])
            name = each.get("$ref")
            if name is not None and name not in names:
                names.add(name)
                choices += [self.parts[name]] if name in self.parts else []
        return names

    def _merged(self, own: dict[str, Any], base: Schema) -> Schema:
        """A schema that says what others say as well."""
        whole, parts = self._flat(own, base), _parts_of(own)
        for part in parts:  # what is said once is one rule, which may be within itself
            if self._flat(part, base) == whole:
                return self.plain(part, base)
        return self.plain(whole, base)

    def _flat(self, schema: Any, base: Schema) -> dict[str, Any]:
        """What a schema says, and what all say that it refers to or consists of."""
        flat = self._said_by(schema)
        parts = _parts_of(flat)
        flat = _only(flat, _KNOWN - {"$ref", "allOf"})
        for part in parts:
            said = target_of(part["$ref"], base) if [*part] == ["$ref"] else part
            flat = _both(flat, self._flat(said, base))
        return flat

    def _said_by(self, schema: Any) -> dict[str, Any]:
        """What a schema says in words that are known."""
        if next(self._steps) > _MOST_STEPS:
            raise ValueError(f"it takes more than {_MOST_STEPS:,} steps to read")
        if schema is True:
            return {}
        if not isinstance(schema, dict):
            raise TypeError(f"{schema!r} is no schema, or allows nothing")
        own = _only(schema, _KNOWN)
        if "const" in own:
            own["enum"] = [own.pop("const")]
        if not isinstance(own.get("required", []), list):  # as of draft 3
            del own["required"]
        return own


def _parts_of(schema: Schema) -> list[Any]:
    referred = [{"$ref": schema["$ref"]}] if "$ref" in schema else []
    return [*referred, *(_some("allOf", schema["allOf"]) if "allOf" in schema else ())]


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What two schemas say together."""
    both = {**one, **other}
    for word in one.keys() & other.keys():
        a, b = one[word], other[word]
        if a == b:
            continue
        if word == "required":
            both[word] = [*dict.fromkeys([*a, *b])]
        elif word == "properties":
            twice = {
                name: {"allOf": [a[name], b[name]]} for name in a.keys() & b.keys()
            }
            both[word] = {**a, **b, **twice}
        elif word in {"type", "enum"} and (common := _common(a, b)):
            both[word] = common
        else:
            raise ValueError(f"no grammar can say both {word} {a!r} and {b!r}")
    return both


def _common(one: Any, other: Any) -> list[Any]:
    values, others = ([v] if isinstance(v, str) else v for v in (one, other))
    known = set(map(_spelt, others))
    return [value for value in values if _spelt(value) in known]


def _spelt(value: Any) -> str:
    """A value as JSON; 1.0 as 1, which is the same there."""
    is_whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if is_whole else value, sort_keys=True)


def _only(schema: Schema, words: set[str]) -> dict[str, Any]:
    return {word: said for word, said in schema.items() if word in words}


def _some(word: str, given: Any) -> list[Any]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"{word} is a list of something, got {given!r}")
    return given


def target_of(ref: Any, base: Schema) -> Any:
    """What a reference leads to.

    Raises:
        ReferenceError: nothing is there.
    """
    try:
        begin, *steps = ref.split("/")
        found: Any = {"#": base}[begin]
        for step in steps:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            found = found[int(name) if isinstance(found, list) else name]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ReferenceError(f"nothing is at the $ref {ref!r}") from error
    return found


def opened(schema: Schema) -> dict[str, Any]:
    """A schema whose properties are at its top, where it begins with a reference.

    Raises:
        ReferenceError: nothing is where it refers to.
    """
    said = {word: each for word, each in schema.items() if word != "$ref"}
    return {**target_of(schema["$ref"], schema), **said} if "$ref" in schema else said


def inlined(schema: Schema) -> Schema:
    """A schema with what it refers to in its place.

    It is left as it is if it would be in itself, or too long.

    Raises:
        ReferenceError: nothing is where it refers to.
    """
    try:
        whole: Schema = _inlined(schema, schema, (), count())
    except RecursionError:
        return schema
    return whole


def _inlined(
    part: Any,
    whole: Schema,
    within: tuple[Any, ...],
    steps: Iterator[int],
    *,
    is_named: bool = False,
) -> Any:
    if isinstance(part, list):
        return [_inlined(each, whole, within, steps) for each in part]
    if not isinstance(part, dict):
        return part
    ref = None if is_named else part.get("$ref")
    if ref in within or next(steps) > _MOST_STEPS:
        raise RecursionError
    said = {
        word: each
        if word in _DATA and not is_named
        else _inlined(
            each, whole, within, steps, is_named=word in _NAMED and not is_named
        )
        for word, each in part.items()
        if is_named or (word not in _DEFINED and word != "$ref")
    }
    if ref is None:
        return said
    found = _inlined(target_of(ref, whole), whole, (*within, ref), steps)
    return {**found, **said} if isinstance(found, dict) else found
