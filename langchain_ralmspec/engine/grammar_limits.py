"""Which grammars llama.cpp can parse, and begin to follow, in bounded time and memory.

A few lines may ask it for hours, for all memory or for more than a thread's stack, and
nothing ends a call of it. What grows with an answer alone is not looked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from langchain_ralmspec.errors import GrammarError

_SHOWN = 300  # characters of a grammar that an error quotes
# llama.cpp parses by recursion, some 500 bytes of stack for a bracket, and 100 for a
# rule that begins with another: 8 MiB end at 20,000 brackets. Threads may have 512 KiB.
_DEEPEST, _MOST_RULES = 500, 5_000
# It writes out what is repeated, some 100 bytes each, up to 2,000 times.
_MOST_REPEATED, _WRITTEN = 100_000, 2_000
# It has a stack for each way in which an answer may begin: 5,000 values of an enum take
# 0.2 s, and what is twice a choice of what is twice a choice … doubles.
_MOST_BEGINNINGS = 20_000
# Behind each character it has a stack for each part that may come next, and compares
# each with all others: of ("a"?){n} a token takes 0.2 s with n = 100, 2 s with 200 and
# 48 s with 500. A schema has one for each property that may be left out.
_MOST_SKIPPED = 128
_MOST_PASSES = 50  # over all rules; more only where they name one another in circles

_NAME = r"[A-Za-z0-9_-]+"
# What has no end is looked through once, not again from each sign within it.
_SIGN = re.compile(
    r'"(?:\\.|[^"\\])*+"?|\[(?:\\.|[^\]\\])*+\]?|#[^\r\n]*|<[^>\n]*+>?|'
    rf"::=|{_NAME}|\{{[^}}]*+\}}?|[()|?*+.]",
    re.DOTALL,
)
_REPETITION = re.compile(r"\{\s*(\d*)\s*(,?)\s*(\d*)\s*\}")


def require_bounded(text: str) -> None:
    """Refuse a grammar that takes too much to parse or to follow.

    Raises:
        GrammarError: it has too many rules or brackets within one another, repeats
            something too often, or fewer times than at least, or not as GBNF writes
            it, or may begin, or go on where parts are left out, in too many ways.
    """
    signs = [each for each in _SIGN.findall(text) if not each.startswith("#")]
    n_rules, deepest = signs.count("::="), _deepest(signs)
    if deepest > _DEEPEST or n_rules > _MOST_RULES:
        raise _refused(
            text,
            f"has {n_rules:,} rules, and brackets {deepest:,} deep; {_MOST_RULES:,} "
            f"and {_DEEPEST:,} are the most that can be parsed safely",
        )
    for sign in signs:
        if sign.startswith("{") and not _REPETITION.fullmatch(sign):
            raise _refused(text, f"has {sign[:20]!r}; write {{2}}, {{2,}} or {{2,5}}")
    n_repeated = 0
    for least, most in map(_times, filter(_REPETITION.fullmatch, signs)):
        if most < least:
            raise _refused(text, f"repeats something from {least} to {most} times")
        n_repeated += min(most, _WRITTEN)
    if n_repeated > _MOST_REPEATED:
        raise _refused(
            text,
            f"repeats something {n_repeated:,} times; {_MOST_REPEATED:,} are the most",
        )
    n_beginnings, n_skipped = _Rules(signs).count()
    if n_skipped > _MOST_SKIPPED:
        raise _refused(
            text,
            f"may go on in more than {_MOST_SKIPPED:,} ways where parts may be left "
            "out, which takes too long to follow; make fewer of them optional",
        )
    if n_beginnings > _MOST_BEGINNINGS:
        raise _refused(
            text,
            f"has more than {_MOST_BEGINNINGS:,} ways to begin a part, which takes too "
            "long to follow; give fewer choices",
        )


def _refused(text: str, why: str) -> GrammarError:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return GrammarError(f"the grammar {shown!r} {why}")


def _deepest(signs: list[str]) -> int:
    depth = deepest = 0
    for sign in signs:
        depth += {"(": 1, ")": -1}.get(sign, 0)
        deepest = max(deepest, depth)
    return deepest


def _times(sign: str) -> tuple[int, int]:
    """How many times a part is there at least, and is written at most."""
    said = _REPETITION.fullmatch(sign)
    if said is None:
        return int(sign == "+"), 1
    # Of the first digits, as more are too many in any case, and int() refuses some.
    least, most = (int(number.lstrip("0")[:10] or 0) for number in said.group(1, 3))
    if said[3]:
        return least, most
    return least, max(least, 1) if said[2] else least


@dataclass(slots=True)
class _Part:
    """One part of a sequence, by its text; it may be the name of a rule."""

    name: str
    least: int = 1  # times that it is there
    most: int = 1
    goes_on: bool = False  # or as often as one likes


class _Rules:
    """The rules of a grammar, and what of them an answer may skip.

    What is in brackets is a rule of its own.
    """

    def __init__(self, signs: list[str]) -> None:
        self._rules: dict[str, list[list[_Part]]] = {'""': [[]], "": [[]]}
        self._read(signs)
        self._order = self._inner_first()
        self._nullable: set[str] = set()
        self._n_beginnings: dict[str, int] = {}
        self._most_skipped = 0

    def count(self) -> tuple[int, int]:
        """Ways in which a rule may begin at most; ways where something may be skipped.

        More than may be, where the rules name one another in too many circles.
        """
        for step in (self._find_nullable, self._count_beginnings):
            passes = ([step(name) for name in self._order] for _ in range(_MOST_PASSES))
            if all(map(any, passes)):
                return _MOST_BEGINNINGS + 1, _MOST_SKIPPED + 1
        return max(self._n_beginnings.values()), self._most_skipped

    def _read(self, signs: list[str]) -> None:
        open_ = [""]
        for number, sign in enumerate(signs):
            sequences = self._rules[open_[-1]]
            if signs[number + 1 : number + 2] == ["::="]:
                self._rules[sign] = [[]]
                open_ = [sign]
            elif sign == "|":
                sequences.append([])
            elif sign == "(":
                name = f"({number}"
                sequences[-1].append(_Part(name))
                self._rules[name] = [[]]
                open_.append(name)
            elif sign == ")":
                open_ = open_[:-1] or open_
            elif sign in {"?", "*", "+"} or sign.startswith("{"):
                for part in sequences[-1][-1:]:
                    part.least, part.most = _times(sign)
                    part.goes_on = sign == "*"
            elif sign != "::=":
                sequences[-1].append(_Part(sign))

    def _inner_first(self) -> list[str]:
        """The rules, each behind those that it names, but for circles."""
        order, seen = [], set[str]()
        todo = [(name, False) for name in self._rules]
        while todo:
            name, is_left = todo.pop()
            if is_left:
                order.append(name)
            elif name in self._rules and name not in seen:
                seen.add(name)
                todo.append((name, True))
                parts = (part for parts in self._rules[name] for part in parts)
                todo += [(part.name, False) for part in parts]
        return order

    def _find_nullable(self, name: str) -> bool:
        """Whether it shows now that a rule may be nothing."""
        if name in self._nullable:
            return False
        if any(all(map(self._may_lack, parts)) for parts in self._rules[name]):
            self._nullable.add(name)
            return True
        return False

    def _may_lack(self, part: _Part) -> bool:
        return part.least == 0 or part.name in self._nullable

    def _count_beginnings(self, name: str) -> bool:
        """Whether it shows now that a rule may begin in more ways."""
        before = self._n_beginnings.get(name, 0)
        now = min(sum(map(self._beginnings, self._rules[name])), _MOST_BEGINNINGS + 1)
        self._n_beginnings[name] = now
        return now != before

    def _beginnings(self, parts: list[_Part]) -> int:
        """Ways in which a sequence may begin; what of it may be skipped is noted."""
        n = n_skipped = 0
        for part in reversed(parts):
            is_rule = part.name in self._rules
            own = self._n_beginnings.get(part.name, 0) if is_rule else 1
            if self._may_lack(part):
                own *= self._written(part)
                n, n_skipped = n + own, n_skipped + own
                self._most_skipped = max(self._most_skipped, n_skipped)
            else:
                n, n_skipped = own, 0
        return n

    def _written(self, part: _Part) -> int:
        """How many times one stands where it may lack; of what goes on, twice."""
        if part.name in self._nullable:
            return part.most
        return 2 if part.goes_on else 1
