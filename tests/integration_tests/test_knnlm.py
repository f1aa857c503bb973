"""A kNN-LM with a real model: guessed neighbours change nothing but the clock.

``make integration`` runs a pairwise cover of the grid. The whole grid::

    RALMSPEC_GRID=full pytest tests/integration_tests/test_knnlm.py
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from allpairspy import AllPairs
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from numpy.typing import NDArray
from pydantic import ValidationError

from langchain_ralmspec import (
    ContextOverflowError,
    DatastoreError,
    InvalidValueError,
    KNNDatastore,
    KNNLMSpecLLM,
    ModelFileError,
    SpeculationStats,
    UnknownArgumentError,
)
from langchain_ralmspec.assets.corpus import stdlib_passages
from langchain_ralmspec.engine import Model, Sequence, selftest
from langchain_ralmspec.engine.model import N_SLOTS
from langchain_ralmspec.errors import DecodeError
from langchain_ralmspec.knnlm import INDEX_KINDS, Neighbours, datastore
from langchain_ralmspec.knnlm.keys import entries_of
from tests.integration_tests.conftest import QUESTIONS

N_TEXTS = 75
N_PROMPTS = 20
SEEDED = {"temperature": 0.9, "top_k": 30, "top_p": 0.97, "seed": 5}
AXES: dict[str, list[Any]] = {
    "k": [1, 16, 1024],
    "index": [*INDEX_KINDS, "flat, not probed"],
    "speculation_stride": [2, 5, "auto"],
    "sampling": ["greedy", "seeded"],
}
FULL = os.environ.get("RALMSPEC_GRID") == "full"


def cells(axes: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """All combinations, or some that have every pair of values."""
    rows = itertools.product(*axes.values()) if FULL else AllPairs(axes.values())
    return [dict(zip(axes, row, strict=True)) for row in rows]


def name_of(cell: dict[str, Any]) -> str:
    return "-".join(map(str, cell.values()))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    passages = stdlib_passages()
    return [passage.text for passage in passages[:: len(passages) // N_TEXTS]]


@pytest.fixture(scope="module")
def prompts(texts: list[str]) -> list[str]:
    """Beginnings of texts that are in the datastore, questions, and others."""
    known = [" ".join(text.split()[:12]) for text in texts[3::13]]
    others = ["Once upon a time", "The", "def add(a, b):\n    return", "É"]
    return [*known, *others, *QUESTIONS][:N_PROMPTS]


@pytest.fixture(scope="module")
def folder(
    texts: list[str], gguf: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("knnlm") / "store"
    return KNNDatastore.build(texts, model_path=gguf, path=path).path


@pytest.fixture(scope="module")
def store_of(folder: Path) -> Callable[[Any], KNNDatastore]:
    return cache(lambda index: KNNDatastore.load(folder, index=index.split(",")[0]))


@pytest.fixture(autouse=True)
def _few_entries_are_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third probe finds nothing, so that guesses are right and wrong in turn."""
    probe, count = KNNDatastore.probe, itertools.count()

    def fickle(self: KNNDatastore, query: Any, k: int) -> Neighbours:
        near = probe(self, query, k)
        return near.first(0) if next(count) % 3 == 2 else near

    monkeypatch.setattr(datastore, "PROBED_FROM", 1)
    monkeypatch.setattr(KNNDatastore, "probe", fickle)


@pytest.fixture
def make(gguf: str, model: Model, store_of: Callable[[str], KNNDatastore]) -> Any:
    usual = {"model_path": gguf, "datastore": store_of("flat"), "max_tokens": 16}

    def make(**settings: Any) -> KNNLMSpecLLM:
        given: dict[str, Any] = usual | settings
        return KNNLMSpecLLM(**given)

    return make


def settings_of(number: int) -> dict[str, Any]:
    """Length limits and stop strings, in turn."""
    settings: dict[str, Any] = {"max_tokens": [12, 9, 16, 1][number % 4], "stop": None}
    if number % 3 == 0:
        settings["stop"] = [".", "\n"]
    return settings


def told(llm: KNNLMSpecLLM, prompt: str, number: int) -> tuple[Any, ...]:
    """What comes of one prompt, and the counts of what it took."""
    for name, value in settings_of(number).items():
        setattr(llm, name, value)
    with pytest.MonkeyPatch.context() as patch:
        if number % 5 == 1:
            # SmolLM2 seldom ends on its own this soon: let a comma be its EOS.
            weights = llm.engine.weights
            patch.setattr(weights, "is_end", lambda t: b"," in weights.piece(t))
        run = llm.start(prompt)
        text = "".join(run)
    assert run.stats.tokens_kept == len(run.tokens)
    return (text, run.tokens, run.finish_reason), run.stats


@pytest.mark.slow
@pytest.mark.timeout(3600)
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
    make: Any,
    folder: Path,
    prompts: list[str],
    monkeypatch: pytest.MonkeyPatch,
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


def test_every_way_in_gives_one_text(make: Any, prompts: list[str]) -> None:
    llm, prompt = make(speculation_stride=4), prompts[0]
    text = llm.invoke(prompt)
    assert text
    assert text == make(speculation=False).invoke(prompt)
    assert "".join(llm.stream(prompt)) == text
    assert llm.batch([prompt, "Once"])[0] == text
    assert asyncio.run(llm.ainvoke(prompt)) == text
    assert asyncio.run(llm.abatch(["Once", prompt]))[1] == text

    async def streamed() -> str:
        return "".join([part async for part in llm.astream(prompt)])

    assert asyncio.run(streamed()) == text


def test_it_tells_what_it_did(make: Any, prompts: list[str]) -> None:
    llm = make(speculation_stride=4)
    result = llm.generate(prompts[:2])
    for prompt, (generation,) in zip(prompts[:2], result.generations, strict=True):
        info = generation.generation_info or {}
        stats = SpeculationStats(
            **{k: v for k, v in info["speculation"].items() if k != "guess_accuracy"}
        )
        usage = info["usage_metadata"]
        assert usage["input_tokens"] == llm.get_num_tokens(prompt)
        assert usage["output_tokens"] == stats.tokens_kept == 16
        assert usage["total_tokens"] == usage["input_tokens"] + 16
        assert info["finish_reason"] == "length"
        assert info["model_name"] == llm.engine.path.stem
        assert 0 < stats.seconds_generating < stats.seconds
        assert 0 < stats.seconds_searching < stats.seconds_waiting < stats.seconds
        assert stats.rounds == len(stats.verifications) == stats.store_calls
        assert stats.plans == {"lookup 4": stats.rounds}


def test_new_tokens_are_called_back(make: Any, prompts: list[str]) -> None:
    class Listener(BaseCallbackHandler):
        def __init__(self) -> None:
            self.heard = ""
            self.metadata: dict[str, Any] = {}

        def on_llm_start(self, *_: Any, metadata: Any = None, **kwargs: Any) -> None:
            self.metadata = metadata

        def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
            self.heard += token

    llm, listener = make(), Listener()
    parts = list(llm.stream(prompts[0], config={"callbacks": [listener]}))
    assert listener.heard == "".join(parts) != ""
    assert len(parts) > 3
    assert listener.metadata["ls_provider"] == "ralmspec"
    assert listener.metadata["ls_model_name"] == llm.engine.path.stem


def test_a_call_may_override_settings(make: Any, prompts: list[str]) -> None:
    llm = make()
    text = llm.invoke(prompts[0])
    assert text.startswith(llm.invoke(prompts[0], max_tokens=3))
    word = text.split()[2]
    assert llm.invoke(prompts[0], stop=[word]) == text.partition(word)[0]
    assert llm.bind(stop=[word]).invoke(prompts[0]) == text.partition(word)[0]
    parts = list(llm.stream(prompts[0], stop=[word]))
    assert "".join(parts) == text.partition(word)[0]


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


def test_threads_share_model_and_datastore(make: Any, prompts: list[str]) -> None:
    llm = make(speculation_stride=3)
    expected = {prompt: llm.invoke(prompt) for prompt in prompts[:6]}
    written: dict[str, str] = {}

    def write(prompt: str) -> None:
        written[prompt] = llm.invoke(prompt)

    threads = [threading.Thread(target=write, args=(p,)) for p in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written == expected


# What the engine sees


def passage_tokens(model: Model, texts: list[str], n: int) -> list[int]:
    return model.weights.tokenize("\n\n".join(texts))[:n]


def test_observing_gives_the_logits_of_extending_to_the_bit(
    model: Model, texts: list[str]
) -> None:
    tokens = passage_tokens(model, texts, 90)
    seen, plain = model.open(tokens[:40]), model.open(tokens[:40])
    for token in tokens[40:60]:
        logits, hidden = seen.observe([token])
        assert logits.shape == (1, model.weights.n_vocab)
        assert hidden.shape == (1, model.weights.n_embd)
        assert (logits[0] == plain.extend([token])).all()
    many, hidden = seen.observe(tokens[60:80], n_logits=20)
    assert (many == plain.score(tokens[60:80])).all()
    assert hidden.shape == (20, model.weights.n_embd)
    # And it leaves the KV as it would have been.
    assert (seen.extend(tokens[80:81]) == plain.extend(tokens[80:81])).all()
    none, _ = seen.observe(tokens[81:90], n_logits=0)
    assert none.shape == (0, model.weights.n_vocab)


def test_hidden_states_come_again_to_the_bit(model: Model, texts: list[str]) -> None:
    tokens = passage_tokens(model, texts, 60)
    sequence = model.open(tokens[:40])
    first = [sequence.observe([token])[1] for token in tokens[40:50]]
    sequence.truncate(40)
    for token in tokens[50:60]:
        sequence.observe([token])
    sequence.truncate(40)
    again = [sequence.observe([token])[1] for token in tokens[40:50]]
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


def test_what_forgot_some_tokens_can_be_parked(model: Model, texts: list[str]) -> None:
    tokens = passage_tokens(model, texts, 130)

    def begin() -> Sequence:
        sequence = model.new_sequence()
        sequence.prefill(tokens[:80])
        sequence.observe(tokens[80:100], forget=40, keep=1)
        assert sequence.length == 60
        return sequence

    stays, parked = begin(), begin()
    expected = stays.observe(tokens[100:120], n_logits=0)[1]
    crowd = [model.open(tokens[:9], keep=False) for _ in range(N_SLOTS)]
    for other in crowd:
        other.extend(tokens[9:11])
    assert parked._kv.slot is None
    found = parked.observe(tokens[100:120], n_logits=0)[1]
    assert similarity(found, expected).min() > 0.99
    whole = model.open(tokens[:100]).observe(tokens[100:120])[1]
    assert similarity(whole, found).mean() > 0.95
    assert not np.array_equal(whole, found)


def test_a_full_context_has_room_once_some_is_forgotten(
    gguf: str, texts: list[str]
) -> None:
    small = Model.load(gguf, n_ctx=64, n_slots=1)
    tokens = passage_tokens(small, texts, 80)
    sequence = small.new_sequence()
    sequence.prefill(tokens[:64])
    with pytest.raises(ContextOverflowError, match="65 tokens"):
        sequence.observe(tokens[64:72], forget=7)
    for forget, keep in ((65, 0), (60, 5), (-1, 0), (1, -1)):
        with pytest.raises(InvalidValueError, match=f"forget {forget} .* {keep} .*64"):
            sequence.observe(tokens[64:65], forget=forget, keep=keep)
    assert sequence.length == 64
    sequence.observe(tokens[64:72], forget=8)
    assert sequence.length == 64


def test_a_failure_after_forgetting_leaves_nothing(
    model: Model, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = passage_tokens(model, texts, 60)
    sequence = model.new_sequence()
    sequence.prefill(tokens[:40])
    with monkeypatch.context() as patch:
        patch.setattr(model._slots._context, "_computed", lambda: 1)
        with pytest.raises(DecodeError, match="returned 1"):
            sequence.observe(tokens[40:44])
        assert sequence.length == 40
        with pytest.raises(DecodeError, match="returned 1"):
            sequence.observe(tokens[40:44], forget=10)
    assert sequence.length == 0
    sequence.prefill(tokens[:40])
    again = model.open(tokens[:40], keep=False)
    assert (sequence.extend(tokens[40:44]) == again.extend(tokens[40:44])).all()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """It is heard, although a shell's background jobs are started deaf to it."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("n_interrupts", [1, 3])
def test_ctrl_c_while_keys_are_computed_is_raised_and_leaves_all_as_it_was(
    n_interrupts: int, reader: Model, texts: list[str]
) -> None:
    tokens = passage_tokens(reader, texts, 540)
    sequence = reader.new_sequence()
    expected = sequence.observe(tokens[:20], n_logits=0)[1]
    sequence.truncate(10)

    def interrupt() -> None:
        for _ in range(n_interrupts):
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sequence.observe(tokens[10:510], n_logits=0)
    thread.join()
    assert sequence.length == 10
    # Another width of the call gives other bits, so this is not compared by them.
    found = sequence.observe(tokens[10:20], n_logits=0)[1]
    assert similarity(found, expected[10:]).min() > 0.99
    sequence.truncate(0)
    assert (sequence.observe(tokens[:20], n_logits=0)[1] == expected).all()


def test_a_model_without_hidden_states_of_tokens_says_so(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = SimpleNamespace(**vars(model._slots._context._lib))
    monkeypatch.setattr(model._slots._context, "_lib", library)
    sequence = model.new_sequence()
    for name, what in (
        ("llama_get_logits_ith", "no logits"),
        ("llama_get_embeddings_ith", "no hidden states of single tokens"),
    ):
        monkeypatch.setattr(library, name, lambda *_: None)
        with pytest.raises(DecodeError, match=rf"{model.path}.*{what}"):
            sequence.observe([1, 2, 3])
        assert sequence.length == 0


@pytest.fixture(scope="module")
def reader(gguf: str) -> Model:
    """The model as datastores are built with it."""
    return Model.load(gguf, n_ctx=1024, n_batch=512, n_slots=1, hidden_only=True)


def keys_of(model: Model, tokens: list[int]) -> NDArray[np.float32]:
    return np.concatenate([keys for keys, _ in entries_of(model, tokens)])


def similarity(
    one: NDArray[np.float32], other: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Cosine of the angle between keys at the same places, seen from their centre.

    From afar all hidden states of a model look alike.
    """
    centre = one.mean(axis=0)
    one, other = one - centre, other - centre
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine: NDArray[np.float32] = (one * other).sum(axis=1) / lengths
    return cosine


def test_keys_are_the_hidden_states_of_the_generating_model(
    reader: Model, model: Model, texts: list[str]
) -> None:
    tokens = passage_tokens(model, texts, 300)
    _, hidden = model.new_sequence().observe(tokens[:-1])
    assert similarity(keys_of(reader, tokens), hidden).min() > 0.9999
    sequence = model.new_sequence()
    single = np.concatenate([sequence.observe([token])[1] for token in tokens[:99]])
    assert similarity(keys_of(reader, tokens)[:99], single).min() > 0.99


def test_a_long_text_is_read_on_with_half_of_the_context(
    reader: Model, gguf: str, texts: list[str]
) -> None:
    tokens = passage_tokens(reader, texts, 1300)
    keys = keys_of(reader, tokens)
    assert keys.shape == (1299, reader.weights.n_embd)
    short = keys_of(reader, tokens[:400])
    assert similarity(keys[:399], short).min() > 0.99

    whole = Model.load(gguf, n_ctx=2048, n_batch=512, n_slots=1, hidden_only=True)
    full = keys_of(whole, tokens)
    assert similarity(full, keys)[:1024].min() > 0.99
    # What is long ago hardly shows in the later ones.
    assert np.median(similarity(full, keys)[1024:]) > 0.98


# Datastores


def test_every_token_but_a_text_s_last_is_an_entry(
    folder: Path, model: Model, texts: list[str]
) -> None:
    tokenized = [model.weights.tokenize(text) for text in texts]
    head = len(model.weights.text_start)
    store = KNNDatastore.load(folder)
    assert len(store) == sum(len(tokens) - 1 + head for tokens in tokenized)
    _, following = store.read(np.arange(len(store)))
    assert following.tolist() == [t for tokens in tokenized for t in tokens[1 - head :]]
    keys, _ = store.read(np.arange(99))
    assert store.dimension == model.weights.n_embd == keys.shape[1]
    norms = (keys**2).sum(axis=1)
    assert 0.01 * norms.mean() < store.typical_distance < 2 * norms.mean()


def test_a_key_finds_itself_and_what_followed_it(
    store_of: Callable[[str], KNNDatastore],
) -> None:
    store = store_of("flat")
    rows = np.arange(5, len(store), 997)
    keys, tokens = store.read(rows)
    found = store.search(keys, 3)
    assert [near.distances[0] for near in found] == [0.0] * len(rows)
    # An equal beginning of two texts has equal keys; the first one is found.
    assert [near.tokens[0] for near in found] == tokens.tolist()
    assert all(near.rows[0] <= row for near, row in zip(found, rows, strict=True))


def test_appending_is_building_with_both(
    gguf: str, reader: Model, texts: list[str], tmp_path: Path
) -> None:
    build = KNNDatastore.build
    both = build(texts[:6], model_path=gguf, path=tmp_path / "both")
    grown = build(texts[:3], model_path=gguf, path=tmp_path / "grown")
    documents = [Document(page_content=text) for text in texts[3:6]]
    told: list[int] = []
    n_before = len(grown)
    grown.append(documents, model_path=gguf, progress=told.append)
    assert sum(told) == len(grown) - n_before > 0
    assert len(both) == len(grown) == len(KNNDatastore.load(grown.path))
    for name in ("keys.npy", "tokens.npy"):
        ours = (grown.path / name).read_bytes()
        assert ours == (both.path / name).read_bytes()


# Bad input


def test_a_datastore_of_another_model(
    make: Any,
    folder: Path,
    templateless_gguf: str,
    texts: list[str],
) -> None:
    llm = make(model_path=templateless_gguf)  # loading is lazy
    for _ in range(2):
        with pytest.raises(DatastoreError, match=r"store' was made by SmolLM2.*templ"):
            llm.invoke("Once")
    copy = KNNDatastore.load(folder)
    with pytest.raises(DatastoreError, match=r"not by templateless"):
        copy.append(texts[:1], model_path=templateless_gguf)
    assert len(KNNDatastore.load(folder)) == len(copy)
    assert make().invoke("Once")


@pytest.mark.parametrize("name", ["keys.npy", "tokens.npy"])
def test_a_truncated_file(name: str, make: Any, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatastoreError, match=str(file)):
        make(datastore=copy)
    file.write_bytes(whole)
    assert make(datastore=copy).invoke("Once") == make().invoke("Once")


def test_no_datastore(make: Any, tmp_path: Path) -> None:
    with pytest.raises(DatastoreError, match=rf"{tmp_path}.*KNNDatastore\.build"):
        make(datastore=tmp_path)
    with pytest.raises(ValidationError, match="dict"):
        make(datastore={"not": "a store"})


def test_a_manifest_of_something_else(make: Any, tmp_path: Path) -> None:
    (tmp_path / "datastore.json").write_text(json.dumps({"name": "mine"}))
    with pytest.raises(DatastoreError, match=r"datastore\.json"):
        make(datastore=tmp_path)


def test_more_neighbours_than_entries(
    make: Any, store_of: Callable[[str], KNNDatastore]
) -> None:
    n = len(store_of("flat"))
    assert make(k=n, max_tokens=2).invoke("Once")
    with pytest.raises(ValidationError, match=rf"the {n} entries.*got {n + 1}"):
        make(k=n + 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("k", 0),
        ("interpolation", -0.1),
        ("interpolation", 1.5),
        ("knn_temperature", 0),
        ("speculation_stride", 0),
        ("speculation_stride", "often"),
        ("max_tokens", 0),
        ("temperature", -1),
        ("n_threads", 0),
    ],
)
def test_numbers_out_of_range(make: Any, name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"{name}[^@]*input_value={value!r}"):
        make(**{name: value})


def test_unknown_arguments(make: Any) -> None:
    with pytest.raises(UnknownArgumentError, match=r"'interpolate'.*'interpolation'"):
        make(interpolate=0.5)
    llm = make()
    with pytest.raises(UnknownArgumentError, match=r"'max_token'.*'max_tokens'"):
        llm.invoke("Once", max_token=3)
    with pytest.raises(UnknownArgumentError, match="'interpolation' cannot be given"):
        llm.invoke("Once", interpolation=0.5)
    with pytest.raises(ValidationError, match="input_value=-2"):
        llm.invoke("Once", temperature=-2)
    assert llm.invoke("Once")


def test_prompts_that_cannot_be_continued(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make(n_ctx=512)
    text = llm.invoke("Once")
    searches: list[int] = []
    search = KNNDatastore.search

    def spy(self: KNNDatastore, queries: Any, k: int) -> Any:
        searches.append(len(queries))
        return search(self, queries, k)

    monkeypatch.setattr(KNNDatastore, "search", spy)
    with pytest.raises(InvalidValueError, match="prompt is empty"):
        llm.invoke("")
    with pytest.raises(ContextOverflowError, match=r"n_ctx=512"):
        llm.invoke("word " * 600)
    with pytest.raises(ContextOverflowError, match=r"max_tokens=512"):
        llm.invoke("Once", max_tokens=512)
    with pytest.raises(ContextOverflowError):
        llm.generate(["Once", "word " * 600])
    assert not searches, "nothing was done before the refusal"
    assert llm.invoke("Once") == text


def test_a_context_may_be_filled_to_the_last_token(
    make: Any,
) -> None:
    llm = make(n_ctx=128, speculation_stride=8, interpolation=0.0)
    prompt = "one two " * 50
    room = 128 - llm.get_num_tokens(prompt)
    assert room > 0
    run = llm.model_copy(update={"max_tokens": room}).start(prompt)
    "".join(run)
    assert run.finish_reason == "length"
    assert len(run.tokens) == room


def test_missing_model_file(make: Any, tmp_path: Path) -> None:
    llm = make(model_path="/no/such/model.gguf")  # loading is lazy
    with pytest.raises(ModelFileError, match=r"/no/such/model\.gguf"):
        llm.invoke("Once")
    with pytest.raises(ModelFileError, match=r"/no/such/model\.gguf"):
        KNNDatastore.build(["a b c"], model_path="/no/such/model.gguf", path=tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("given", "reason"),
    [([], "no two tokens"), ([""], "no two tokens"), ("one string", "'one string'")],
)
def test_texts_that_say_nothing(
    given: Any, reason: str, gguf: str, reader: Model, tmp_path: Path
) -> None:
    with pytest.raises(InvalidValueError, match=reason):
        KNNDatastore.build(given, model_path=gguf, path=tmp_path / "store")
    assert not [*tmp_path.iterdir()]


def test_a_datastore_that_dies_during_verification(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make(speculation_stride=4)
    text = llm.invoke("Once")
    search, count = KNNDatastore.search, itertools.count()

    def fail_later(self: KNNDatastore, queries: Any, k: int) -> Any:
        if next(count):
            raise OSError("the disk is on fire")
        return search(self, queries, k)

    with monkeypatch.context() as patch:
        patch.setattr(KNNDatastore, "search", fail_later)
        stream = llm.stream("Once")
        shown = next(stream)
        with pytest.raises(OSError, match="on fire"):
            list(stream)
    assert text.startswith(shown)
    assert llm.invoke("Once") == text


@pytest.mark.parametrize("close", [True, False])
def test_a_stream_abandoned_half_way(make: Any, close: bool) -> None:
    llm = make(speculation_stride=4)
    text = llm.invoke("Once")
    abandoned: list[Any] = []
    for _ in range(6):  # more than the context has slots
        stream: Any = llm.stream("Once")
        next(stream)
        if close:
            stream.close()
        abandoned.append(stream)
    assert llm.invoke("Once") == text
    if not close:  # and whoever comes back to it finds it as it was
        head = next(llm.stream("Once"))
        assert head + "".join(abandoned[0]) == text


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
