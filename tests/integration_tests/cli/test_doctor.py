import json
import os
import subprocess
import sys
from pathlib import Path

from langchain_ralmspec.assets.corpus import stdlib_passages
from langchain_ralmspec.machine import OPENMP_ENVIRONMENT

APP = """
import json
from pathlib import Path

from langchain_core.documents import Document
from langchain_ralmspec import ChatRaLMSpec, RaLMSpecRetriever
from langchain_ralmspec.assets.models import model_path

texts = json.loads(Path("texts.json").read_text())
documents = [Document(page_content=text, id=str(n)) for n, text in enumerate(texts)]
chat = ChatRaLMSpec(
    model_path=str(model_path("smollm2-135m")),
    retriever=RaLMSpecRetriever.from_documents(documents),
    n_ctx=1024,
    max_document_tokens=64,
    n_threads=1,
)
"""


def test_the_doctor_examines_an_app(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    texts = [passage.text for passage in stdlib_passages()[:50]]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    command = "import sys; from langchain_ralmspec.cli import main; sys.exit(main())"
    kept = os.environ.keys() - OPENMP_ENVIRONMENT.keys()
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-c", command, "doctor", "app:chat", "--json", "found.json"],
        cwd=tmp_path,
        env={name: os.environ[name] for name in kept},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "speed-up to expect" in done.stdout
    figures = json.loads((tmp_path / "found.json").read_text())
    facts = figures["facts"]
    assert facts["model"]["quantization"] == "Q4_0"
    assert facts["model"]["flash_attention"] == "auto"
    assert (facts["threads"]["single"], facts["threads"]["batch"]) == (1, 1)
    assert facts["threads"]["openmp"] == {}
    assert facts["store"]["index"] == "BM25"
    assert facts["store"]["n_documents"] == 50
    assert len(facts["costs"]["calls"]) == 4
    # There are no vectors to look up in, so nothing is said of look-ups.
    assert list(facts["costs"]["guesses"]) == ["same"]
    assert facts["costs"]["guesses"]["same"]["n"] > 0
    assert not figures["gains"]["plan"].startswith("lookup")
    assert "waiting for embeddings" in done.stdout
    assert {finding["about"] for finding in figures["findings"]} >= {"gain", "index"}
    assert figures["gains"]["ceiling"] > 1
