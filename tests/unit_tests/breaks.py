"""Code that is broken on purpose, to see whether a check would notice."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest

F = TypeVar("F", bound=Callable[..., Any])


class Breaks:
    """Functions that stand in for methods; each is a case of one parametrised test."""

    def __init__(self) -> None:
        self.cases: list[Any] = []

    def __call__(self, owner: Any, name: str, some: Any) -> Callable[[F], F]:
        """Note a function that stands in for a method, and gets the method first."""

        def note(instead: F) -> F:
            given = owner, name, instead, some
            self.cases.append(pytest.param(given, id=instead.__name__))
            return instead

        return note


def apply(given: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Break what a case breaks; returns that by which it is noticed."""
    owner, name, instead, some = given
    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **more: instead(real, *args, **more))
    return some


def noticed(check: Callable[[Any], object], some: Any) -> bool:
    """Whether a check fails, by its own asserts, on any of some runs of a case."""
    for seed in range(25):
        try:
            check(replace(some, seed=seed))
        except AssertionError:
            return True
    return False
