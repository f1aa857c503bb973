"""Metadata of an answer can be written by whatever stores messages."""

from __future__ import annotations

import enum
import json
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, messages_from_dict, messages_to_dict
from langchain_core.outputs import ChatGeneration, Generation
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite import SqliteSaver

from langchain_ralmspec import (
    DraftStats,
    InvalidValueError,
    SpeculationStats,
    documents_of,
)
from langchain_ralmspec.base.plain import plain, plain_documents


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")


HALF, WHOLE = "\ud835", "\U0001d400"
CASES: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (np.True_, True),
    (Level.HIGH, 3),
    (Colour.RED, "red"),
    (2**64 - 1, 2**64 - 1),
    (2**64, str(2**64)),
    (-(2**63) - 1, str(-(2**63) - 1)),
    (10**5000, hex(10**5000)),
    (np.int8(3), 3),
    (np.float32(0.5), 0.5),
    (float("nan"), "nan"),
    (float("-inf"), "-inf"),
    (np.longdouble(0.5), "0.5"),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    (np.array([np.nan, 1.0]), ["nan", 1.0]),
    (np.datetime64("2024-02-29", "ns"), "2024-02-29T00:00:00.000000000"),
    (np.array(["2024-02-29"], "datetime64[D]"), ["2024-02-29"]),
    (date(2024, 2, 29), "2024-02-29"),
    (datetime(2024, 2, 29, 1, tzinfo=UTC), "2024-02-29T01:00:00+00:00"),
    (time(1, 2), "01:02:00"),
    (timedelta(hours=1), "1:00:00"),
    (Decimal("1.50"), "1.50"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Path("a/b"), "a/b"),
    ("é".encode(), "é"),
    (b"\xff", "\\xff"),
    ({"b", "a"}, ["a", "b"]),
    (frozenset({10, 9, "a"}), [9, 10, "a"]),
    ((1, (2,)), [1, [2]]),
    ({1: "a", date(2024, 1, 1): 2, None: 3}, {"1": "a", "2024-01-01": 2, "None": 3}),
    (HALF + "\udc00", WHOLE),
    (f"a{HALF}b", "a\ufffdb"),
    (1 + 2j, "(1+2j)"),
]


@pytest.mark.parametrize(("value", "expected"), CASES, ids=range(len(CASES)))
def test_each_kind_of_value(value: Any, expected: Any) -> None:
    made = plain(value)
    assert made == expected
    assert type(made) is type(expected)


def test_what_cannot_be_written_down_does_not_stop_the_answer() -> None:
    within: list[Any] = []
    within += [within, within]
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (Broken(), within, deep):
        json.dumps(plain(value), allow_nan=False)
    assert "Broken object" in plain(Broken())


def bare(value: Any) -> bool:
    """Whether a value is built of JSON's own types, to the class."""
    if type(value) is dict:
        return all(type(key) is str for key in value) and all(map(bare, value.values()))
    if type(value) is list:
        return all(map(bare, value))
    return value is None or type(value) in {bool, int, float, str}


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()),
    st.binary(),
    st.dates(),
    st.datetimes(timezones=st.none() | st.just(UTC)),
    st.uuids(),
    st.decimals(),
    st.builds(Path, st.just("a") | st.just("b/c")),
    st.sampled_from([*Colour, *Level]),
    st.builds(np.float32, st.floats(width=32)),
    st.builds(np.int64, st.integers(-(2**63), 2**63 - 1)),
    st.sampled_from([HALF, f"{HALF}\udc00", np.arange(3), np.datetime64("NaT")]),
)
keys = st.text() | st.integers() | st.dates() | st.just("lc") | st.just("type")
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=3)
        | st.frozensets(st.integers() | st.text() | st.dates(), max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
@settings(max_examples=300)
@given(st.dictionaries(st.text(max_size=5) | st.just("lc"), values, max_size=4))
def test_whatever_is_in_metadata_it_can_be_stored(metadata: dict[str, Any]) -> None:
    told = plain_documents([Document("text", id="1", metadata=metadata)])
    assert bare(told)
    json.dumps(told, allow_nan=False).encode()
    assert plain(told) == told
    message = AIMessage("answer", response_metadata={"documents": told})
    stored = json.dumps(messages_to_dict([message]), allow_nan=False)
    (again,) = messages_from_dict(json.loads(stored))
    assert documents_of(again) == documents_of(message)
    generation = ChatGeneration(message=message)
    cached = loads(dumps(generation), allowed_objects="core")
    assert cached == generation
    assert documents_of(cached) == documents_of(message)


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=5), values, max_size=4))
def test_an_agents_checkpoint_keeps_it(metadata: dict[str, Any]) -> None:
    told = plain_documents([Document("text", id="1", metadata=metadata)])
    message = AIMessage("answer", response_metadata={"documents": told})
    state = empty_checkpoint()
    state["channel_values"] = {"messages": [message]}
    config: Any = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}
    with SqliteSaver.from_conn_string(":memory:") as saver:
        saver.put(config, state, {}, {})
        kept = saver.get(config)
    assert kept is not None
    assert kept["channel_values"]["messages"] == [message]


def test_documents_come_back_live() -> None:
    documents = [Document("one", id="1", metadata={"page": 1}), Document("two")]
    info = {"documents": plain_documents(documents)}
    message = AIMessage("x", response_metadata=info)
    generation = Generation(text="x", generation_info=info)
    for answer in (message, generation, ChatGeneration(message=message)):
        assert documents_of(answer) == documents
    others: list[Any] = [AIMessage("x"), Generation(text="x"), {"documents": []}]
    for other in others:
        with pytest.raises(InvalidValueError, match=type(other).__name__):
            documents_of(other)


@pytest.mark.parametrize("told", [3, "x", [3], [{"text": "x"}], None])
def test_what_is_no_documents_is_refused(told: Any) -> None:
    message = AIMessage("answer", response_metadata={"documents": told})
    with pytest.raises(InvalidValueError, match="'documents' of this AIMessage is"):
        documents_of(message)


def test_counts_are_plain() -> None:
    drafts = DraftStats()
    drafts.verified("lookup", 3, 2)
    for stats in (SpeculationStats(verifications=[(2, 0.5)]), drafts):
        assert bare(stats.as_dict())


@pytest.mark.parametrize("keys", [(1, "1"), ("1", 1)])
def test_keys_that_read_alike_stay_two(keys: tuple[Any, Any]) -> None:
    made = plain({key: type(key).__name__ for key in keys})
    assert made == {"1": "str", "1 (int)": "int"}
    assert plain({1: "a", 2: "b"}) == {"1": "a", "2": "b"}
    day = date(2020, 1, 1)
    assert plain({day: "a", str(day): "b"}) == {f"{day} (date)": "a", str(day): "b"}
