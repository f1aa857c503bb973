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


def test_preload_says_what_it_did(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    folder, file = tmp_path / "kv", tmp_path / "a.txt"
    file.write_text("some text", encoding="utf-8")

    def chain(**given: Any) -> Any:
        def read(text: str) -> int:
            assert text == "some text"
            assert given["n_gpu_layers"] == -1
            (Path(given["kv_cache_dir"]) / "a.kv").write_bytes(bytes(3_000_000))
            return 1234

        return SimpleNamespace(preload=read, get_num_tokens=len)

    monkeypatch.setattr(preload, "RapidChain", chain)
    monkeypatch.setattr(preload, "find_gguf", lambda name: name)
    words = ("--kv-cache-dir", str(folder), "--n-gpu-layers", "-1")
    assert not run("preload", str(file), *words)
    said = capsys.readouterr().out
    assert said.startswith("1,234 tokens are ready after ")
    assert said.endswith("kv holds 3 MB\n")
