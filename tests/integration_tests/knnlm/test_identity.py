"""A kNN-LM with a real model: guessed neighbours change nothing but the clock.

``make integration`` runs a pairwise cover of the grid. The whole grid::

    RALMSPEC_GRID=full pytest tests/integration_tests/knnlm/test_identity.py
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec import KNNDatastore, KNNLMSpecLLM
from langchain_ralmspec.engine import Model, selftest
from langchain_ralmspec.knnlm import INDEX_KINDS, Neighbours, datastore
from tests.integration_tests.knnlm.conftest import N_PROMPTS
from tests.integration_tests.test_identity import cells, name_of
from tests.unit_tests.knnlm.fakes import first_of

pytestmark = pytest.mark.usefixtures("few_are_probed")

SEEDED = {"temperature": 0.9, "top_k": 30, "top_p": 0.97, "seed": 5}
AXES: dict[str, list[Any]] = {
    "k": [1, 16, 1024],
    "index": [*INDEX_KINDS, "flat, not probed"],
    "speculation_stride": [2, 5, "auto"],
    "sampling": ["greedy", "seeded"],
}


def told(llm: KNNLMSpecLLM, prompt: str, number: int) -> tuple[Any, ...]:
    """What comes of one prompt, and the counts of what it took.

    Length limits and stop strings take turns.
    """
    llm.max_tokens = [12, 9, 16, 1][number % 4]
    llm.stop = None if number % 3 else [".", "\n"]
    with pytest.MonkeyPatch.context() as patch:
        if number % 5 == 1:
            # SmolLM2 seldom ends on its own this soon: let a comma be its EOS.
            weights = llm.engine.weights
            patch.setattr(weights, "is_end", lambda t: b"," in weights.piece(t))
        run = llm.start(prompt)
        text = "".join(run)
    assert run.stats.tokens_kept == len(run.tokens)
    return (text, run.tokens, run.finish_reason), run.stats


@pytest.fixture
def fickle_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third probe finds nothing, so that guesses are right and wrong in turn."""
    probe, count = KNNDatastore.probe, itertools.count()

    def fickle(self: KNNDatastore, query: Any, k: int) -> Neighbours:
        return first_of(probe(self, query, k), 0 if next(count) % 3 == 2 else k)

    monkeypatch.setattr(KNNDatastore, "probe", fickle)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("fickle_probes")
@pytest.mark.parametrize("cell", cells(AXES), ids=name_of)
def test_same_tokens_with_guessed_neighbours(
    cell: dict[str, Any],
    make: Any,
    store_of: Callable[[str], KNNDatastore],
    prompts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if cell["index"] == "flat, not probed":
        monkeypatch.setattr(datastore, "PROBED_FROM", 10**9)
    settings = {"datastore": store_of(cell["index"]), "k": cell["k"]}
    settings |= SEEDED if cell["sampling"] == "seeded" else {}
    # One object for all prompts, as in an application: "auto" learns on the way.
    fast = make(**settings, speculation_stride=cell["speculation_stride"])
    slow = make(**settings, speculation=False)
    assert len(prompts) == N_PROMPTS
    reasons, stats = set(), []
    for number, prompt in enumerate(prompts):
        expected, plain = told(slow, prompt, number)
        text, guessed = told(fast, prompt, number)
        assert text == expected
        assert plain.guesses == 0
        assert plain.store_calls == plain.queries == plain.steps
        reasons.add(expected[2])
        stats.append(guessed)
    assert reasons == {"stop", "length"}
    n_calls, n_steps = (
        sum(getattr(one, name) for one in stats) for name in ("store_calls", "steps")
    )
    if cell["index"] != "flat":
        assert not any(one.guesses for one in stats)
        assert n_calls == n_steps
    elif cell["speculation_stride"] != "auto":
        assert any(one.right_guesses for one in stats)
        assert any(one.right_guesses < one.guesses for one in stats)
        assert any(one.tokens_rolled_back for one in stats)
        assert n_calls < n_steps


def test_with_a_slow_search_auto_guesses_and_the_text_is_the_same(
    make: Any, folder: Path, prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = KNNDatastore.search

    def slow_search(self: KNNDatastore, queries: Any, k: int) -> Any:
        time.sleep(0.1)
        return search(self, queries, k)

    slow = make(speculation=False)
    expected = [slow.invoke(prompt) for prompt in prompts[:6]]
    monkeypatch.setattr(KNNDatastore, "search", slow_search)
    fast = make(datastore=str(folder))
    runs = [fast.start(prompt) for prompt in prompts[:6]]
    assert ["".join(run) for run in runs] == expected
    assert all(run.stats.right_guesses for run in runs[1:]), "what it costs is kept"
    assert sum(run.stats.store_calls for run in runs) < 0.7 * 6 * 16


def test_neighbours_have_a_say(make: Any, texts: list[str], prompts: list[str]) -> None:
    # With all of the votes they go on as the text that they are of.
    llm = make(interpolation=1.0, k=1, max_tokens=8)
    pieces = [llm.engine.weights.piece(t) for t in llm.get_token_ids(texts[3])]
    prompt, following = b"".join(pieces[:12]), b"".join(pieces[12:20])
    assert llm.invoke(prompt.decode()) == following.decode()
    usual = [make().invoke(prompt) for prompt in prompts[:4]]
    for other in ({"knn_temperature": 1e9}, {"interpolation": 0.9}, {"k": 1}):
        assert [make(**other).invoke(prompt) for prompt in prompts[:4]] != usual


def test_without_a_share_it_is_the_model(
    make: Any, model: Model, prompts: list[str]
) -> None:
    for prompt in prompts[:3]:
        run = make(interpolation=0.0, speculation_stride=4).start(prompt)
        "".join(run)
        tokens = model.weights.tokenize(prompt)
        sequence = model.open(tokens[:-1])
        expected, token = list[int](), tokens[-1]
        for _ in run.tokens:
            token = int(sequence.extend([token]).argmax())
            expected.append(token)
        assert run.tokens == expected


def test_a_prompt_of_one_token(make: Any) -> None:
    fast, slow = make(speculation_stride=3), make(speculation=False)
    assert fast.get_num_tokens("The") == 1
    assert fast.invoke("The") == slow.invoke("The") != ""


def test_decoding_that_does_not_repeat_runs_token_by_token(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make(speculation_stride=4)
    text = llm.invoke("Once")
    monkeypatch.setattr(selftest, "is_repeatable", lambda _: False)
    with pytest.warns(RuntimeWarning, match="token by token"):
        run = make(speculation_stride=4).start("Once")
    assert "".join(run) == text
    assert run.stats.guesses == 0
