"""Templates that ask for more than they may: none gets as far as to take it."""

from __future__ import annotations

import tracemalloc

import pytest

from langchain_ralmspec.engine.jinja import compiled
from langchain_ralmspec.engine.meter import MAX_STEPS
from langchain_ralmspec.engine.templates import ChatTemplate
from langchain_ralmspec.errors import ChatTemplateError
from tests.unit_tests.engine.families import FAMILIES
from tests.unit_tests.engine.test_templates import template_of, turn

N = 999_999_999
LONG = "{% set s = 'a' * 99999 %}"
AGAIN = "{% set ns = namespace(x='a', l=[1]) %}{% for i in range(99) %}"

ONE_OPERATION = [
    f"{{{{ '%{N}s' % 'a' }}}}",
    f"{{{{ '%(a){N}s' % {{'a': 1}} }}}}",
    f"{{{{ '%*d' % ({N}, 1) }}}}",
    f"{{{{ '%.{N}f' % 1.5 }}}}",
    f"{{{{ '%{N}s' | format('a') }}}}",
    f"{{{{ '{{:{N}}}'.format('a') }}}}",
    f"{{{{ '{{:{{}}}}'.format('a', {N}) }}}}",
    f"{{{{ '{{0:{{w}}}}'.format_map({{'w': '{N}'}}) }}}}",
    f"{{{{ 'a' | center({N}) }}}}",
    f"{{{{ 'a' | attr('center')({N}) }}}}",
    f"{{{{ ['a'] | map('center', {N}) | list }}}}",
    f"{{% filter center({N}) %}}a{{% endfilter %}}",
    f"{{{{ 'a'.ljust({N}) }}}}",
    f"{{{{ 'a'.zfill({N}) }}}}",
    f"{{{{ '\t'.expandtabs({N}) }}}}",
    f"{{{{ 'a' | indent({N}, true) }}}}",
    f"{{{{ messages | tojson(indent={N}) }}}}",
    f"{{{{ 1.5 | round({N}, 'ceil') }}}}",
    f"{{{{ [1] | batch({N}, 1) | list }}}}",
    f"{{{{ (5).to_bytes({N}, 'big') }}}}",
    f"{{{{ range({N}) }}}}",
    f"{{{{ {N} * 'a' }}}}",
    f"{{{{ [0] * {N} }}}}",
    f"{{{{ 9 ** {N} }}}}",
    "{{ [9 ** 999] * 99999 }}",
    LONG + "{{ s.replace('a', s) }}",
    LONG + "{{ s | replace(new=s, old='') }}",
    LONG + "{{ s.translate({97: s}) }}",
    LONG + "{{ s.join(s) }}",
    LONG + "{{ range(9999) | join(s) }}",
    LONG + "{{ [[s] * 9999] | tojson }}",
    LONG + "{{ range(9999) | join([s]) }}",
    LONG + "{{ range(999) | list | tojson(indent=s) }}",
    LONG + "{{ range(9999) | list | tojson(separators=(s, s)) }}",
    LONG + "{{ [s] * 9999 ~ '' }}",
    LONG + "{{ dict.fromkeys(range(9999), s) }}",
    LONG + "{% for x in [s] * 999 %}{{ loop | join }}{% endfor %}",
]

MANY_OPERATIONS = [
    "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "{% set r = range(999) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
    "{% macro m(n) %}{{ n and m(n - 1) ~ m(n - 1) }}{% endmacro %}{{ m(60) }}",
    "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}" + AGAIN + "{% set ns.x = m(ns.x) %}"
    "{% endfor %}",
    "{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}",
    "{% set x %}{% for i in range(9999) %}" + "a" * 9999 + "{% endfor %}{% endset %}",
    AGAIN + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    AGAIN + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    AGAIN + "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    AGAIN + "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
    AGAIN + "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l == ns.l[:] }}",
    AGAIN + "{% set ns.l = (ns.l, ns.l) %}{% endfor %}{{ {ns.l: 1} }}",
    AGAIN + "{% set ns.l = {1: ns.l, 2: ns.l} %}{% endfor %}{{ ns.l | tojson }}",
    LONG + AGAIN + "{% set ns.l = [ns.l, s[1:]] %}{% endfor %}",
    LONG + AGAIN + "{% set ns.l = [ns.l, s.upper()] %}{% endfor %}",
    LONG + "{% for i in range(9999) %}{{ '' if 'b' in s }}{% endfor %}",
    LONG + "{% for i in range(999) %}{{ s | list | length }}{% endfor %}",
    LONG + "{{ (s + 'b').strip(s) }}",
    LONG + "{{ s.rfind('b' + s[1:]) }}",
    LONG + "{{ ('<!--' * 9999) | striptags }}",
    "{% for i in range(9999) %}{{ ('w.a ' * 490) | urlize }}{% endfor %}",
]


@pytest.mark.parametrize("source", [*ONE_OPERATION, *MANY_OPERATIONS])
def test_what_asks_for_too_much_is_refused_before_it_is_made(source: str) -> None:
    """Each of these took over 100 MB or minutes, or would have in the end."""
    tracemalloc.start()
    try:
        with pytest.raises(
            ChatTemplateError, match=r"letters\.gguf' (refuses|does not)"
        ):
            template_of(source).render([turn("user", "x")])
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


def test_a_namespace_that_holds_itself_is_printed_without_what_is_in_it() -> None:
    source = AGAIN + "{% set ns.l = namespace(a=ns.l, b=ns.l) %}{% endfor %}{{ ns.l }}"
    assert "_Names object" in template_of(source).render([turn("user", "x")])


def test_constants_are_bounded_while_they_are_compiled() -> None:
    with pytest.raises(ChatTemplateError, match="asks for more than"):
        template_of(f"{{{{ 'a' | center({N}) }}}}").render([])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_conversation_stays_far_below_the_bounds(family: str) -> None:
    template: ChatTemplate = template_of(FAMILIES[family])
    said = "</think> some words of an answer or a question" * 40
    turns = [turn(("user", "assistant")[i % 2], said) for i in range(999)]
    assert template.render(turns).count("some words") >= 500 * 40
    one = [turn("user", "a" * 4_000_000)]
    assert len(template.render(one)) >= 4_000_000


def test_steps_are_counted_for_each_rendering() -> None:
    n = MAX_STEPS * 2 // 3
    render = compiled("{% for i in items %}{% endfor %}x")
    assert [render(items=range(n)) for _ in range(2)] == ["x", "x"]


ADDED_UP = (
    "{% set ns = namespace(t='') %}{% for m in messages %}"
    "{% set ns.t = ns.t + '<|' + m.role + m.content %}{% endfor %}{{ ns.t }}"
)


@pytest.mark.parametrize(
    "source",
    [
        "{{ said | truncate(1000) }}",
        "{{ (said | truncate(200, true, '…')).center(80) }}",
        "{{ said | center(80) ~ said.ljust(80) ~ said.zfill(9) }}",
        "{{ [said, said] | join('\n' * 100) }}{{ ', '.join([said, said]) }}",
        "{{ tools | tojson(indent=4, separators=(',', ': ')) }}",
        ADDED_UP,
    ],
)
def test_what_adds_little_to_long_texts_is_rendered(source: str) -> None:
    parameters = {f"parameter {n}": {"type": "string", "a": ["b"]} for n in range(9)}
    tools = [
        {"function": {"name": f"f{n}", "parameters": parameters}} for n in "ab" * 9
    ]
    template = template_of(f"{{% set said = messages[0].content %}}{source}")
    assert template.render([turn("user", "some words " * 20)] * 150, tools)
    assert template.render([turn("user", "some words " * 9_999)], tools)


@pytest.mark.parametrize(
    "source",
    ["{{ s | wordwrap(5) }}", "{{ s | pprint }}", "{{ {'a': s} | xmlattr }}"],
)
def test_filters_for_pages_take_short_texts(source: str) -> None:
    template = template_of(f"{{% set s = messages[0].content %}}{source}")
    assert "word" in template.render([turn("user", "a word")])
    with pytest.raises(ChatTemplateError, match="takes 2,000 characters at most"):
        template.render([turn("user", "a word " * 999)])
