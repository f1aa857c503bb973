"""Saved KV in contexts with another number of sequences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from langchain_ralmspec.engine.streams import is_saved_so, with_streams


def saved(n_streams: int, stream: int, content: bytes) -> NDArray[np.uint8]:
    """What llama.cpp saves of one of its streams, with some content or none."""
    full = b"\x07\0\0\0" + content if content else bytes(4)
    numbers = [full if n == stream else bytes(4) for n in range(n_streams)]
    head = b"mark" + b"seq " + n_streams.to_bytes(4, "little")
    return np.frombuffer(head + b"".join(numbers), np.uint8)


@given(st.integers(1, 20), st.integers(1, 20), st.data(), st.binary(max_size=30))
def test_a_sequence_moves_to_a_context_with_another_number_of_streams(
    n_before: int, n_after: int, data: st.DataObject, content: bytes
) -> None:
    stream = data.draw(st.integers(0, n_before - 1))
    moved = with_streams(saved(n_before, stream, content), n_after)
    at = stream if n_before == n_after else 0  # nothing depends on which one
    assert moved.tobytes() == saved(n_after, at, content).tobytes()


@pytest.mark.parametrize(
    ("numbers", "is_known"),
    [
        ([9, 0, 2, 0, 0], True),
        ([9, 0, 2, 0, 0, 0], False),  # more than that, as for a second cache
        ([9, 2, 0, 0, 0], False),  # no number of streams there
        ([2, 0, 0], False),
    ],
)
def test_another_way_of_saving_is_noticed(numbers: list[int], is_known: bool) -> None:
    state = np.array(numbers, "<u4").view(np.uint8)
    assert is_saved_so(state, 2) == is_known


@given(st.binary(max_size=40), st.integers(1, 20))
def test_what_is_no_saved_kv_makes_no_error_here(junk: bytes, n_streams: int) -> None:
    state = np.frombuffer(junk, np.uint8)
    with_streams(state, n_streams)


@pytest.mark.parametrize("junk", [b"", b"mark", b"markseq \xff\xff\0\0"])
def test_what_is_no_saved_kv_stays_as_it_is(junk: bytes) -> None:
    state = np.frombuffer(junk, np.uint8)
    assert with_streams(state, 2).tobytes() == junk
