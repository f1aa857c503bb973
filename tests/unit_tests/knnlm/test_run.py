"""A text that is being continued, piece by piece."""

from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.knnlm import generate
from tests.unit_tests.knnlm.test_identity import Case, Text


def test_nothing_happens_before_the_first_iteration() -> None:
    text = Text(Case())
    run = iter(Run(generate(text.request, None), text.request))
    assert not text.paths
    next(run)
    assert text.paths
