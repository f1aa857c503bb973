import gc

import pytest

from langchain_ralmspec.bench import comparison
from tests.unit_tests.bench.knnlm.fakes import CLOCK


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers cost nothing here, but collecting garbage before each would."""
    monkeypatch.setattr(gc, "collect", lambda: 0)
    monkeypatch.setattr(comparison, "time", CLOCK)
