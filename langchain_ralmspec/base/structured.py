"""Structured output: answers that match a schema, parsed by LangChain's parsers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import (
    JsonOutputKeyToolsParser,
    PydanticToolsParser,
)
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables import (
    RunnableConfig,
    RunnableLambda,
    RunnableMap,
    RunnablePassthrough,
)
from langchain_core.utils.function_calling import (
    convert_to_json_schema,
)
from langchain_core.utils.pydantic import is_basemodel_subclass

from langchain_ralmspec.base.tools import as_tool
from langchain_ralmspec.engine.schema_grammar import gbnf_of
from langchain_ralmspec.errors import InvalidValueError, hint

if TYPE_CHECKING:
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.outputs import Generation
    from langchain_core.runnables import Runnable

    # What mypy's plugin of pydantic looks for behind the parser's fields.
    from langchain_core.utils.pydantic import TBaseModel  # noqa: F401

METHODS = ("json_schema", "function_calling", "json_mode")


class _Whole:
    """Refuses what is cut off, which LangChain's parsers complete as they can."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        message = getattr(result[0], "message", None)
        if not partial and isinstance(message, AIMessage):
            _require_whole(message)
        return super().parse_result(result, partial=partial)  # type: ignore[misc]

    # LangChain's own parse what has come so far, and never ask whether it was all.

    def _transform(self, chunks: Iterator[Any]) -> Iterator[Any]:
        inherited: Any = super()
        come: list[Any] = []
        yield from inherited._transform(map(partial(_noted, come), chunks))  # noqa: SLF001
        self.parse_result(_sum_of(come))

    async def _atransform(self, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        inherited: Any = super()
        come: list[Any] = []
        noted = (_noted(come, chunk) async for chunk in chunks)
        async with aclosing(inherited._atransform(noted)) as parsed:  # noqa: SLF001
            async for each in parsed:
                yield each
        self.parse_result(_sum_of(come))


def _noted(come: list[Any], chunk: Any) -> Any:
    come.append(chunk)
    return chunk


def _sum_of(chunks: list[Any]) -> list[Generation]:
    """The answer that was given in chunks, or in one message."""
    first, *others = chunks
    message = add_ai_message_chunks(first, *others) if others else first
    return [ChatGeneration(message=message)]


class _Pydantic(_Whole, PydanticOutputParser[Any]):
    pass


class _Json(_Whole, JsonOutputParser):
    pass


class _PydanticTool(_Whole, PydanticToolsParser):
    pass


class _JsonTool(_Whole, JsonOutputKeyToolsParser):
    pass


def _require_whole(message: AIMessage) -> None:
    """Refuse an answer that was ended before its JSON was whole.

    Raises:
        OutputParserException: it was; says by what.
    """
    if message.tool_calls and not message.invalid_tool_calls:
        return
    written = [str(call["args"]) for call in message.invalid_tool_calls]
    text = written[-1] if written else str(message.text)
    is_cut = message.response_metadata.get("finish_reason") == "length"
    try:
        # A number may have gone on.
        json.loads(text + "." * (is_cut and text[-1:].isdigit()), strict=False)
    except (ValueError, RecursionError) as error:
        if is_cut:
            why = "max_tokens was reached; raise it"
        else:
            why = (
                "a stop string is in it, or the model wrote none; give no stop strings"
            )
        msg = f"the answer ends before its JSON is whole: {why}. It is {text!r}"
        raise OutputParserException(msg, llm_output=text) from error


def schema_of(schema: Any) -> dict[str, Any]:
    """The JSON schema of a pydantic class, a TypedDict, or a schema.

    Raises:
        InvalidValueError: it is none.
    """
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        # Classes of pydantic 1 are taken as well.
        older = getattr(schema, "schema", None)
        make: Any = getattr(schema, "model_json_schema", older)
        return dict(make())
    named = isinstance(schema, Mapping) and "name" in schema and "type" not in schema
    if isinstance(schema, Mapping) and not named and schema.get("type") != "function":
        return dict(schema)
    try:
        return convert_to_json_schema(schema)
    except Exception as error:
        msg = (
            f"schema={schema!r:.80} is none: {type(error).__name__}: {error}; give a "
            "pydantic class, a TypedDict or a JSON schema"
        )
        raise InvalidValueError(msg) from error


def parser_of(schema: Any, method: str) -> Any:
    """What reads an answer: a pydantic object for a pydantic class, else a dict."""
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    if method == "function_calling":
        if is_class:
            return _PydanticTool(tools=[schema], first_tool_only=True)
        name = as_tool(schema)["function"]["name"]
        return _JsonTool(key_name=name, first_tool_only=True)
    return _Pydantic(pydantic_object=schema) if is_class else _Json()


def structured_by(
    chat: Any,
    schema: dict[str, Any] | type,
    *,
    method: str = METHODS[0],
    include_raw: bool = False,
    strict: bool | None = None,
    **kwargs: Any,
) -> Runnable[LanguageModelInput, Any]:
    """A chat model, or a choice of some, whose answers match a schema, parsed.

    Raises as the chat model's ``with_structured_output`` does.
    """
    if method not in METHODS:
        msg = f"method={method!r} is unknown; {hint(method, METHODS)}"
        raise InvalidValueError(msg)
    traced = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
    own = {"ls_structured_output_format": traced, **kwargs}
    if method == "function_calling":
        name = as_tool(schema)["function"]["name"]
        llm = chat.bind_tools([schema], tool_choice=name, **own)
    else:
        made = schema_of(schema) if method == "json_schema" else {"type": "object"}
        gbnf_of(made)
        wanted = {"name": "answer", "schema": made}
        form = {"type": "json_schema", "json_schema": wanted}
        llm = chat.bind(response_format=form, **own)
    return parsed_by(llm, parser_of(schema, method), include_raw=include_raw)


def parsed_by(
    llm: Runnable[LanguageModelInput, AIMessage], parser: Any, *, include_raw: bool
) -> Runnable[LanguageModelInput, Any]:
    """A model and what reads its answers, as LangChain puts them together."""
    if not include_raw:
        read: Runnable[LanguageModelInput, Any] = llm | parser
        return read
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    nothing = RunnablePassthrough.assign(parsed=lambda _: None)
    either = parsed.with_fallbacks([nothing], exception_key="parsing_error")

    def read_whole(raw: Any, config: RunnableConfig) -> Any:
        # Streams fall back on nothing once they have given something.
        return either.invoke(raw, config)

    told: Runnable[LanguageModelInput, Any]
    told = RunnableMap(raw=llm) | RunnableLambda(read_whole)
    return told
