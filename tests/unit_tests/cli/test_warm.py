from pathlib import Path

import pytest

from tests.unit_tests.cli.shell import run


@pytest.mark.parametrize(
    ("corpus", "content", "message"),
    [
        ("a.jsonl", "", "has no passage"),
        ("a.jsonl", '{"title": "A"}', "there is no 'text'"),
        ("a.csv", "a,b", "not from 'a.csv'"),
        ("a/b.pdf", "%PDF", "holds no text"),
        ("a/b.txt", " ", "is empty"),
    ],
)
def test_warm_says_what_it_cannot_read(
    tmp_path: Path, corpus: str, content: str, message: str
) -> None:
    file = tmp_path / corpus
    file.parent.mkdir(exist_ok=True)
    file.write_text(content, "utf-8")
    given = str(file.parent if file.parent != tmp_path else file)
    assert "--kv-cache-dir" in run("warm", given)
    folder = tmp_path / "kv"
    assert message in run("warm", given, "--kv-cache-dir", str(folder))
    assert not folder.exists()


def test_warm_says_which_model_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A text.", "utf-8")
    folder = ("--kv-cache-dir", str(tmp_path / "kv"))
    said = run("warm", str(tmp_path), "--model", "nonsense", *folder)
    assert "'nonsense' is neither" in said
