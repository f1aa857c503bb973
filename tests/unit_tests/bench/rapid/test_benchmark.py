import gc
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec.bench.rapid import benchmark
from langchain_ralmspec.bench.rapid.benchmark import Benchmark, warm_up_question
from langchain_ralmspec.bench.rapid.contest import LongContest
from langchain_ralmspec.bench.rapid.documents import QUOTED_WORDS, Sample
from langchain_ralmspec.bench.rapid.report import report
from langchain_ralmspec.errors import InvalidValueError
from tests.unit_tests.bench.rapid.fakes import FakeChain, FakeEngine, Letters
from tests.unit_tests.bench.rapid.test_documents import written
from tests.unit_tests.cli.shell import printed, run
from tests.unit_tests.scripts.cells import cells

SUMMARY = {
    "speedup_median", "speedup_sums", "ceiling", "attainable", "identical",
    "questions", "acceptance", "second_ttft_speedup",
}  # fmt: skip
CONTEXT = " ".join(f"the cat sat on mat {n}." for n in range(40))
Settings = list[dict[str, Any]]

pytestmark = pytest.mark.usefixtures("settings")


@pytest.fixture
def answers() -> dict[bool, str]:
    """What rows say, by whether they draft."""
    return {False: "the cat sat", True: "the cat sat"}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, answers: dict[bool, str]) -> Settings:
    """Fake models; collects what chains are made of."""
    made: Settings = []
    engine, log = FakeEngine(), []  # type: ignore[var-annotated]

    def chain(**given: Any) -> FakeChain:
        made.append(given)
        drafts = given["draft_length"] != 0
        a_token = 0.25 if drafts else 1.0
        return FakeChain(
            "", engine, log, answers[drafts], a_token=a_token, drafts=drafts, dropped=9
        )

    monkeypatch.setattr(gc, "collect", lambda: 0)  # takes long in a test run
    monkeypatch.setattr(benchmark, "RapidChain", chain)
    monkeypatch.setattr(benchmark, "find_gguf", lambda name: f"{name}.gguf")
    monkeypatch.setattr(benchmark, "find_embeddings", lambda name: Letters())
    return made


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    record = {"question": "who?", "answers": ["the cat"]}
    contexts = (CONTEXT, CONTEXT, f"{CONTEXT} again")
    return written(tmp_path, *(record | {"context": context} for context in contexts))


def test_the_figures_say_what_was_measured(documents: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    Benchmark(documents=documents, drafter="self", json=file).run()
    figures = json.loads(file.read_text(encoding="utf-8"))
    summary = figures["summary"]
    assert set(summary) == SUMMARY
    expected = {"questions": 3, "identical": True, "acceptance": 0.5}
    assert expected.items() <= summary.items()
    assert summary["speedup_median"] == pytest.approx(4.0)
    assert summary["second_ttft_speedup"] == pytest.approx(100, rel=0.1)
    assert summary["attainable"] >= 1
    assert figures["rows"]["SD"]["oracle"] >= summary["attainable"]
    assert figures["provenance"]["machine"]["cores"]
    assert figures["workload"]["contexts"] == 2
    assert list(figures["rows"]) == ["plain", "rag", "SD", "RAPID η=5"]
    plain, drafting = figures["rows"]["plain"], figures["rows"]["SD"]
    assert plain["decode"]["quartiles"] == [1.0, 1.0, 1.0]
    assert plain["lengths"] == {"0": 30}
    assert plain["attainable"] == 1.0
    assert drafting["decode_of_totals"] == pytest.approx(4.0)
    assert drafting["reached"] == pytest.approx(4.0 / drafting["attainable"])
    # 10 s for the first token; ten more take 10 s or 2.5 s.
    first, second = drafting["first_question"], drafting["second_question"]
    assert first["quartiles"][1] == pytest.approx(20 / 12.5, rel=0.05)
    assert second["quartiles"][1] == pytest.approx(10.1 / 2.6, rel=0.05)
    assert drafting["quality"]["contains"] == 1.0
    assert figures["rows"]["rag"]["attainable"] is None
    assert [sample["is_first"] for sample in figures["samples"]] == [True, False, True]
    answer = figures["samples"][0]["rows"]["SD"]
    assert answer["text"] == "the cat sat"
    assert answer["stats"]["dropped_tokens"] == 9
    assert answer["rounds"][0] == ["lookup", 2, 1]
    assert figures["batch_costs"][0]["seconds"]["32"] > 0
    _check_tables_of_the_docs(figures)


def _check_tables_of_the_docs(figures: dict[str, Any]) -> None:
    shown = cells("rapid", figures)
    assert shown["speed-up, median (quartiles)"] == "**4.00** (4.00–4.00)"
    assert (shown["answers"], shown["differ"]) == ("3", "0")
    assert (shown["acceptance"], shown["plain, tokens/s"]) == ("50%", "1.0")
    parts = ("/where_quoting", "/where_not_quoting")
    shown_of = [cells("rapid", figures, part)["answers"] for part in parts]
    assert sorted(shown_of) == ["0", "3"]
    quality = cells("quality", figures, "RAPID η=5")
    assert quality["as plain decoding"] == "3 of 3"
    assert quality["contains it"] == "100%"
    assert all(cells("pass-costs", figures).values())
    first = cells("first-token", figures)
    assert first["first question about a text"] == "10.0"
    assert first["with the KV read from `kv_cache_dir`"] == ""


def test_rows_differ_in_how_they_draft_only(
    documents: Path, settings: Settings
) -> None:
    Benchmark(
        documents=documents, drafter="self", eta=[5.0, 20.0], transfer="exact"
    ).run()
    plain, rag, sd, *transfers = settings
    assert plain["draft_length"] == rag["draft_length"] == 0
    expected = {"drafter": "self", "draft_length": "auto", "transfer": "off"}
    assert expected.items() <= sd.items()
    assert [one["eta"] for one in transfers] == [5.0, 20.0]
    assert all(one["transfer"] == "exact" for one in transfers)
    # What the target is loaded with, or they would not share it.
    for name in ("model_path", "n_ctx", "n_threads", "exact_batches", "kv_cache_dir"):
        assert len({one[name] for one in settings}) == 1
    assert {one["truncation"] for one in settings} == {"end"}
    assert {one["temperature"] for one in settings} == {0.0}


@pytest.mark.parametrize(
    ("drafter", "n_gpu_layers", "given", "has_transfer"),
    [
        ("auto", 0, "auto", False),
        ("auto", -1, "auto", True),
        ("lookup", 0, "lookup", False),
        ("self", 0, "self", True),
        ("other", 0, "other.gguf", True),
        ("text:other", 0, "text:other.gguf", False),
    ],
)
def test_transfer_needs_a_drafter_with_probabilities(
    documents: Path,
    settings: Settings,
    drafter: str,
    n_gpu_layers: int,
    given: str,
    *,
    has_transfer: bool,
) -> None:
    bench = Benchmark(documents=documents, drafter=drafter, n_gpu_layers=n_gpu_layers)
    figures = bench.run()
    assert settings[2]["drafter"] == given
    assert ("RAPID η=5" in figures["rows"]) is has_transfer
    assert any("No RAPID row" in note for note in figures["notes"]) is not has_transfer
    reads = drafter == "text:other" or has_transfer
    assert ("embeddings" in settings[2]) is reads


def test_one_answer_that_differs_is_said_with_its_margin(
    documents: Path, answers: dict[bool, str], capsys: Any
) -> None:
    answers[True] = "the dog"
    figures = Benchmark(documents=documents).run()
    assert figures["summary"]["identical"] is False
    (found, *_) = figures["rows"]["SD"]["divergences"]
    assert found["sample"] == 1
    assert found["position"] == 4
    said = capsys.readouterr().out
    assert "sample 1, token 5: plain 'c', SD 'd', margin 5.000 logits" in said
    assert said.endswith("SD identical to plain decoding: NO\n")


def test_the_report_reads_without_colours(documents: Path) -> None:
    figures = Benchmark(documents=documents).run()
    said = printed(report, figures)
    assert "…" not in said  # nothing is cut off in a usual terminal
    for part in (
        " plain ", " rag ", " SD ",
        "3 questions (qa) about 2 contexts",
        "3 of 3",
        "No RAPID row",
        "SD: drafts of 2 (100%) tokens in 15 passes",
        "best",
        "oracle",
        "An untimed question, none of the measured ones,",
        "once per model and context length",
        "3 of 3 contexts were too long: up to 9 tokens",
    ):  # fmt: skip
        assert part in said
    assert "the same where" not in said  # all are alike
    assert said.endswith("SD identical to plain decoding: yes\n")
    # Answers that quote are told from others.
    for row in figures["rows"].values():
        faster, same = {"quartiles": (7.0, 8.25, 9.0)}, {"quartiles": (1.0, 1.5, 2.0)}
        row["where_quoting"] |= {"n_answers": 2, "decode": faster}
        row["where_not_quoting"] |= {"n_answers": 1, "decode": same}
    whole, quoting, others = printed(report, figures).split("the same where ")
    assert "8.25×" not in whole
    assert quoting.startswith("answers quote (2 of 3)")
    assert "8.25×" in quoting
    assert others.startswith("they do not (1 of 3)")
    assert "1.50×" in others


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_what_was_asked_is_kept_when_it_is_interrupted(
    documents: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: signal.Signals,
) -> None:
    # A shell's background jobs are started deaf to Ctrl-C.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM)
    ask, n_asked = LongContest.ask, 0

    def interrupted(self: LongContest, sample: Sample, warm_up: Sample) -> Any:
        nonlocal n_asked
        if n_asked == most:
            signal.raise_signal(how)
        n_asked += 1
        return ask(self, sample, warm_up)

    monkeypatch.setattr(LongContest, "ask", interrupted)
    file, most = tmp_path / "figures.json", 2
    Benchmark(documents=documents, json=file).run()
    assert json.loads(file.read_text())["summary"]["questions"] == 2
    assert signal.getsignal(signal.SIGTERM) == before
    n_asked = most = 0
    with pytest.raises(KeyboardInterrupt):
        Benchmark(documents=documents).run()
    signal.signal(signal.SIGINT, heard)


@pytest.fixture
def warmed(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> list[Sample]:
    """What rows are warmed up with."""
    seen: list[Sample] = []
    ask = LongContest.ask

    def watched(self: Any, sample: Sample, warm_up: Sample) -> Any:
        seen.append(warm_up)
        return ask(self, sample, warm_up)

    monkeypatch.setattr(LongContest, "ask", watched)
    return seen


def test_the_warm_up_is_a_question_beyond_the_limit(
    tmp_path: Path, warmed: list[Sample]
) -> None:
    given = [(CONTEXT, "who?"), ("other", "why?"), (CONTEXT, "who?"), (CONTEXT, "how?")]
    file = written(tmp_path, *({"context": c, "question": q} for c, q in given))
    Benchmark(documents=file, limit=2, rows="plain").run()
    assert {(one.context, one.question) for one in warmed} == {(CONTEXT, "how?")}


def test_the_warm_up_of_quotations_is_a_paragraph_that_is_left(
    tmp_path: Path, warmed: list[Sample]
) -> None:
    texts = [" ".join(f"{name}{n}" for n in range(80)) for name in "ab"]
    file = written(tmp_path, *[{"context": "\n\n".join(texts)}] * 2)
    figures = Benchmark(documents=file, task="quote", limit=1, rows="plain").run()
    (asked,) = [sample["question"] for sample in figures["samples"]]
    assert {asked[0], warmed[0].question[0]} == {"a", "b"}
    # Where none is left, something is made up.
    Benchmark(documents=file, task="quote", rows="plain").run()
    assert warmed[-1].question == "What is this text about?"


def test_no_measured_question_warms_up() -> None:
    samples = [Sample("a", "1"), Sample("a", "2"), Sample("b", "3")]
    made_up = Sample("a", "What is this text about?")
    assert warm_up_question(samples, []) == made_up
    # Of another context, or asked already.
    assert warm_up_question(samples, [Sample("b", "4"), Sample("a", "2")]) == made_up
    assert warm_up_question(samples, [Sample("a", "3")]) == Sample("a", "3")


def test_quotations_have_a_prompt_of_their_own(
    tmp_path: Path, settings: Settings
) -> None:
    file = written(tmp_path, {"context": " ".join(f"word{n}" for n in range(80))})
    figures = Benchmark(documents=file, task="quote").run()
    assert settings[0]["prompt_template"].endswith('"{question}')
    (sample,) = figures["samples"]
    assert sample["question"] == " ".join(f"word{n}" for n in range(QUOTED_WORDS))


def test_the_folder_is_empty_before_and_after_and_rows_may_be_left_out(
    documents: Path, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "kv"
    figures = Benchmark(documents=documents, kv_cache_dir=folder, rows="plain").run()
    assert Path(settings[0]["kv_cache_dir"]).parent == folder
    assert list(folder.iterdir()) == []
    assert figures["workload"]["kv_cache_dir"] == str(folder)
    assert list(figures["rows"]) == ["plain"]
    assert figures["summary"]["speedup_median"] == 1.0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rows": "SD,RAG"}, "'RAG'"),
        ({"eta": [-1.0]}, "-1.0"),
        ({"draft_length": "-1"}, "the draft length is auto or"),
        ({"documents": Path("nowhere.jsonl")}, r"nowhere\.jsonl"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(benchmark, "find_gguf", lambda model: pytest.fail("too late"))
    with pytest.raises(InvalidValueError, match=said):
        Benchmark(**given).run()


@pytest.mark.parametrize(
    ("said", "options", "code"),
    [
        ("the cat sat", "--exact-batches", 0),
        ("the dog", "--exact-batches", 1),
        ("the dog", "--limit=3", 0),
        ("the dog", "--exact-batches --rows=RAPID --drafter=self", 0),
    ],
)
def test_exact_batches_must_keep_their_promise(
    documents: Path, answers: dict[bool, str], said: str, options: str, code: int
) -> None:
    answers[True] = said
    given = ["--documents", str(documents), *options.split()]
    assert (run("bench", "rapid", *given) or 0) == code


def test_options_reach_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, documents: Path
) -> None:
    benches: list[Benchmark] = []

    def pretend(self: Benchmark) -> dict[str, Any]:
        benches.append(self)
        return {"rows": {}, "workload": {"exact_batches": False}}

    monkeypatch.setattr(Benchmark, "run", pretend)
    assert not run("bench", "rapid")
    assert not run(
"bench", "rapid", "--eta", "5", "--eta", "20", "--rows", "SD,rag",
        "--draft-length", "7", "--task", "quote", "--transfer", "exact",
        "--n-threads", "1",
    )  # fmt: skip
    assert benches[0] == Benchmark()
    assert benches[1] == Benchmark(
        eta=[5.0, 20.0],
        rows="SD,rag",
        draft_length="7",
        task="quote",
        transfer="exact",
        n_threads=1,
    )
