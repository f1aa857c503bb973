"""Which names a template makes its own."""

from __future__ import annotations

import pytest

from langchain_ralmspec.engine.markers import is_composed

COMPOSED = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m.content }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("name", "source", "is_one"),
    [
        ("<|user|>", COMPOSED, True),
        ("<|assistant|>", COMPOSED, True),
        ("<|system|>", COMPOSED, True),
        ("<|code|>", COMPOSED, False),
        ("<user|>", COMPOSED, False),
        ("user", COMPOSED, False),
        ("<|user|>", "{{ '<|' + name + '|>' }}", False),
        ("[user]", "{{ '[' + m.role + ']' }}", True),
    ],
)
def test_a_marker_of_a_role_may_be_composed(
    name: str,
    source: str,
    is_one: bool,
) -> None:
    assert is_composed(name, source) is is_one
