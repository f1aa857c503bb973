"""What drafting and verifying cost somewhere else, as a replay is told.

A profile has a point for each length of context. Its unit is a target's pass over a
single token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_ralmspec.bench.figures import read_json
from langchain_ralmspec.bench.rapid.pass_costs import PassCosts
from langchain_ralmspec.errors import InvalidValueError


@dataclass(frozen=True, slots=True)
class Point:
    """Costs at one length of context.

    Attributes:
        context: its tokens.
        draft_step: *c*, of one drafted token.
        passes: *v(n)*, of a target's pass, by its tokens; others lie on lines between.
        published: the speed-up that somebody reports there, if known.
        note: where all this comes from.
    """

    context: int
    draft_step: float
    passes: dict[int, float]
    published: float | None = None
    note: str = ""

    @property
    def cost(self) -> PassCosts:
        """*v(n)* for every n."""
        return PassCosts(self.passes)


@dataclass(frozen=True, slots=True)
class Profile:
    """Costs by length of context.

    Attributes:
        name: of the model and the machine.
        source: of the figures.
        points: one at least.
    """

    name: str
    source: str
    points: tuple[Point, ...]


def expected_tokens(acceptance: float, draft_length: int) -> float:
    """What a round gives: (1-α^{γ+1})/(1-α), also where α is 1."""
    return sum(acceptance**n for n in range(draft_length + 1))


def formula(acceptance: float, draft_length: int, step: float, verify: float) -> float:
    """RAPID's speed-up, were every token accepted with the same chance.

    Args:
        acceptance: α, of a token whose predecessors were accepted.
        draft_length: γ.
        step: c.
        verify: v(γ + 1).
    """
    return expected_tokens(acceptance, draft_length) / (draft_length * step + verify)


def read_profile(path: Path) -> Profile:
    """Read a profile from a JSON file.

    Raises:
        InvalidValueError: it cannot be read, or is none.
    """
    record = _record(read_json(path), f"{path}")
    points = record.get("points")
    if not isinstance(points, list) or not points:
        raise InvalidValueError(
            f"{path}: 'points' is {points!r}; give a list with a point for each length "
            "of context"
        )
    return Profile(
        _text(record, "name", f"{path}"),
        _text(record, "source", f"{path}"),
        tuple(
            _point(point, f"{path}, point {number}")
            for number, point in enumerate(points, start=1)
        ),
    )


def _point(given: Any, where: str) -> Point:
    record = _record(given, where)
    return Point(
        context=_whole(record.get("context"), f"{where}: 'context'"),
        # A draft may cost nothing, as look-up does.
        draft_step=_number(record.get("draft_step"), f"{where}: 'draft_step'", least=0),
        passes=_passes(record.get("passes"), f"{where}: 'passes'"),
        published=(
            _number(record["published"], f"{where}: 'published'")
            if record.get("published") is not None
            else None
        ),
        note=_text(record, "note", where) if "note" in record else "",
    )


def _passes(given: Any, where: str) -> dict[int, float]:
    passes = {
        _whole(size, f"a size in {where}"): _number(value, f"{where}, size {size}")
        for size, value in _record(given, where).items()
    }
    if passes.get(1) != 1.0:
        raise InvalidValueError(
            f"{where} has {passes.get(1)!r} for a pass of one token, which is the "
            'unit; give {"1": 1.0, "11": v} and the like'
        )
    return passes


def _record(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InvalidValueError(f"{where} is {given!r}, no JSON object")
    return given


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise InvalidValueError(f"{where}: {key!r} is {value!r}, no text")
    return value


def _whole(given: Any, where: str) -> int:
    # Keys of JSON objects are texts.
    text = given if isinstance(given, str) else repr(given)
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise InvalidValueError(f"{where} is {given!r}; it is a number of tokens")
    return int(text)


def _number(given: Any, where: str, least: float | None = None) -> float:
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or not math.isfinite(given) or not _is_enough(given, least):
        bound = "above 0" if least is None else f"of at least {least:g}"
        raise InvalidValueError(f"{where} is {given!r}; it is a number {bound}")
    return float(given)


def _is_enough(value: float, least: float | None) -> bool:
    return value > 0 if least is None else value >= least


# What the paper gives (arXiv 2502.20330), and nothing else.
_DRAFT_LENGTH = 10
_ACCEPTANCE = 0.80  # "75-85 %"
_LONG, _PUBLISHED = 120_000, 2.10
_SHORT = 32_000  # no gain below
# Of the model: 8.03 G parameters of two bytes; keys and values of 32 layers and 8
# heads of 128 numbers of two bytes. Of the drafter's context: 1/24 of the document.
_WEIGHT_BYTES, _KV_BYTES, _DRAFT_CONTEXT = 16.1e9, 131_072, 5_000


def _implied(context: int, published: float) -> Point:
    """The draft step with which the formula gives the published speed-up."""
    expected = expected_tokens(_ACCEPTANCE, _DRAFT_LENGTH)
    return Point(
        context,
        draft_step=(expected / published - 1.0) / _DRAFT_LENGTH,
        passes=_FLAT,
        published=published,
        note=(
            "c implied by the paper's own figures: it gives neither c nor v, so v(11) "
            f"is taken to be 1 and c to be what makes the formula give "
            f"{published:.2f}× at α = {_ACCEPTANCE:.2f}"
        ),
    )


def _by_bandwidth() -> Point:
    """The draft step if both sides do nothing but read weights and KV."""
    drafter = _WEIGHT_BYTES + _DRAFT_CONTEXT * _KV_BYTES
    step = drafter / (_WEIGHT_BYTES + _LONG * _KV_BYTES)
    typical = formula(_ACCEPTANCE, _DRAFT_LENGTH, step, 1.0)
    best = formula(1.0, _DRAFT_LENGTH, step, 1.0)
    return Point(
        _LONG,
        draft_step=step,
        passes=_FLAT,
        published=_PUBLISHED,
        note=(
            "c by memory bandwidth alone, from first principles: (weights + 5,000 "
            "tokens of KV) / (weights + 120,000 tokens of KV), with 16.1 GB of weights "
            "in bf16 and 131,072 bytes a token, v = 1. The formula then gives "
            f"{typical:.2f}× at α = {_ACCEPTANCE:.2f}, and {best:.2f}× were every "
            f"drafted token right: the published {_PUBLISHED:.2f}× is above what "
            "bandwidth allows with this drafter, so the paper's plain decoding pays "
            "more for a token behind a long context than bandwidth does"
        ),
    )


_FLAT = {1: 1.0, _DRAFT_LENGTH + 1: 1.0}

LLAMA_31_8B = Profile(
    "Llama-3.1-8B on a GPU, drafting for itself",
    "RAPID, arXiv 2502.20330: 2.10× at about 120 K tokens, no gain under 32 K, "
    "γ = 10, acceptance 75–85 %",
    (_implied(_SHORT, 1.0), _implied(_LONG, _PUBLISHED), _by_bandwidth()),
)
"""Made from the paper's figures; nobody measured it here."""
