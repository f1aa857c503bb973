"""What the loops rely on, with a real model: the same calls, the same bits."""

import gc
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from langchain_ralmspec import ContextOverflowError, ModelFileError
from langchain_ralmspec.engine import Model, Sequence, context
from langchain_ralmspec.engine.kv import Snapshot
from langchain_ralmspec.engine.model import N_SLOTS
from langchain_ralmspec.engine.selftest import is_repeatable
from langchain_ralmspec.engine.templates import ChatTemplate
from langchain_ralmspec.errors import DecodeError, InvalidValueError

TEXT = (
    "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor "
    "jugs. How vexingly quick daft zebras jump! Sphinx of black quartz, judge my vow. "
) * 4


@pytest.fixture(scope="module")
def tokens(model: Model) -> list[int]:
    return model.weights.tokenize(TEXT)


def continue_with(sequence: Sequence, tokens: list[int]) -> np.ndarray:
    """A tail in one batch and then single tokens, as the writer decodes them."""
    rows = [sequence.extend(tokens[:9])]
    rows += [sequence.extend([token]) for token in tokens[9:14]]
    return np.stack(rows)


def test_the_self_test_passes_here(model: Model) -> None:
    assert is_repeatable(model)


def test_an_opened_prefix_is_the_same_computed_or_copied(
    model: Model, tokens: list[int]
) -> None:
    model.forget_prefixes()
    computed = model.open(tokens[:90])
    copied = model.open(tokens[:90])
    assert computed._kv.parked is None
    assert copied._kv.parked is not None, "the second one comes from the cache"
    assert np.array_equal(
        continue_with(computed, tokens[90:]), continue_with(copied, tokens[90:])
    )


def test_rolling_back_is_exact(model: Model, tokens: list[int]) -> None:
    sequence = model.open(tokens[:70])
    first = continue_with(sequence, tokens[70:])
    sequence.truncate(70)
    continue_with(sequence, tokens[20:])  # something else in the same cells
    sequence.truncate(70)
    assert np.array_equal(continue_with(sequence, tokens[70:]), first)


def test_more_sequences_than_slots_do_not_disturb_one_another(
    model: Model, tokens: list[int]
) -> None:
    alone = continue_with(model.open(tokens[:40]), tokens[40:])
    many = [model.open(tokens[:40]) for _ in range(2 * N_SLOTS)]
    for i, sequence in enumerate(many):  # all different
        sequence.extend(tokens[i : i + 3])
        sequence.truncate(40)
    rows: list[list[np.ndarray]] = [[] for _ in many]
    chunks = [tokens[40:49], *([t] for t in tokens[49:54])]
    for chunk in chunks:  # round robin: every call evicts somebody
        for sequence, logits in zip(many, rows, strict=True):
            logits.append(sequence.extend(chunk))
    assert sum(sequence._kv.slot is not None for sequence in many) <= N_SLOTS
    for logits in rows:
        assert np.array_equal(np.stack(logits), alone)


def test_the_slots_of_forgotten_sequences_are_used_again(
    model: Model, tokens: list[int]
) -> None:
    for _ in range(5 * N_SLOTS):
        model.open(tokens[:20]).extend(tokens[20:25])
    kept = model.open(tokens[:20])
    kept.extend(tokens[20:25])
    model.open(tokens[:20]).extend(tokens[20:25])
    assert kept._kv.parked is None, "nothing alive had to make room"


def test_a_failure_while_moving_in_hurts_nobody_else(
    model: Model, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = continue_with(model.open(tokens[:40]), tokens[40:])
    many = [model.open(tokens[:40]) for _ in range(N_SLOTS)]
    for sequence in many:  # all slots are taken now
        sequence.extend(tokens[40:49])

    def fail(slot: int, state: object) -> None:
        msg = "no memory"
        raise MemoryError(msg)

    late = model.open(tokens[:40])
    with monkeypatch.context() as patch:
        patch.setattr(model._slots._context, "load", fail)
        for _ in range(2 * N_SLOTS):  # each try parks somebody
            with pytest.raises(MemoryError):
                late.extend(tokens[40:49])
    assert np.array_equal(continue_with(late, tokens[40:]), alone)
    for sequence in many:
        rows = [sequence.extend([token]) for token in tokens[49:54]]
        assert np.array_equal(np.stack(rows), alone[1:])


@pytest.mark.parametrize("flash_attention", [True, False])
def test_no_bit_hangs_on_how_much_a_context_has_grown(
    gguf: str,
    tokens: list[int],
    monkeypatch: pytest.MonkeyPatch,
    flash_attention: bool,
) -> None:
    text = (tokens * 20)[:1300]

    def read() -> tuple[list[int], list[np.ndarray]]:
        model = Model.load(gguf, n_ctx=4000, flash_attention=flash_attention)
        sizes, logits = [model._slots._context.n_cells], []
        other, sequence = model.new_sequence(), model.open(text[:900], keep=False)
        other.extend(text[:30])
        sizes.append(model._slots._context.n_cells)
        logits = [sequence.extend(text[900:1010]), sequence.extend(text[1010:1300])]
        logits += [*sequence.observe(text[:3]), other.extend(text[30:33])]
        sizes.append(model._slots._context.n_cells)
        return sizes, logits

    sizes, grown = read()
    assert sizes == [1024, 1024, 2048]
    gc.collect()
    monkeypatch.setattr(context, "_FIRST_CELLS", 4096)
    sizes, whole = read()
    assert sizes == [4096] * 3
    for one, other in zip(grown, whole, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("n_failures", [1, 2])
def test_a_context_that_cannot_grow_is_an_error_and_not_the_end(
    gguf: str, tokens: list[int], monkeypatch: pytest.MonkeyPatch, n_failures: int
) -> None:
    small = Model.load(gguf, n_ctx=3000)
    other, long = small.open(tokens[:60], keep=False), small.new_sequence()
    expected = continue_with(other, tokens[60:])
    other.truncate(60)
    lib = small._slots._context._lib
    allocate, left = lib.llama_init_from_model, n_failures

    def fail(*given: Any) -> Any:
        nonlocal left
        left -= 1
        return None if left >= 0 else allocate(*given)

    own = SimpleNamespace(**{**vars(lib), "llama_init_from_model": fail})
    monkeypatch.setattr(small._slots._context, "_lib", own)
    with pytest.raises(DecodeError, match="cannot allocate a context of 4 × 2048"):
        long.extend((tokens * 20)[:1500])
    assert np.array_equal(continue_with(other, tokens[60:]), expected)
    long.extend((tokens * 20)[:1500])


def test_a_model_that_stretches_positions_has_all_its_room_at_once(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = model.weights
    assert not weights.stretches_positions
    monkeypatch.setattr(weights, "_content", b"... rope_factors_long ...")
    assert weights.stretches_positions
    room = context.Context(weights, n_ctx=3000, n_slots=1, n_batch=64, n_threads=(1, 1))
    assert room.n_cells == 3072


def test_too_many_tokens_are_refused_before_any_is_decoded(
    gguf: str, tokens: list[int]
) -> None:
    small = Model.load(gguf, n_ctx=256)
    sequence = small.open(tokens[:60])
    expected = continue_with(sequence, tokens[60:])
    sequence.truncate(60)
    with pytest.raises(ContextOverflowError, match=r"260 tokens .*n_ctx=256"):
        sequence.extend(tokens[:200] if len(tokens) >= 200 else (tokens * 4)[:200])
    assert sequence.length == 60
    assert np.array_equal(continue_with(sequence, tokens[60:]), expected)


def test_what_a_sequence_cannot_do_is_refused(model: Model) -> None:
    with pytest.raises(InvalidValueError, match="at least one token"):
        model.new_sequence().extend([])
    with pytest.raises(InvalidValueError, match="3 tokens to 4"):
        model.open(model.weights.tokenize("a b c")[:3]).truncate(4)


def test_a_model_is_shared_while_a_sequence_of_it_lives(gguf: str) -> None:
    model = Model.load(gguf, n_ctx=320)
    known, sequence = weakref.ref(model), model.new_sequence()
    del model
    gc.collect()
    assert Model.load(gguf, n_ctx=320) is known()
    del sequence
    gc.collect()
    assert known() is None


@pytest.mark.parametrize(
    "text", ["plain", "naïve café", "日本語 and 😀", "  spaces\n\n"]
)
def test_pieces_spell_the_text(model: Model, text: str) -> None:
    weights = model.weights
    spelt = b"".join(map(weights.piece, weights.tokenize(text)))
    assert spelt.decode() == text


def test_control_tokens_in_text_are_only_text(model: Model) -> None:
    weights = model.weights
    end = weights.token_text(weights.eos)
    assert weights.is_end(weights.eos)
    assert weights.eos not in weights.tokenize(f"a {end} b")
    assert weights.eos in weights.tokenize(f"a {end} b", special=True)


def test_the_template_of_the_model_is_rendered(model: Model) -> None:
    rendered = ChatTemplate(model.weights).render([{"role": "user", "content": "Hi"}])
    assert rendered.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_a_file_that_is_missing_or_no_gguf_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"/no/such\.gguf"):
        Model.load("/no/such.gguf")
    file = tmp_path / "text.gguf"
    file.write_text("once upon a time")
    with pytest.raises(ModelFileError, match=r"text\.gguf.*not a GGUF.*b'once'"):
        Model.load(file)


def test_a_truncated_file_is_refused_and_the_whole_one_still_loads(
    gguf: str, model: Model, tmp_path: Path
) -> None:
    file = tmp_path / "half.gguf"
    shutil.copy(gguf, file)
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)
    with pytest.raises(ModelFileError, match=r"cannot load .*half\.gguf"):
        Model.load(file)
    assert Model.load(gguf) is model


def test_a_loaded_model_needs_neither_its_file_nor_the_working_directory(
    gguf: str,
    model: Model,
    tokens: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = continue_with(model.open(tokens[:40], keep=False), tokens[40:])
    messages = [{"role": "user", "content": "Hi"}]
    shutil.copy(gguf, tmp_path / "some.gguf")
    monkeypatch.chdir(tmp_path)
    loaded = Model.load("some.gguf", kv_cache_dir="kv")
    Path("some.gguf").unlink()
    monkeypatch.chdir("/")

    for _ in range(2):  # computed, and read from the folder
        loaded.forget_prefixes()
        opened = loaded.open(tokens[:40])
        assert np.array_equal(continue_with(opened, tokens[40:]), expected)
        loaded.flush()
    assert len(list((tmp_path / "kv").glob("*.kv"))) == 1
    assert loaded.template.render(messages) == model.template.render(messages)
    assert is_repeatable(loaded)
    assert loaded.path == tmp_path / "some.gguf"
    assert loaded.weights.sha256 == model.weights.sha256


@pytest.mark.parametrize("replaced", [False, True])
def test_the_checksum_is_that_of_what_was_loaded(
    gguf: str, model: Model, tmp_path: Path, replaced: bool
) -> None:
    shutil.copy(gguf, tmp_path / "some.gguf")
    loaded = Model.load(tmp_path / "some.gguf")
    (tmp_path / "some.gguf").unlink()
    if replaced:
        (tmp_path / "some.gguf").write_text("something else")
    assert loaded.weights.sha256 == model.weights.sha256


def test_what_a_token_takes_is_known(model: Model, tokens: list[int]) -> None:
    sizes = [model.open(tokens[:n], keep=False).save().state.nbytes for n in (20, 60)]
    # And a place of some bytes in the state.
    taken = (sizes[1] - sizes[0]) / 40
    assert 0 <= taken - model.weights.kv_bytes_per_token < 64


def test_the_memory_of_prefixes_stays_within_its_bound(
    gguf: str, tokens: list[int]
) -> None:
    one = Model.load(gguf).open(tokens[:50], keep=False).save().state.nbytes
    small = Model.load(gguf, kv_cache_bytes=3 * one)
    for start in range(20):
        small.open(tokens[start : start + 50])
        kept = small._prefixes._kept.values()
        assert sum(each.snapshot.state.nbytes for each in kept) <= 3 * one
    assert len(kept) == 3


def forged(state: np.ndarray, how: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    return {
        "empty": state[:0],
        "zeros": np.zeros_like(state),
        "random": rng.integers(0, 256, len(state), np.uint8),
        "truncated": state[: len(state) // 2],
        "longer": np.concatenate([state, state]),
    }[how]


@pytest.mark.parametrize(
    "how", ["empty", "zeros", "random", "truncated", "longer", "no", "another"]
)
def test_a_forged_prefix_is_computed_anew(
    gguf: str, tokens: list[int], tmp_path: Path, how: str
) -> None:
    expected = continue_with(Model.load(gguf).open(tokens[:40]), tokens[40:])
    first = Model.load(gguf, kv_cache_dir=tmp_path)
    true = first.open(tokens[:40]).save()
    other = first.new_sequence()
    if how == "another":
        other.prefill(tokens[:30])
    state = other.save().state if how in {"no", "another"} else forged(true.state, how)
    folder = first._prefixes._folder
    assert folder is not None
    for _ in range(2):
        first.flush()
        folder.put(first._prefixes.heads([tokens[:40]]), Snapshot(40, state))
        first.forget_prefixes()
        with pytest.warns(RuntimeWarning, match="not their KV"):
            opened, n_kept = first.find_or_open(tokens[:40])
        assert n_kept == 0
        assert np.array_equal(continue_with(opened, tokens[40:]), expected)


@pytest.mark.parametrize(
    ("settings", "are_equal"),
    [
        ({"use_mmap": False}, True),
        ({"use_mlock": True}, True),
        ({"rope_freq_base": 500_000.0}, False),
        ({"rope_freq_scale": 0.5}, False),
    ],
)
def test_how_it_is_loaded_and_where_positions_are(
    gguf: str, tokens: list[int], tmp_path: Path, settings: Any, are_equal: bool
) -> None:
    usual = Model.load(gguf, n_ctx=128, kv_cache_dir=tmp_path)
    model = Model.load(gguf, n_ctx=128, kv_cache_dir=tmp_path, **settings)
    assert model is not usual
    one, other = (
        continue_with(own.open(tokens[:40]), tokens[40:60]) for own in (usual, model)
    )
    assert np.array_equal(one, other) == are_equal
    usual.flush()
    model.flush()
    assert len([*tmp_path.glob("*.kv")]) == 2 - are_equal, "others have their own KV"


@pytest.mark.parametrize(
    ("n", "folder"), [(256, True), (300, False), (512, False), (700, True)]
)
def test_what_is_longer_serves_what_it_begins_with(
    gguf: str, tokens: list[int], tmp_path: Path, n: int, *, folder: bool
) -> None:
    """In whole parts, be they all that is asked for."""
    text = (tokens * 9)[:800]
    plain = Model.load(gguf, kv_cache_bytes=0).find_or_open(text[:n], part=256)[0]
    expected = continue_with(plain, text[n : n + 20])
    where = tmp_path if folder else None
    own = Model.load(gguf, kv_cache_bytes=2**29 + 2, kv_cache_dir=where)
    own.find_or_open(text, part=256)
    if folder:
        own.flush()
        own.forget_prefixes()
    sequence, n_kept = own.find_or_open(text[:n], part=256)
    assert (sequence.length, n_kept) == (n, n // 256 * 256)
    assert np.array_equal(continue_with(sequence, text[n : n + 20]), expected)


def test_what_cannot_be_cut_begins_with_what_was_kept_alone(
    gguf: str, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a recurrent model."""
    before, rest = (tokens * 9)[:40], (tokens * 9)[40:540]
    own = Model.load(gguf, kv_cache_bytes=2**29 + 6)
    own.find_or_open([*before, *rest], part=256, ends=[40, 300, 540])

    def refuse(*_: Any) -> None:
        raise DecodeError("it cannot be rolled back")

    monkeypatch.setattr(Sequence, "truncate", refuse)
    other = [*before, *rest[:260], *rest[:90]]
    sequence, n_kept = own.find_or_open(other, part=256, ends=[40, 300, 390])
    assert (sequence.length, n_kept) == (390, 40)
    plain = Model.load(gguf, kv_cache_bytes=0)
    expected = plain.find_or_open(other, part=256, ends=[40, 300, 390])[0]
    assert np.array_equal(
        continue_with(sequence, tokens[:20]), continue_with(expected, tokens[:20])
    )
