"""Tools that a call binds, and the form of answers that they ask for."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_core.tools import create_schema_from_function
from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_ralmspec.arguments import several
from langchain_ralmspec.base.local import Form
from langchain_ralmspec.base.variables import VARIABLES, variables_of
from langchain_ralmspec.engine.calls import CALLS, PLAIN, CallFormat
from langchain_ralmspec.engine.schema_grammar import gbnf_of
from langchain_ralmspec.engine.schemas import inlined, opened
from langchain_ralmspec.engine.templates import THOUGHT
from langchain_ralmspec.errors import InvalidValueError, hint
from langchain_ralmspec.text import is_blank

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

    from langchain_ralmspec.base.call_settings import Sampling
    from langchain_ralmspec.engine import Model

AUTO, ANY, NONE = "auto", "any", "none"
_CHOICES = {AUTO, ANY, NONE}

OF_CALLS = ("tools", "tool_choice", "parallel_tool_calls", "response_format", "strict")
"""What is bound for a call, beside the settings of sampling."""


_OF_DEFINITIONS = {"name", "function", "input_schema", "toolSpec", "properties"}


def as_tool(tool: Mapping[str, Any] | type | Callable[..., Any] | BaseTool) -> Any:
    """A tool's definition, as OpenAI and chat templates have it.

    Raises:
        InvalidValueError: it is none, or has no name.
    """
    try:
        definition = convert_to_openai_tool(
            _titled(opened(tool)) if isinstance(tool, Mapping) else tool
        )
        function = definition["function"]
        name = function["name"]
    except Exception as error:  # whatever somebody's class does
        why = str(error).partition("\n")[0]
        msg = (
            f"{tool!r:.80} is no tool: {type(error).__name__}: {why}; give a function "
            "with a docstring, a pydantic class, a BaseTool, or a dict with the "
            "function's 'name' and 'parameters'"
        )
        raise InvalidValueError(msg) from error
    if not isinstance(name, str) or is_blank(name):
        msg = f"a tool needs a name, got {name!r} in {tool!r:.80}"
        raise InvalidValueError(msg)
    try:
        if given := function.get("parameters"):
            function = {**function, "parameters": _with_its_parts(tool, given)}
        made = json.loads(json.dumps({**definition, "function": function}))
    except ReferenceError as error:
        msg = (
            f"the parameters of the tool {name!r} refer to what is not there: {error}; "
            "define it under '$defs'"
        )
        raise InvalidValueError(msg) from error
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"the tool {name!r} is no JSON: {error}; got {tool!r:.80}"
        raise InvalidValueError(msg) from error
    return made


def _titled(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A definition; of a schema without properties LangChain keeps only the title."""
    if "title" not in tool or tool.keys() & _OF_DEFINITIONS:
        return tool
    said = ("title", "description")
    rest = {name: value for name, value in tool.items() if name not in said}
    words = {"name": tool["title"], "description": tool.get("description", "")}
    return {**words, "parameters": rest}


def _with_its_parts(tool: Any, converted: Any) -> dict[str, Any]:
    """Parameters with what they refer to in its place, but for what is in itself.

    LangChain leaves that out of classes, and anything might stand there.
    """
    own = _schema_of_class(tool)
    is_lost = own is not None and inlined(own) is own
    schema = own if is_lost else converted
    if not isinstance(schema, Mapping):
        raise TypeError(f"its parameters are {schema!r:.60}")
    parameters = opened(inlined(schema))  # templates look for its properties
    said = {"title", "description"} if is_lost else set()
    return {key: value for key, value in parameters.items() if key not in said}


def _schema_of_class(tool: Any) -> Any:
    """The schema of a class, function or ``BaseTool``; None of a dict."""
    if inspect.isroutine(tool):
        tool = create_schema_from_function(
            tool.__name__,
            tool,
            filter_args=(),
            parse_docstring=True,
            include_injected=False,
        )
    args = getattr(tool, "tool_call_schema", tool)
    make = getattr(args, "model_json_schema", getattr(args, "schema", None))
    if make is not None:
        return make()
    return None if args is tool else args


def choice_of(given: Any, names: Sequence[str]) -> str:
    """What a ``tool_choice`` means: auto, any, none, or a tool's name.

    Raises:
        InvalidValueError: it names no tool; names the nearest.
    """
    choice = given
    if isinstance(given, Mapping):
        named = given.get("function", given)
        name = named.get("name") if isinstance(named, Mapping) else None
        choice = name or given.get("type", "")  # else it would be none
    if choice is None or choice is False:
        return AUTO
    if choice is True or choice == "required":
        choice = ANY
    known = [*names, *(each for each in _CHOICES if names or each != ANY)]
    if choice in known:
        return str(choice)
    msg = (
        f"tool_choice={given!r} is no tool that is bound, nor 'auto', 'any', "
        f"'required' or 'none'; {hint(choice, [*names, *_CHOICES])}"
    )
    raise InvalidValueError(msg)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What an answer may call, what else it may be, and what its template is told.

    Attributes:
        tools: that the model is shown, as OpenAI has them.
        choice: ``auto``, ``any``, or the name of the one to be called.
        several: whether an answer may have several calls; None takes one where a call
            is demanded, and else leaves it to the model.
        schema: that an answer which calls nothing matches; None leaves it free.
        variables: of the chat template, for this call.
    """

    tools: tuple[dict[str, Any], ...] = ()
    choice: str = AUTO
    several: bool | None = None
    schema: Mapping[str, Any] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def taken_from(cls, overrides: dict[str, Any]) -> ToolUse:
        """Take what concerns tools and template out of a call's arguments.

        Raises:
            InvalidValueError: what is no tool, a choice of none that is bound, or a
                variable that templates are not told.
        """
        own = {name: overrides.pop(name, None) for name in OF_CALLS}
        tools = tuple(map(as_tool, several("tools", own["tools"] or (), "tools")))
        choice = choice_of(own["tool_choice"], [t["function"]["name"] for t in tools])
        return cls(
            () if choice == NONE else tools,
            AUTO if choice == NONE else choice,
            own["parallel_tool_calls"],
            _schema_of(own["response_format"]),
            variables_of(overrides.pop(VARIABLES, None)),
        )

    @property
    def is_forced(self) -> bool:
        """Whether the answer must be a call."""
        return bool(self.tools) and self.choice != AUTO

    def may_think(self, model: Model, sampling: Sampling) -> bool:
        """Whether an answer may begin with a thought: no grammar holds from its start.

        Its model must be one whose template knows of thoughts.
        """
        is_free = self.schema is None and sampling.grammar is None
        knows = model.weights.has_chat_template and model.template.has_thoughts
        return is_free and not self.is_forced and knows

    def form(self, model: Model, sampling: Sampling) -> Form:
        """The form of an answer.

        Raises:
            GrammarError: a schema cannot be made a grammar, or a grammar be parsed.
            InvalidValueError: a grammar and a forced call, or a schema, exclude one
                another.
        """
        weights = model.weights
        if self.schema is not None and sampling.grammar is not None:
            msg = (
                f"a schema of the answer and grammar={sampling.grammar!r:.60} exclude "
                "one another; leave one out"
            )
            raise InvalidValueError(msg)
        schema = None if self.schema is None else gbnf_of(self.schema)
        free = sampling.grammar if schema is None else schema
        shown = "".join(THOUGHT) if self.may_think(model, sampling) else ""
        if not self.tools:
            return Form.of(weights, free, shown=shown)
        calls = format_of(model)
        if self.is_forced and sampling.grammar is not None:
            msg = (
                f"tool_choice={self.choice!r} demands a call, and grammar="
                f"{sampling.grammar!r:.60} something else; leave one out"
            )
            raise InvalidValueError(msg)
        if free is not None and free == sampling.grammar:
            return Form.of(weights, free, spoken=calls.begin)  # it may allow calls
        several = not self.is_forced if self.several is None else self.several
        named = [t for t in self.tools if t["function"]["name"] == self.choice]
        is_lazy = not self.is_forced and free is None
        grammar = calls.gbnf(named or self.tools, several=several, is_lazy=is_lazy)
        return Form.of(
            weights,
            grammar,
            None if self.is_forced else free,
            root=CALLS,
            marker=calls.marker(self.tools) if is_lazy else None,
            spoken=calls.begin,
            shown=shown,
        )


NO_TOOLS = ToolUse()
"""An answer that calls nothing."""


def format_of(model: Model) -> CallFormat:
    """How a model calls tools."""
    return model.template.calls if model.weights.has_chat_template else PLAIN


def _schema_of(response_format: Any) -> Mapping[str, Any] | None:
    """The JSON schema of a ``response_format``, as OpenAI has it.

    Raises:
        InvalidValueError: it is none.
    """
    if response_format is None:
        return None
    given = response_format if isinstance(response_format, Mapping) else {}
    kind = given.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    form = given.get("json_schema") if kind == "json_schema" else None
    schema = form.get("schema") if isinstance(form, Mapping) else None
    if not isinstance(schema, Mapping):
        msg = (
            f"response_format={response_format!r:.80} is unknown; give "
            "{'type': 'json_schema', 'json_schema': {'name': …, 'schema': {…}}} or "
            "{'type': 'json_object'}, or take with_structured_output(…)"
        )
        raise InvalidValueError(msg)
    return schema
