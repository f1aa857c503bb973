import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from langchain_ralmspec.cli import preload
from tests.unit_tests.cli.shell import run


def test_preload_says_what_is_missing(tmp_path: Path) -> None:
    folder = ["--kv-cache-dir", str(tmp_path / "kv")]
    files = [str(tmp_path / name) for name in ("a.txt", "b.txt", "c.txt", "d.txt")]
    for file, content in zip(files, (b"text", b" \n", b"\xff\xff"), strict=False):
        Path(file).write_bytes(content)
    assert "--kv-cache-dir" in run("preload", files[0])
    assert "is empty" in run("preload", files[1], *folder)
    assert "c.txt' cannot be read" in run("preload", files[2], *folder)
    assert "d.txt' cannot be read" in run("preload", files[3], *folder)
    assert not (tmp_path / "kv").exists()
    wrong = run("preload", files[0], "--target", "nonsense", *folder)
    assert "'nonsense' is neither" in wrong


def read(monkeypatch: pytest.MonkeyPatch, folder: Path, *, is_kept: bool) -> Any:
    """What the command says of a text, where its KV is kept, or not."""
    file = folder.parent / "a.txt"
    file.write_text("some text", encoding="utf-8")
    tokens = tuple(range(1240))

    def chain(**given: Any) -> Any:
        def preload(text: str) -> int:
            assert text == "some text"
            assert given["n_gpu_layers"] == -1
            assert given["kv_cache_dir"] == str(folder)
            return 1234

        def keeps(prefix: Any) -> bool:
            assert prefix == tokens
            return is_kept

        return SimpleNamespace(
            preload=preload,
            start=lambda *_: SimpleNamespace(request=SimpleNamespace(document=tokens)),
            engine=SimpleNamespace(
                keeps=keeps, keeps_in_folder=True, kv_bytes=lambda n: n * 2500
            ),
        )

    monkeypatch.setattr(preload, "RapidChain", chain)
    monkeypatch.setattr(preload, "find_gguf", lambda name: name)
    words = ("--kv-cache-dir", str(folder), "--n-gpu-layers", "-1")
    return run("preload", str(file), *words)


def test_preload_says_what_it_did(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    assert not read(monkeypatch, tmp_path / "kv", is_kept=True)
    said = capsys.readouterr().out
    assert said.startswith("1,234 tokens are ready after ")
    assert said.endswith("kv has their KV, 3 MB\n")


def test_preload_counts_no_file_of_others_as_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "kv"
    folder.mkdir()
    (folder / "README").write_bytes(bytes(3_000_000))
    said = read(monkeypatch, folder, is_kept=False)
    assert re.search(r"kv' has not kept the KV of .*1,234 tokens; .*warning", said)
    assert "ready" not in capsys.readouterr().out
