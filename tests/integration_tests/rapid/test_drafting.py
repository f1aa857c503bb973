"""RAPID over a real model: the same tokens, a KV that is kept, drafters that fail."""

import gc
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from langchain_ralmspec import Draft, InvalidValueError, RapidChain
from langchain_ralmspec.assets.models import model_path
from langchain_ralmspec.engine import Model, selftest
from langchain_ralmspec.engine import Sequence as Path_
from tests.integration_tests.conftest import QUESTIONS, Corpus
from tests.integration_tests.rapid.conftest import answer, answered


class Oracle:
    """Knows the answer, and is wrong at every fifth token."""

    name = "oracle"

    def __init__(self, tokens: list[int], n_prompt: int) -> None:
        self.tokens, self.n_prompt = tokens, n_prompt

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        at = len(prefix) - self.n_prompt
        tokens = [t if i % 5 else 7 for i, t in enumerate(self.tokens)]
        return Draft(tuple(tokens[at : at + n]))


@pytest.mark.parametrize(
    ("sampling", "length"), [({}, "auto"), ({"temperature": 0.9, "seed": 3}, 4)]
)
@pytest.mark.parametrize("drafter", ["lookup", "self", "text", ["lookup", "self"]])
def test_the_same_tokens_as_plain_decoding(
    make: Any, context: str, *, length: Any, sampling: Any, drafter: Any
) -> None:
    plain = make(draft_length=0, **sampling)
    if drafter == "text":
        drafter = f"text:{plain.model_path}"
    drafted = make(drafter=drafter, draft_length=length, **sampling)
    assert selftest.exact_batch_size(plain.engine) >= 16
    for question in QUESTIONS[:3]:
        assert answer(drafted, question, context) == answer(plain, question, context)


def test_drafts_are_accepted_and_wrong_ones_leave_no_trace(
    make: Any, context: str
) -> None:
    plain = make(draft_length=0)
    for question in QUESTIONS[:4]:
        run = answered(plain, question, context)
        oracle = Oracle(run.tokens, run.stats.prompt_tokens)
        chain = make(drafter=oracle, draft_length=7)
        drafted = answered(chain, question, context)
        assert drafted.tokens == run.tokens
        assert drafted.stats.passes < run.stats.passes / 2
        assert 0 < (drafted.stats.acceptance or 0) < 1


def test_every_token_is_the_targets_choice_in_the_verified_batch(
    make: Any, context: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[np.ndarray] = []
    score = Path_.score

    def scoring(path: Path_, tokens: Sequence[int]) -> Any:
        rows.append(score(path, tokens))
        return rows[-1]

    chain = make(drafter=["lookup", "self"], draft_length=4, exact_batches=False)
    chain.preload(context)
    monkeypatch.setattr(Path_, "score", scoring)
    run = answered(chain, QUESTIONS[1], context)
    for written, logits in zip(run.steps[1:], rows, strict=True):
        n = len(written.tokens)
        assert list(written.tokens) == logits[:n].argmax(axis=1).tolist()


def test_knowledge_transfer_may_change_the_answer_and_off_may_not(
    make: Any, context: str
) -> None:
    plain = answer(make(draft_length=0), QUESTIONS[0], context)
    settings = {"drafter": "self", "draft_length": 4}
    strong = make(**settings, transfer="paper", eta=500.0)
    assert answer(strong, QUESTIONS[0], context) != plain
    nothing = make(**settings, transfer="exact", eta=0.0)
    assert answer(nothing, QUESTIONS[0], context) == plain
    sampled = make(**settings, transfer="exact", temperature=0.7, seed=1)
    assert answer(sampled, QUESTIONS[0], context)


def test_another_quantization_of_the_target_drafts(make: Any, context: str) -> None:
    path = str(model_path("smollm2-135m", "Q8_0"))
    run = answered(make(drafter=path, draft_length=4), QUESTIONS[2], context)
    assert run.tokens == answer(make(draft_length=0), QUESTIONS[2], context)
    assert run.stats.accepted[Path(path).stem] > 0


def test_a_document_is_read_once(make: Any, context: str, tmp_path: Path) -> None:
    chain = make(kv_cache_dir=str(tmp_path))
    first = answered(chain, QUESTIONS[0], context)
    assert first.stats.cached_tokens == 0
    second = answered(chain, QUESTIONS[1], context)
    assert second.stats.cached_tokens > 0.9 * second.stats.prompt_tokens

    # As after a restart: nothing of the model is left in memory.
    del chain, first, second
    gc.collect()
    again = make(kv_cache_dir=str(tmp_path))
    third = answered(again, QUESTIONS[1], context)
    assert third.stats.cached_tokens > 0.9 * third.stats.prompt_tokens
    assert third.tokens == answer(make(draft_length=0), QUESTIONS[1], context)


def test_a_damaged_kv_is_computed_again(
    make: Any, context: str, tmp_path: Path
) -> None:
    chain = make(kv_cache_dir=str(tmp_path))
    assert chain.preload(context) > 500
    (file,) = tmp_path.glob("*.kv")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    chain.engine.forget_prefixes()
    with pytest.warns(RuntimeWarning, match=file.name):
        run = answered(chain, QUESTIONS[0], context)
    assert run.stats.cached_tokens == 0
    assert run.tokens == answer(make(draft_length=0), QUESTIONS[0], context)


class Failing:
    """Fails at its third draft."""

    name = "failing"
    n = 0

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        self.n += 1
        if self.n == 3:
            msg = "out of ideas"
            raise RuntimeError(msg)
        return Draft((5,))


def test_a_drafter_that_fails_leaves_the_target_alone(make: Any, context: str) -> None:
    chain = make(drafter=Failing(), draft_length=2)
    with pytest.warns(RuntimeWarning, match="out of ideas"):
        tokens = answer(chain, QUESTIONS[0], context)
    assert tokens == answer(make(draft_length=0), QUESTIONS[0], context)


class Target(Oracle):
    name = "target"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drafter": ["lookup", "lookup"]}, r"unique.*got 'lookup' twice"),
        ({"drafter": Target([], 0)}, "not 'target'; got 'target'"),
        ({"drafter": "lookupp"}, r"'lookupp'.*did you mean 'lookup'"),
        ({"drafter": "self", "embeddings": None}, "embeddings"),
    ],
)
def test_drafters_that_are_refused(
    make: Any, context: str, settings: Any, message: str
) -> None:
    with pytest.raises((InvalidValueError, ValidationError), match=message):
        make(**settings).invoke({"question": QUESTIONS[0], "context": context})


def test_auto_needs_nothing_that_is_not_there(gguf: str, corpus: Corpus) -> None:
    on_gpu: dict[str, Any] = {"model_path": gguf, "n_gpu_layers": -1}
    assert RapidChain(**on_gpu)._chosen == ["lookup"]
    embeddings = corpus.embeddings
    assert RapidChain(**on_gpu, embeddings=embeddings)._chosen == ["lookup", "self"]
    assert RapidChain(model_path=gguf, embeddings=embeddings)._chosen == ["lookup"]


def test_a_kv_that_finds_no_room_is_warned_about(make: Any, context: str) -> None:
    chain = make(kv_cache_bytes=1000)
    with pytest.warns(RuntimeWarning, match="kv_cache_bytes=1000"):
        chain.preload(context)


def test_vocabularies_that_differ(
    make: Any, gguf: str, context: str, tmp_path: Path
) -> None:
    def entry(text: str) -> bytes:
        data = text.encode()
        return struct.pack("<Q", len(data)) + data

    data = Path(gguf).read_bytes()
    assert data.count(entry("ĠWashington")) == 1
    other = tmp_path / "other.gguf"
    other.write_bytes(data.replace(entry("ĠWashington"), entry("ĠXashington")))
    given = {"question": QUESTIONS[0], "context": context}
    with pytest.raises(InvalidValueError, match=r"ĠXashington.*drafter='text:"):
        make(drafter=str(other)).invoke(given)
    assert make(drafter=f"text:{other}").invoke(given)["answer"]


def test_a_model_scores_many_tokens_in_one_call(model: Model) -> None:
    tokens = model.weights.tokenize("A list is sorted in place by its method sort.")
    one, other = model.new_sequence(), model.new_sequence()
    rows = one.score(tokens)
    assert rows.shape == (len(tokens), model.weights.n_vocab)
    assert np.array_equal(rows[-1], other.extend(tokens))
    with pytest.raises(InvalidValueError, match="got 513"):
        one.score([1] * 513)
