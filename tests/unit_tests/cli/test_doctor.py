import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from rich.console import Console

from langchain_ralmspec import machine
from langchain_ralmspec.cli.doctor import command
from langchain_ralmspec.cli.doctor.costs import (
    BATCH,
    Call,
    Costs,
    Judged,
    _by_documents,
    _usual_step,
)
from langchain_ralmspec.cli.doctor.facts import (
    Facts,
    ModelFacts,
    Settings,
    StoreFacts,
    ThreadFacts,
    inspect_store,
)
from langchain_ralmspec.cli.doctor.finding import Finding
from langchain_ralmspec.cli.doctor.findings import findings
from langchain_ralmspec.cli.doctor.gains import expect, is_hosted, is_remote
from langchain_ralmspec.cli.doctor.rehearsal import verification
from langchain_ralmspec.cli.doctor.target import load_target
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.speculation import Line
from langchain_ralmspec.speculation.plan import SEQUENTIAL
from langchain_ralmspec.stores import FaissStore, open_store
from tests.unit_tests.speculation.world import World, run
from tests.unit_tests.stores.toys import (
    BatchTableEmbeddings,
    TableEmbeddings,
    documents,
    table,
)


def calls(
    one: float,
    eight: float,
    *,
    embedding: float = 0.005,
    waiting: float = 0.0,
    embedding_waiting: float = 0.0,
) -> tuple[Call, ...]:
    return tuple(
        Call(
            n_queries=n,
            with_vectors=with_vectors,
            seconds=seconds,
            embedding=embedding,
            waiting=waiting,
            embedding_waiting=embedding_waiting,
        )
        for n, seconds in ((1, one), (BATCH, eight))
        for with_vectors in (False, True)
    )


HEALTHY = Facts(
    model=ModelFacts(
        file="/models/small.gguf",
        size=90_000_000,
        quantization="Q4_0",
        n_gpu_layers=0,
        n_ctx=2048,
        flash_attention="auto",
        repeatable=True,
    ),
    threads=ThreadFacts(
        usable_cores=4,
        cpu_quota=None,
        single=2,
        batch=4,
        openmp=machine.OPENMP_ENVIRONMENT | {"OMP_WAIT_POLICY": "active"},
        openmp_is_ours=False,
        openmp_users=("torch", "FAISS", "llama.cpp"),
        openmp_copies=("/a/libgomp.so", "/b/libgomp.so"),
    ),
    store=StoreFacts(
        name="FaissStore",
        n_documents=1_000_000,
        index="IndexFlatIP",
        is_exact=True,
        is_remote=False,
        one_by_one=False,
        embeddings="SentenceTransformerEmbeddings",
        embeds_in_batches=True,
        blas_threshold=128_000,
        scans_by_product=True,
    ),
    settings=Settings(
        speculation=True,
        speculation_stride="auto",
        asynchronous=True,
        guess_policy="auto",
    ),
    costs=Costs(
        prefill_rate=1500.0,
        decode=0.008,
        step=0.05,
        writing=0.032,
        unchanged=0.04,
        changed=0.075,
        calls=calls(0.1, 0.15),
        overlap={"lookup": 1.1, "same": 1.2},
        guesses={"lookup": Judged(right=7, n=7), "same": Judged(right=5, n=7)},
    ),
)

NOTHING_TO_WIN = {"costs": {"calls": calls(0.0006, 0.001, embedding=0.0001)}}
HOSTED: dict[str, dict[str, Any]] = {
    "store": {"embeddings": "OpenAIEmbeddings"},
    "costs": {"calls": calls(0.205, 0.21, embedding=0.2, embedding_waiting=0.19)},
}
REMOTE: dict[str, dict[str, Any]] = {
    "store": {"is_remote": True, "index": "HNSW", "is_exact": False},
    "costs": {"calls": calls(0.1, 0.11, waiting=0.09)},
}


def facts(changes: dict[str, dict[str, Any]]) -> Facts:
    parts = {
        part: dataclasses.replace(getattr(HEALTHY, part), **fields)
        for part, fields in changes.items()
    }
    return dataclasses.replace(HEALTHY, **parts)


def found(**changes: dict[str, Any]) -> dict[str, Finding]:
    sick = facts(changes)
    return {finding.about: finding for finding in findings(sick, expect(sick))}


def test_a_healthy_stack_is_fine() -> None:
    assert {finding.severity for finding in findings(HEALTHY, expect(HEALTHY))} == {
        "fine"
    }
    assert set(found()) == {
        "gain", "quantization", "threads", "wait policy", "repeatable", "asynchronous",
        "embeddings", "index", "FAISS threshold", "overlap", "flash attention",
    }  # fmt: skip


def waiting(policy: str, spins: str) -> dict[str, Any]:
    said = {"OMP_WAIT_POLICY": policy, "GOMP_SPINCOUNT": spins}
    return {"threads": {"openmp": machine.OPENMP_ENVIRONMENT | said}}


PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
WITHOUT_KMP = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "1000"}
ONCE = {"retrieves_once": True}
LOOKUP, ONE_BY_ONE = {"guess_policy": "lookup"}, {"one_by_one": True}
NO_BATCHES, NO_PRODUCT = {"embeds_in_batches": False}, {"scans_by_product": False}
LONG_EMBEDDING = {"costs": {"calls": calls(0.1, 0.15, embedding=0.095)}}
ONE_BY_ONE_SCAN = {"costs": {"calls": calls(0.1, 0.7)}}

SICK: list[tuple[dict[str, Any], str, str]] = [
    (NOTHING_TO_WIN, "gain", "worth knowing"),
    ({"model": {"quantization": "Q4_1"}}, "quantization", "slow"),
    ({"model": {"quantization": "IQ2_XS"}}, "quantization", "worth knowing"),
    ({"model": {"quantization": None}}, "quantization", "worth knowing"),
    ({"model": {"n_ctx": 8192}}, "flash attention", "worth knowing"),
    ({"model": {"repeatable": False}}, "repeatable", "slow"),
    ({"threads": {"single": 8, "batch": 8}}, "threads", "slow"),
    ({"threads": {"cpu_quota": 2.0}}, "threads", "slow"),
    ({"threads": {"batch": 2}}, "threads", "worth knowing"),
    ({"threads": {"single": 4}}, "threads", "worth knowing"),
    ({"threads": {"openmp": {}}}, "wait policy", "slow"),
    ({"threads": {"openmp": {"OMP_WAIT_POLICY": "ACTIVE"}}}, "wait policy", "slow"),
    (waiting("PASSIVE", "INFINITE"), "wait policy", "slow"),
    (waiting("ACTIVE", "300000"), "wait policy", "slow"),
    (waiting("PASSIVE", "1000"), "wait policy", "worth knowing"),
    (waiting("ACTIVE", "0"), "wait policy", "worth knowing"),
    ({"threads": {"openmp": {"GOMP_SPINCOUNT": "9"}}}, "wait policy", "worth knowing"),
    ({"threads": {"openmp": PASSIVE}}, "wait policy", "worth knowing"),
    ({"threads": {"openmp": WITHOUT_KMP}}, "wait policy", "worth knowing"),
    ({"threads": {"openmp_is_ours": True}}, "wait policy", "worth knowing"),
    ({"settings": {"speculation": False}}, "speculation", "slow"),
    ({"settings": {"asynchronous": False}, **REMOTE}, "asynchronous", "slow"),
    ({"settings": {"speculation_stride": 4}}, "stride", "worth knowing"),
    ({"settings": ONCE | {"question_leads": True}}, "retrieval", "worth knowing"),
    ({"settings": {"speculation_stride": 4}, **NOTHING_TO_WIN}, "stride", "slow"),
    ({"settings": LOOKUP, **LONG_EMBEDDING}, "guess policy", "slow"),
    ({"store": ONE_BY_ONE}, "queries one by one", "slow"),
    ({"store": ONE_BY_ONE, **NOTHING_TO_WIN}, "queries one by one", "worth knowing"),
    ({"store": NO_BATCHES}, "embeddings", "worth knowing"),
    ({"store": NO_BATCHES, **LONG_EMBEDDING}, "embeddings", "slow"),
    ({"store": {"index": "HNSW", "is_exact": False}}, "index", "worth knowing"),
    ({"store": NO_PRODUCT, **ONE_BY_ONE_SCAN}, "FAISS threshold", "worth knowing"),
    ({"costs": {"overlap": {"lookup": 1.6, "same": 2.0}}}, "overlap", "worth knowing"),
    ({"costs": {"overlap": {"lookup": 4.0, "same": 5.0}}}, "overlap", "slow"),
]


FINE: list[tuple[dict[str, Any], str]] = [
    # Nothing wrong with it, where something like it is.
    ({"model": {"quantization": "Q8_0"}}, "quantization"),
    ({"model": {"n_ctx": 8192, "flash_attention": "disabled"}}, "flash attention"),
    ({"threads": {"cpu_quota": 6.0}}, "threads"),
    ({"settings": {"speculation": False}, **NOTHING_TO_WIN}, "speculation"),
    ({"settings": {"asynchronous": False}, **NOTHING_TO_WIN}, "asynchronous"),
    ({"settings": LOOKUP}, "guess policy"),
    ({"store": NO_PRODUCT}, "FAISS threshold"),
    ({"settings": ONCE}, "retrieval"),
    (REMOTE, "remote"),
    (HOSTED, "hosted encoder"),
]

BESIDE_THE_POINT: list[tuple[dict[str, Any], str]] = [
    ({"model": {"n_gpu_layers": -1, "quantization": "Q4_1"}}, "quantization"),
    ({"model": {"n_gpu_layers": -1}}, "threads"),
    ({"model": {"n_gpu_layers": -1, "n_ctx": 8192}}, "flash attention"),
    ({"threads": {"openmp_users": ("llama.cpp",), "openmp": {}}}, "wait policy"),
    ({"settings": {"speculation": False, "asynchronous": False}}, "asynchronous"),
    ({"settings": {"speculation": False, "speculation_stride": 4}}, "stride"),
    ({"settings": {"speculation": False, "guess_policy": "same"}}, "guess policy"),
    ({"settings": {"asynchronous": False}}, "overlap"),
    *(({"settings": ONCE}, about) for about in ("overlap", "gain", "speculation")),
    ({"store": {"embeddings": None}}, "embeddings"),
    ({"store": {"one_by_one": True, "embeds_in_batches": False}}, "embeddings"),
    ({"store": {"index": None, "is_exact": None}}, "index"),
    (REMOTE, "index"),
    (REMOTE, "hosted encoder"),
    ({"store": {"blas_threshold": None}}, "FAISS threshold"),
    ({"store": {"is_exact": False}}, "FAISS threshold"),
]


@pytest.mark.parametrize(
    ("changes", "about", "severity"),
    [
        *SICK,
        *((*case, "fine") for case in FINE),
        *((*case, None) for case in BESIDE_THE_POINT),
    ],
)
def test_only_what_is_wrong_is_found_with_a_reason_and_a_remedy(
    changes: dict[str, Any], about: str, severity: str | None
) -> None:
    finding = found(**changes).get(about)
    assert (finding and finding.severity) == severity
    if finding and severity != "fine":
        assert finding.why
        assert finding.advice


def test_slow_things_come_first() -> None:
    sick = facts({"model": {"quantization": "Q4_1"}, "store": {"is_exact": False}})
    order = [finding.severity for finding in findings(sick, expect(sick))]
    assert order == sorted(order, key=["slow", "worth knowing", "fine"].index)
    assert order[0] == "slow"


def test_advice_fits_the_container_and_the_model() -> None:
    assert found(threads={"cpu_quota": 2.5})["threads"].advice == "n_threads=2"
    ours = "/cache/SmolLM2-135M-Instruct.Q4_1.gguf"
    advice = found(model={"quantization": "Q4_1", "file": ours})["quantization"].advice
    assert advice == "ralmspec models path smollm2-135m --quantization Q4_0"
    advice = found(model={"quantization": "Q4_1"})["quantization"].advice
    assert "llama-quantize --allow-requantize" in advice
    assert "/models/small.to-Q4_0.gguf" in advice


def test_a_store_that_says_nothing_is_remote_if_its_searches_wait() -> None:
    unknown = {"is_remote": None}
    waiting = {"calls": calls(0.1, 0.11, waiting=0.094)}
    assert is_remote(facts({"store": unknown, "costs": waiting}))
    assert not is_remote(facts({"store": unknown}))
    assert not is_remote(facts({"store": {"is_remote": False}, "costs": waiting}))
    short = {"calls": calls(0.006, 0.011, embedding=0.004, waiting=0.006)}
    assert not is_remote(facts({"store": unknown, "costs": short}))


def test_gains_grow_with_what_retrieval_costs() -> None:
    gains = expect(HEALTHY)
    assert gains.ceiling == pytest.approx(3.0)
    assert 1.5 < gains.synchronous < gains.asynchronous < gains.ceiling
    assert gains.plan.startswith("lookup")
    nothing = expect(facts(NOTHING_TO_WIN))
    assert nothing.best < 1.1
    assert nothing.plan == "sequential"
    # Contention eats the gain of writing on.
    crowded = expect(facts({"costs": {"overlap": {"lookup": 4.0, "same": 4.0}}}))
    assert crowded.asynchronous < expect(HEALTHY).asynchronous
    assert crowded.synchronous == expect(HEALTHY).synchronous


def test_a_look_up_pays_for_its_embedding_once() -> None:
    for policy, seconds in (("lookup", 0.095), ("same", 0.1)):
        assert verification(HEALTHY.costs, policy)(1) == pytest.approx(seconds)


def test_no_plan_is_promised_that_the_scheduler_never_comes_to() -> None:
    free = expect(HEALTHY)
    assert "×" in free.plan
    # Where cores are crowded, it does not go on writing.
    wary = expect(facts({"costs": {"overlap": {"lookup": 6.0, "same": 6.0}}}))
    assert "×" not in wary.plan
    # Nor is a look-up promised over a store without vectors.
    words = {"guesses": {"same": HEALTHY.costs.guesses["same"]}}
    for policy in ("auto", "lookup"):
        given: dict[str, Any] = {"costs": words, "settings": {"guess_policy": policy}}
        assert expect(facts(given)).plan.startswith("same")


@pytest.mark.parametrize(
    ("embedding", "waits"), [(0.2, True), (0.2, False), (0.005, False), (0.02, True)]
)
def test_the_scheduler_follows_in_a_world_of_these_costs_what_was_promised(
    embedding: float, waits: bool
) -> None:
    searching, step, n = 0.06, HEALTHY.costs.step, 30
    given = facts(
        {
            "costs": {
                "calls": calls(
                    embedding + searching,
                    embedding + searching,
                    embedding=embedding,
                    embedding_waiting=embedding * waits,
                ),
                "overlap": {"lookup": 1.0, "same": 1.0},
                "unchanged": step,
                "changed": step,
                "guesses": {
                    "lookup": Judged(right=29, n=n),
                    "same": Judged(right=25, n=n),
                },
            }
        }
    )
    accuracy = {"lookup": 32.8 / 34, "same": 28.4 / 34}  # with four taken for granted
    world = World(step, embedding, Line(searching, 0.0), accuracy, encoder_waits=waits)
    plan, gains = run(world, 600).plan(), expect(given)
    assert gains.plan.split()[0] == plan.policy
    assert ("×" in gains.plan) == (plan.in_flight > 0)
    # The world's answer is endless: it has no first retrieval.
    endless = world.best_rate(asynchronous=True) / world.rate(SEQUENTIAL)
    assert 0.7 * endless < gains.speedup < endless


def test_waiting_for_a_hosted_encoder_is_shared_by_calls_and_computing_is_not() -> None:
    hosted, near, busy = (
        facts(
            {
                "costs": {"calls": calls(0.205, 0.21, embedding=0.2, **waiting)},
                "store": {"embeddings": f"{kind}Embeddings"},
            }
        )
        for kind, waiting in (
            ("OpenAI", {"embedding_waiting": 0.2}),
            ("OpenAI", {}),
            ("HuggingFace", {"embedding_waiting": 0.2}),
        )
    )
    assert is_hosted(hosted)
    assert not is_hosted(near)
    assert not is_hosted(busy), "it waits for other processes"
    assert expect(hosted).asynchronous > 1.1 * expect(near).asynchronous
    assert expect(hosted).plan.startswith("same 1×")


def test_where_a_step_goes_adds_up() -> None:
    parts = facts(HOSTED).costs.parts
    assert parts == pytest.approx(
        {
            # Up to half of its time a call waits for threads of this machine.
            "waiting for embeddings": 0.18,
            "waiting for the store": 0.0,
            "computing embeddings": 0.02,
            "computing the search": 0.005,
            "reading documents": 0.018,
            "writing": 0.032,
        }
    )
    console = Console(width=100, record=True)
    command._print_parts(facts(HOSTED).costs, console)
    said = console.export_text()
    assert re.search(r"waiting for embeddings +180.0 ms +71%", said)
    assert re.search(r"writing +32.0 ms +13%", said)


def test_proven_guesses_are_in_no_call() -> None:
    known = {"lookup": Judged(right=7, n=7, proven=5), "same": Judged(right=0, n=7)}
    plain, proven = (
        facts({"costs": {"guesses": known, "can_prove": can}}) for can in (False, True)
    )
    assert expect(proven).synchronous > expect(plain).synchronous


FIXED = {"speculation_stride": 3, "asynchronous": False}


@pytest.mark.parametrize(
    ("changes", "plan"),
    [
        ({"settings": {"speculation": False}}, "sequential"),
        ({"model": {"repeatable": False}}, "sequential"),
        ({"settings": FIXED}, "lookup 3"),
        ({"settings": {**FIXED, "guess_policy": "same"}}, "same 3"),
    ],
)
def test_the_plan_goes_by_the_users_settings(
    changes: dict[str, Any], plan: str
) -> None:
    assert expect(facts(changes)).plan == plan


@pytest.mark.parametrize(
    ("kind", "arguments", "is_exact"),
    [("IndexFlatIP", [], True), ("IndexHNSWFlat", [4], False)],
)
def test_a_faiss_store_is_looked_into(
    kind: str, arguments: list[int], is_exact: bool
) -> None:
    vectors = table(3)
    index = getattr(faiss, kind)(vectors.shape[1], *arguments)
    index.add(vectors)
    store = FaissStore(index, documents(3), BatchTableEmbeddings(vectors))
    seen = inspect_store(store)
    assert (seen.index, seen.is_exact, seen.is_remote) == (kind, is_exact, False)
    assert (seen.n_documents, seen.embeds_in_batches) == (3, True)
    assert seen.blas_threshold == faiss.cvar.distance_compute_blas_threshold
    assert not seen.scans_by_product  # too small


def test_steps_are_timed_by_whether_their_documents_are_others() -> None:
    def run_of(*steps: tuple[str, float]) -> Any:
        hits = {id_: (SimpleNamespace(id=id_),) for id_, _ in steps}
        told = [SimpleNamespace(hits=hits[i], written=(1.0, 1 + s)) for i, s in steps]
        return SimpleNamespace(steps=told)

    # The first one reads the prompt, too.
    mixed = run_of(("a", 9.0), ("a", 0.1), ("b", 0.5), ("b", 0.3), ("a", 0.7))
    assert _by_documents(mixed, 2.0) == pytest.approx((0.2, 0.6))
    assert _by_documents(run_of(("a", 9.0), ("a", 0.1)), 2.0) == pytest.approx((0.1, 2))
    assert _by_documents(run_of(("a", 9.0)), 2.0) == (2.0, 2.0)
    assert _usual_step(mixed) == pytest.approx(0.4)
    once = SimpleNamespace(hits=(), written=None)  # one step, told in pieces
    stats = SimpleNamespace(seconds_generating=3.0, steps=1)
    whole: Any = SimpleNamespace(steps=[once, once], stats=stats)
    assert _usual_step(whole) == 3.0


def test_of_a_store_of_another_kind_little_is_known() -> None:
    embeddings = TableEmbeddings(table(1))
    store = InMemoryVectorStore.from_texts(["v0"], embeddings)
    seen = inspect_store(open_store(store))
    assert (seen.index, seen.is_exact, seen.is_remote) == (None, None, None)
    assert seen.one_by_one
    assert (seen.embeddings, seen.embeds_in_batches) == ("TableEmbeddings", False)

    class Own:  # one query at a time, whatever its encoder could
        _embeddings = BatchTableEmbeddings(table(1))

        def count(self) -> int:
            return 1

    own: Any = Own()
    seen = inspect_store(own)
    assert (seen.embeddings, seen.embeds_in_batches) == (None, False)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Writes the module that the doctor is to find in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "doctors_app", raising=False)

    def write(text: str) -> None:
        Path("doctors_app.py").write_text(text)

    return write


LLM = """
from types import SimpleNamespace
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_ralmspec import RaLMSpecLLM

store = InMemoryVectorStore(DeterministicFakeEmbedding(size=4))
llm = RaLMSpecLLM(model_path="none.gguf", retriever=store)
parts = SimpleNamespace(llm=llm)
"""


@pytest.mark.parametrize("path", ["llm", "parts.llm"])
def test_an_object_of_an_app_is_found(app: Callable[[str], None], path: str) -> None:
    app(LLM)
    assert load_target(f"doctors_app:{path}").model_path.endswith("/none.gguf")
    sys.modules.pop("doctors_app")


@pytest.mark.parametrize(
    ("given", "text", "said"),
    [
        ("doctors_app", LLM, r"'doctors_app' does not name an object; write module:"),
        (":llm", LLM, r"':llm' does not name an object"),
        ("doctors_ap:llm", LLM, r"'doctors_ap:llm': there is no module 'doctors_ap'"),
        ("doctors_app:chat", LLM, r"'doctors_app' was imported and has no 'chat'"),
        ("doctors_app:store", LLM, r"'doctors_app:store' is a InMemoryVectorStore"),
        ("doctors_app:x", "1 / 0", r"importing 'doctors_app' failed: ZeroDivision"),
        ("doctors_app:x", "import nothing_so", r"failed: ModuleNotFound.*nothing_so"),
        ("doctors_app:x", "raise SystemExit(3)", r"failed: SystemExit: 3"),
    ],
)
def test_what_is_no_target_is_quoted(
    app: Callable[[str], None], given: str, text: str, said: str
) -> None:
    app(text)
    with pytest.raises(InvalidValueError, match=said):
        load_target(given)
    sys.modules.pop("doctors_app", None)


def test_the_users_wait_policy_is_kept_while_the_app_is_imported(
    app: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(machine.OPENMP_ENVIRONMENT)
    app(f"import os\nseen = list(map(os.environ.get, {names}))\n{LLM}")
    for at_start, seen in (
        (machine.OPENMP_ENVIRONMENT, ["ACTIVE", "1000", "0"]),
        ({"GOMP_SPINCOUNT": "1000"}, [None, "1000", None]),
        ({}, [None, None, None]),
    ):
        for name, value in machine.OPENMP_ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(command, "OPENMP_AT_START", at_start)
        with command.patient("doctors_app:llm"):
            assert sys.modules.pop("doctors_app").seen == seen


def test_what_was_found_is_printed() -> None:
    console = Console(width=400, record=True)
    sick = facts({"model": {"quantization": "Q4_1"}})
    said = findings(sick, expect(sick))
    command._print_findings(said, console)
    (finding,) = [f for f in said if f.severity == "slow"]
    text = console.export_text()
    for part in (finding.what, f"why: {finding.why}", f"set: {finding.advice}"):
        assert part in text
