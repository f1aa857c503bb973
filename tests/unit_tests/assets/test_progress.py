"""What is told of work that takes its time."""

import pytest

from langchain_ralmspec.assets import progress


def test_without_a_terminal_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress.bar("embedding") as advance:
        for done in range(1, 26):
            now += 1.0
            advance(done, 25)
    assert capsys.readouterr().err.splitlines() == [
        "embedding: 40%",
        "embedding: 80%",
        "embedding: 100%",
    ]


def test_quick_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("embedding") as advance:
        advance(1, 1)
    assert capsys.readouterr() == ("", "")
