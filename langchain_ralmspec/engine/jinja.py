"""The Jinja environment that chat templates are written for, with bounds.

It has what ``transformers`` and llama-cpp-python's ``Jinja2ChatFormatter`` have. A
template comes with a model file, so it is somebody else's program: it runs in Jinja's
sandbox, and a :class:`Meter` is asked before each operation.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, cast

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import BlockReference, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from langchain_ralmspec.engine.meter import Meter

if TYPE_CHECKING:
    from jinja2.parser import Parser
    from jinja2.runtime import Context

_MAX_BITS = 4096  # of an integer
# For web pages, and slow: they take time by the square of a text's length.
_FOR_PAGES = ("pprint", "striptags", "urlize", "wordwrap", "xmlattr")
_PAGE = 2_000  # characters that these take, each as slowly as so many:
_SLOWLY = 50
# They make signs of entities, and so control tokens of what is said.
_UNESCAPING = {"striptags", "unescape"}
_meter: ContextVar[Meter] = ContextVar("meter of this rendering")


def compiled(source: str) -> Callable[..., str]:
    """Compile a template; returns what renders it with some variables."""
    with _metered(source):  # constants are computed now
        template = _Environment().from_string(source)

    def render(**variables: Any) -> str:
        with _metered(variables):
            return template.render(**variables)

    return render


def literals_of(source: str) -> frozenset[str]:
    """The texts that a template spells in its code."""
    constants = _Environment().parse(source).find_all(nodes.Const)
    return frozenset(each.value for each in constants if isinstance(each.value, str))


@contextmanager
def _metered(given: object) -> Iterator[None]:
    taken = _meter.set(Meter(given))
    try:
        yield
    finally:
        _meter.reset(taken)


class _Generation(Extension):
    """``{% generation %}`` marks what a model is trained to say; here it is text."""

    tags = {"generation"}  # noqa: RUF012  as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Metering(CodeGenerator):
    """Tells the meter of what is no call, filter, test or operator."""

    def _told(self, name: str, node: nodes.Node) -> nodes.Expr:
        attribute = nodes.EnvironmentAttribute(name)
        return nodes.Call(attribute, [cast("nodes.Expr", node)], [], None, None)

    def visit_Call(self, node: nodes.Call, frame: Frame, **how: Any) -> None:  # type: ignore[override]  # noqa: N802
        if isinstance(node.node, nodes.EnvironmentAttribute):  # no template has one
            self._within(node.node.name, partial(self.visit, node.args[0]), frame)
        else:
            super().visit_Call(node, frame, **how)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802
        node.iter = self._told("rounds", node.iter)
        super().visit_For(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        node.nodes = [self._told("printed", each) for each in node.nodes]
        super().visit_Concat(node, frame)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802
        node.expr = self._told("compared", node.expr)
        for operand in node.ops:
            operand.expr = self._told("compared", operand.expr)
        super().visit_Compare(node, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802
        self._within("made", partial(super().visit_List, node), frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        self._within("made", partial(super().visit_Dict, node), frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        visit = partial(super().visit_Tuple, node)
        if node.ctx == "load":
            self._within("made", visit, frame)
        else:  # names that are set
            visit(frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        visit = partial(super().visit_Getitem, node)
        if isinstance(node.arg, nodes.Slice):
            self._within("made", visit, frame)
        else:
            visit(frame)

    def _within(self, name: str, visit: Callable[..., None], frame: Frame) -> None:
        self.write(f"environment.{name}(")
        visit(frame)
        self.write(")")


class _Names(Namespace):
    """A namespace that is printed without what is in it, which may be itself."""

    __repr__ = object.__repr__


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _Metering
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=self.printed,
        )
        self.filters["tojson"] = _to_json
        for name in _FOR_PAGES:
            self.filters[name] = _of_a_page(name, self.filters[name])
        del self.globals["lipsum"]
        self.globals["namespace"] = _Names
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _now
        for name, function in self.filters.items():
            # As an operator, which it is: the method of this name knows braces.
            self.filters[name] = _guarded("%" if name == "format" else name, function)
        test: Any
        for name, test in self.tests.items():
            self.tests[name] = _guarded("in", test)  # looks, and makes nothing

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may have an attribute of a value."""
        return attr not in _UNESCAPING and super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        call = partial(super().call, context, obj, *args, **kwargs)
        if isinstance(obj, Macro | LoopContext | BlockReference):  # the template's own
            _meter.get().step()
            return call()
        function = inspect.unwrap(obj)  # the sandbox has one around str.format
        name = "namespace" if obj is _Names else getattr(function, "__name__", "")
        value = getattr(function, "__self__", None)
        if isinstance(value, LoopContext):  # it runs on by itself alone
            value = None
        return _run(call, name, value, (*args, *kwargs.values()))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        do = partial(super().call_binop, context, operator, left, right)
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length()
            bits = bits * right if operator == "**" else bits + right.bit_length()
            if bits > _MAX_BITS:
                msg = f"it makes an integer of more than {_MAX_BITS:,} bits"
                raise TemplateError(msg)
            return do()
        if operator == "*" and isinstance(left, int):
            left, right = right, left
        return _run(do, operator, left, (right,))

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """What is printed, as one text."""
        meter, kept = _meter.get(), []
        for piece in pieces:
            meter.make(len(piece))
            kept.append(piece)
        return "".join(kept)

    @staticmethod
    def rounds(items: Iterable[Any]) -> Iterator[Any]:
        """The items of a loop."""
        return _meter.get().counted(items)

    @staticmethod
    def printed(value: Any) -> Any:
        """What is going to be made text."""
        meter = _meter.get()
        meter.make(meter.size(value))
        return value

    @staticmethod
    def compared(value: Any) -> Any:
        """What is going to be compared, or looked through."""
        meter = _meter.get()
        meter.handle(meter.size(value))
        return value

    @staticmethod
    def made(value: Any) -> Any:
        """A list, a dict or a part that the template makes."""
        meter = _meter.get()
        if isinstance(value, str):
            meter.make(len(value))
        else:
            meter.count_made(value)
        return value


def _run(
    call: Callable[[], Any], name: str, value: Any, others: tuple[Any, ...]
) -> Any:
    if any(isinstance(each, Iterator) for each in (value, *others)):
        # Only loops are, since everything else gives lists.
        msg = f"it gives a loop to {name!r}"
        raise TemplateError(msg)
    return _meter.get().run(call, name, value, others)


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or a test that asks the meter first."""
    n_passed = hasattr(function, "jinja_pass_arg")  # the context, or the like

    @wraps(function)
    def asking(*args: Any, **kwargs: Any) -> Any:
        value, *others = args[n_passed:]
        call = partial(function, *args, **kwargs)
        return _meter.get().run(call, name, value, (*others, *kwargs.values()))

    return asking


def _of_a_page(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses long texts."""

    @wraps(function)
    def short(*args: Any, **kwargs: Any) -> Any:
        if name in _UNESCAPING:
            msg = f"{name!r} is not served"
            raise TemplateError(msg)
        value = args[hasattr(function, "jinja_pass_arg")]
        size = len(value) if isinstance(value, str) else _meter.get().size(value)
        _meter.get().handle(_SLOWLY * size)
        if size > _PAGE:
            msg = f"{name!r} takes {_PAGE:,} characters at most, not {size:,}"
            raise TemplateError(msg)
        return function(*args, **kwargs)

    return short


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(format: str) -> str:  # noqa: A002  as templates call it
    return datetime.now().strftime(format)  # noqa: DTZ005  the user's own day


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
