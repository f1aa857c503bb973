"""The Jinja environment that chat templates are written for, with bounds.

It has what ``transformers`` and llama-cpp-python's ``Jinja2ChatFormatter`` have. A
template comes with a model file, so it is somebody else's program: it runs in Jinja's
sandbox, for so many steps, and most of what it makes is bounded in length.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from jinja2.parser import Parser
    from jinja2.runtime import Context

MAX_STEPS = 1_000_000
"""Calls and rounds of loops in one rendering: a second at most, and a hundred times
what a template takes for a thousand messages."""

MAX_LENGTH = 2**24
"""Characters of a text, or parts of a list, that a template makes."""

_MAX_BITS = 4096  # of an integer
_steps: ContextVar[Iterator[int]] = ContextVar("steps of this rendering")


def compiled(source: str) -> Callable[..., str]:
    """Compile a template; returns what renders it with some variables."""
    template = _Environment().from_string(source)

    def render(**variables: Any) -> str:
        taken = _steps.set(count())
        try:
            pieces, length = [], 0
            for piece in template.generate(**variables):
                length += len(piece)
                _check_length(length)
                pieces.append(piece)
            return "".join(pieces)
        finally:
            _steps.reset(taken)

    return render


def _step() -> None:
    if next(_steps.get()) >= MAX_STEPS:
        msg = f"it takes more than {MAX_STEPS:,} steps"
        raise TemplateError(msg)


def _check_length(length: int) -> None:
    if length > MAX_LENGTH:
        msg = f"it makes more than {MAX_LENGTH:,} characters"
        raise TemplateError(msg)


class _Generation(Extension):
    """``{% generation %}`` marks what a model is trained to say; here it is text."""

    tags = {"generation"}  # noqa: RUF012  as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Counting(CodeGenerator):
    """Has rounds of loops counted, and joined texts measured, while they run."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802
        attribute = nodes.EnvironmentAttribute("rounds")
        node.iter = nodes.Call(attribute, [node.iter], [], None, None)
        node.iter.set_environment(self.environment)
        super().visit_For(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.measured(")
        super().visit_Concat(node, frame)
        self.write(")")


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _Counting
    intercepted_binops = frozenset({"+", "*", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
        )
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _now

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _step()
        for arg in args:  # a width, mostly
            _check_length(arg if isinstance(arg, int) else 0)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _check_length(len(left) + len(right))
        elif operator == "*":
            for some, times in ((left, right), (right, left)):
                if hasattr(some, "__len__") and isinstance(times, int):
                    _check_length(len(some) * times)
        if operator != "+" and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length()
            bits = bits * right if operator == "**" else bits + right.bit_length()
            if bits > _MAX_BITS:
                msg = f"it makes an integer of more than {_MAX_BITS:,} bits"
                raise TemplateError(msg)
        return super().call_binop(context, operator, left, right)

    @staticmethod
    def rounds(items: Iterable[Any]) -> Iterator[Any]:
        """The items of a loop, counted."""
        for item in items:
            _step()
            yield item

    @staticmethod
    def measured(text: str) -> str:
        """The text, unless it is too long."""
        _check_length(len(text))
        return text


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005  the user's own day


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002  as templates call it
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
