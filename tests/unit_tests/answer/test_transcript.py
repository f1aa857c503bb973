from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from langchain_ralmspec.answer.transcript import TextStream, Transcript

texts = st.text("abé€😀 ", max_size=30)
stops = st.lists(st.text("abé€😀 ", min_size=1, max_size=3), max_size=3)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut bytes into pieces, without regard to characters."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(texts, stops, st.lists(st.integers(0, 4), max_size=20))
@example("a€a", ["€", "a€a"], [4])  # the shorter one is complete before the longer
def test_stream_gives_the_text_up_to_the_first_stop_string(
    text: str, stop: list[str], sizes: list[int]
) -> None:
    pieces = cut(text.encode(), sizes)
    stream = TextStream(stop)

    shown = "".join(map(stream.feed, pieces)) + stream.finish()

    assert shown == searched(pieces, stop)


def searched(pieces: list[bytes], stops: list[str]) -> str:
    """Looks for stop strings in everything so far, with every piece."""
    text = ""
    for n in range(len(pieces)):
        text = b"".join(pieces[: n + 1]).decode(errors="ignore")
        found = [at for stop in stops if (at := text.find(stop)) >= 0]
        if found:
            return text[: min(found)]
    return text


def test_stream_holds_back_what_may_become_a_stop_string() -> None:
    stream = TextStream(["END"])
    assert stream.feed(b"the E") == "the "
    assert stream.feed(b"N") == ""
    assert stream.feed(b"Z") == "ENZ"
    assert stream.feed(b"E") == ""
    assert stream.finish() == "E"


def test_stream_never_cuts_a_character() -> None:
    stream = TextStream()
    euro = "€".encode()
    assert stream.feed(euro[:2]) == ""
    assert stream.feed(euro[2:]) == "€"


def test_stream_replaces_a_character_that_never_ends() -> None:
    stream = TextStream()
    assert stream.feed("€".encode()[:2]) == ""
    assert stream.finish() == "\ufffd"


def test_nothing_comes_after_a_stop_string() -> None:
    stream = TextStream(["."])
    assert stream.feed(b"one. two") == "one"
    assert stream.feed(b"three") == ""
    assert stream.finish() == ""


def test_transcript_notices_a_stop_string_across_tokens() -> None:
    transcript = Transcript(["END"])
    assert not transcript.append(1, b"xE")
    assert not transcript.append(2, b"N")
    assert transcript.append(3, b"D.")


def test_transcript_forgets_what_is_truncated() -> None:
    transcript = Transcript(["END"])
    for token, piece in enumerate([b"E", b"N", b"D"]):
        transcript.append(token, piece)
    transcript.truncate(1)
    assert transcript.tokens == [0]
    assert transcript.text_bytes(0, 1) == b"E"
    assert not transcript.append(7, b"ND"[1:])
    assert transcript.text_bytes(0, 2) == b"ED"
    assert transcript.text_bytes(1, 2) == b"D"


def test_an_old_stop_string_does_not_stop_again() -> None:
    transcript = Transcript(["a"])
    assert transcript.append(1, b"a")
    assert not transcript.append(2, b"b")
