"""Many requests at once, of which some are left: each answer is its lone one."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import product, starmap
from pathlib import Path
from typing import Any

import pytest
from langchain_community.vectorstores import FAISS

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    KNNDatastore,
    KNNLMSpecLLM,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    SentenceTransformerEmbeddings,
)
from langchain_ralmspec.assets.corpus import stdlib_passages
from langchain_ralmspec.assets.models import model_path
from langchain_ralmspec.engine.sequence import Sequence
from langchain_ralmspec.knnlm import datastore
from langchain_ralmspec.stores import faiss_replica
from tests.integration_tests.conftest import QUESTIONS
from tests.integration_tests.soak.load import (
    IS_LONG,
    SEED,
    TENANTS,
    Answer,
    Question,
    Request,
    answers_to,
    requests_of,
)

N_PASSAGES = 40
N_FIRST = 100  # requests after which memory is measured for the first time
MOST_GROWTH = 1.02  # of it until the end
PATIENCE = 60.0  # seconds for a thread to end that nobody needs any more


@pytest.fixture(scope="module")
def faces(
    gguf: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """A model of each kind; all of them retrieve from one store, through a replica."""
    passages = stdlib_passages()[:: len(stdlib_passages()) // N_PASSAGES]
    texts = [each.text for each in passages]
    store = FAISS.from_texts(
        texts,
        SentenceTransformerEmbeddings(str(model_path("minilm"))),
        metadatas=[{"tenant": TENANTS[row % 2]} for row in range(len(texts))],
        ids=[each.id for each in passages],
    )
    path = tmp_path_factory.mktemp("soak") / "datastore"
    # By one thread, for then requests are decoded together.
    own: dict[str, Any] = {"model_path": gguf, "max_tokens": 12, "n_threads": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss_replica, "FEWEST_NUMBERS", 0)
        patch.setattr(datastore, "PROBED_FROM", 1)
        retriever = RaLMSpecRetriever(vectorstore=store, replica="auto")
        read: dict[str, Any] = {"retriever": retriever, **own}
        yield {
            "chat": ChatRaLMSpec(**read),
            "once": ChatRaLMSpec(retrieval_policy="once", documents_per_step=2, **read),
            "completion": RaLMSpecLLM(**read),
            # Else other kernels verify drafts, whose lengths hang on the time.
            "rapid": ChatRapid(
                context=texts[0][:600], exact_batches=True, n_ctx=1024, **own
            ),
            "knn": KNNLMSpecLLM(
                datastore=KNNDatastore.build(texts[:1], model_path=gguf, path=path),
                **own,
            ),
        }


@pytest.fixture(scope="module")
def lone(faces: dict[str, Any]) -> dict[Question, Answer]:
    """What each question is answered when nobody else asks."""
    return {
        question: Request(faces[question.face], question, "invoke").ask()
        for question in starmap(Question, product(faces, QUESTIONS[:2], TENANTS))
    }


class Held:
    """What this process holds when nobody is answered."""

    def __init__(self, faces: dict[str, Any]) -> None:
        gc.collect()
        self.threads = set(threading.enumerate())
        self.files = Counter(map(_target, Path("/proc/self/fd").iterdir()))
        # In a slot of llama.cpp or parked; kinds are compared, as proxies lie.
        self.n_sequences = sum(type(each) is Sequence for each in gc.get_objects())
        slots = [face.engine._slots for face in faces.values()]
        self.n_residents = sum(len(each._residents) for each in slots)

    @property
    def bytes(self) -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def _target(file: Path) -> str:
    try:
        return str(file.readlink())
    except FileNotFoundError:  # that of the folder itself, which was being read
        return ""


def require_nothing_left(before: Held, faces: dict[str, Any]) -> None:
    gc.collect()
    for thread in set(threading.enumerate()) - before.threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"{thread} is left"
    after = Held(faces)
    assert after.files - before.files == Counter()
    assert after.n_sequences <= before.n_sequences
    assert after.n_residents <= before.n_residents


def require_right(answers: list[Answer], lone: dict[Question, Answer]) -> None:
    for answer in answers:
        expected = lone[answer.question]
        if answer.is_whole:
            assert (answer.text, answer.documents) == (
                expected.text,
                expected.documents,
            ), answer.question
        else:
            assert expected.text.startswith(answer.text), answer.question
        assert answer.tenants <= {answer.question.tenant}


# A deadlock holds the main thread's end up as well, so the process is ended.
@pytest.mark.timeout(method="thread")
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("seed", [SEED])
def test_nobody_notices_the_others(
    faces: dict[str, Any], lone: dict[Question, Answer], seed: int
) -> None:
    for name in ("chat", "once", "completion"):
        own = [lone[Question(name, QUESTIONS[0], tenant)] for tenant in TENANTS]
        assert [each.tenants for each in own] == [{tenant} for tenant in TENANTS]
    requests = requests_of(faces, [*lone], seed)
    before = Held(faces)
    answers = answers_to(requests[:N_FIRST])
    require_right(answers, lone)
    require_nothing_left(before, faces)
    if IS_LONG:
        n_bytes = Held(faces).bytes
        later = answers_to(requests[N_FIRST:])
        require_right(later, lone)
        require_nothing_left(before, faces)
        assert Held(faces).bytes <= MOST_GROWTH * n_bytes
        answers += later
    assert len(answers) == len(requests)
    assert sum(answer.is_whole for answer in answers) >= 0.8 * len(requests)
