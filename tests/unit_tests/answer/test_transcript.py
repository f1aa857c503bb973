import random
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from langchain_ralmspec.answer.transcript import Transcript

texts = st.text("abé€😀 ", max_size=30)
stops = st.lists(st.text("abé€😀 ", min_size=1, max_size=3), max_size=3)
END = 999
EURO = "€".encode()


class Pieces:
    """Token ``n`` is the ``n``-th of some pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        raise AssertionError("nothing is tokenized here")

    def piece(self, token: int) -> bytes:
        return self.pieces[token]

    def is_end(self, token: int) -> bool:
        return token == END


def transcript_of(
    *pieces: bytes,
    stops: list[str] | None = None,
    control_stops: Sequence[Sequence[bytes | int]] = (),
    max_tokens: int = 99,
) -> Transcript:
    return Transcript(
        Pieces(*pieces),
        max_tokens=max_tokens,
        stops=stops or [],
        control_stops=control_stops,
    )


def shown(transcript: Transcript, n: int) -> list[str]:
    """What is released with each of ``n`` tokens, and at the end."""
    told = []
    for token in range(n):
        ended = transcript.append(token)
        told.append(transcript.release(len(transcript)))
        if ended:
            break
    return [*told, transcript.release(len(transcript), is_final=True)]


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut bytes into pieces, without regard to characters."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(texts, stops, st.lists(st.integers(0, 4), max_size=20))
@example("a€a", ["€", "a€a"], [4])  # the shorter one is complete before the longer
def test_it_releases_the_text_up_to_the_first_stop_string(
    text: str, stop: list[str], sizes: list[int]
) -> None:
    pieces = cut(text.encode(), sizes)
    transcript = transcript_of(*pieces, stops=stop)

    assert "".join(shown(transcript, len(pieces))) == searched(pieces, stop)


def searched(pieces: list[bytes], stops: list[str]) -> str:
    """Looks for stop strings in everything so far, with every piece."""
    text = ""
    for n in range(len(pieces)):
        text = b"".join(pieces[: n + 1]).decode(errors="ignore")
        found = [at for stop in stops if (at := text.find(stop)) >= 0]
        if found:
            return text[: min(found)]
    return text


@given(texts, stops, st.lists(st.integers(0, 4), max_size=20), st.integers(0, 999))
def test_what_was_released_is_never_taken_back(
    text: str, stop: list[str], sizes: list[int], seed: int
) -> None:
    """Tokens are written ahead and taken back, as speculation does it."""
    pieces = cut(text.encode(), sizes)
    transcript = transcript_of(*pieces, stops=stop)

    assert told_ahead(transcript, range(len(pieces)), seed) == searched(pieces, stop)


def told_ahead(transcript: Transcript, written: Sequence[int], seed: int) -> str:
    """What is released while tokens are written ahead and some taken back."""
    told, n_final, chooser = "", 0, random.Random(seed)  # noqa: S311  not a secret
    while n_final < len(written):
        n_ahead = chooser.randint(n_final + 1, len(written))
        for token in written[len(transcript) : n_ahead]:
            if transcript.append(token):
                break
        n_final = chooser.randint(n_final, len(transcript))
        told += transcript.release(n_final)
        if n_final == len(transcript) and transcript.finish_reason:
            break
        transcript.truncate(n_final)
    return told + transcript.release(n_final, is_final=True)


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        # What may become a stop string is held back, and nothing comes after one.
        ((b"the E", b"N", b"Z", b"E"), ["END"], ["the ", "", "ENZ", "", "E"]),
        ((b"one. two", b"three"), ["."], ["one", ""]),
        # No character is cut, one that never ends is left out, a broken one replaced.
        ((EURO[:2], EURO[2:]), [], ["", "€", ""]),
        ((b"a", EURO[:2]), [], ["a", "", ""]),
        ((EURO[:2], b"E", b"N"), ["EN"], ["", "", "", ""]),
        ((EURO[:2], b"a"), [], ["", "\ufffda", ""]),
    ],
)
def test_it_shows(
    pieces: tuple[bytes, ...], stops: list[str], expected: list[str]
) -> None:
    assert shown(transcript_of(*pieces, stops=stops), len(pieces)) == expected


@pytest.mark.parametrize(
    ("pieces", "stops", "reasons"),
    [
        ((b"xE", b"N", b"D."), ["END"], [None, None, "stop"]),
        ((b"a", b"b"), [], [None, "length"]),
        ((b"a", b"b", b"c"), ["a"], ["stop", None, "length"]),  # it stops not again
    ],
)
def test_it_ends(
    pieces: tuple[bytes, ...], stops: list[str], reasons: list[str | None]
) -> None:
    max_tokens = 99 if reasons[-1] == "stop" else len(pieces)
    transcript = transcript_of(*pieces, stops=stops, max_tokens=max_tokens)
    for token, reason in enumerate(reasons):
        assert transcript.append(token) == transcript.finish_reason == reason


CONTROLS = [3, 4]  # tokens without text, behind "a", "\n" and "b"
SPELT = (b"a", b"\n", b"b", b"", b"")


@given(
    st.lists(st.integers(0, 4), max_size=20),
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), max_size=3),
    st.integers(0, 999),
)
@example([0, 1, 3, 2], [[1, 3]], 0)
@example([0, 1, 3, 2], [[3, 2], [1]], 0)
@example([0, 3, 0], [[0, 0]], 0)
def test_control_tokens_end_the_text_where_a_stop_string_names_them(
    written: list[int], stop: list[list[int]], seed: int
) -> None:
    """As a search in all tokens ends it, whatever is taken back in between."""
    spelt = [[n if n in CONTROLS else SPELT[n] for n in one] for one in stop]
    pieces = Pieces(*SPELT)
    transcript = Transcript(pieces, max_tokens=99, control_stops=spelt)
    told = told_ahead(transcript, written, seed)

    # Control tokens that no stop string names have no text: they part nothing.
    named = {n for one in stop for n in one}
    seen = [n for n in written if n in named or n not in CONTROLS]
    ends = [
        start
        for n in range(len(seen) + 1)
        for start in range(n)
        if seen[start:n] in stop
    ]
    kept = seen[: ends[0]] if ends else seen
    assert told == b"".join(SPELT[token] for token in kept).decode()


def test_a_stop_string_that_the_text_spells_ends_it_as_before() -> None:
    named: list[bytes | int] = [b"<", 4]
    transcript = transcript_of(*SPELT, stops=["ab"], control_stops=[named])
    assert [transcript.append(token) for token in (0, 3, 2)] == [None, None, "stop"]
    assert transcript.release(3, is_final=True) == ""


def test_it_ends_with_an_end_token_that_is_no_part_of_it() -> None:
    transcript = transcript_of(b"a")
    assert transcript.append(0) is None
    assert transcript.append(END) == "stop"
    assert transcript.tokens == [0]
    transcript.truncate(1)
    assert transcript.finish_reason is None


def test_it_forgets_what_is_truncated() -> None:
    transcript = transcript_of(b"E", b"N", b"D", stops=["END"])
    for token in range(3):
        transcript.append(token)
    assert transcript.finish_reason == "stop"
    transcript.truncate(1)
    assert transcript.finish_reason is None
    assert transcript.tokens == [0]
    assert transcript.text_bytes(0, 1) == b"E"
    assert transcript.append(2) is None
    assert transcript.text_bytes(0, 2) == b"ED"
    assert transcript.text_bytes(1, 2) == b"D"
