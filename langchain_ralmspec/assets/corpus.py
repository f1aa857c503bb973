"""Passages to retrieve from: Python's own documentation, or a file of the user's."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import read_json_lines

MIN_WORDS = 18  # docstrings shorter than this say too little to be worth finding
MAX_WORDS = 120  # about a paragraph: a few of them fit the prompt of a small model

QUESTIONS = [
    "How do I run a command in a new process and read what it prints?",
    "How do I find the most common elements of a list?",
    "How do I parse command line arguments?",
    "How do I make a temporary directory that is removed afterwards?",
    "How do I cache the results of a function?",
    "How do I read a ZIP archive?",
]
"""Questions that Python's documentation answers."""

# Other people's packages, tests, and what is not in every Python 3.11 or later.
_SKIPPED = {
    "dist-packages", "distutils", "idle_test", "idlelib", "lib2to3", "site-packages",
    "test", "tests", "tkinter", "turtle", "turtledemo",
}  # fmt: skip

# Written in C, so only an import shows their docstrings; none does anything else
# when imported. Keyed by import name, valued by the name that people know.
_C_MODULES = {
    "_bisect": "bisect", "_collections": "collections", "_csv": "csv",
    "_datetime": "datetime", "_functools": "functools", "_heapq": "heapq", "_io": "io",
    "_operator": "operator", "_random": "random", "_socket": "socket",
    "_struct": "struct", "_thread": "threading", "_weakref": "weakref",
    "array": "array", "atexit": "atexit", "binascii": "binascii",
    "builtins": "builtins", "cmath": "cmath", "errno": "errno",
    "faulthandler": "faulthandler", "gc": "gc", "itertools": "itertools",
    "marshal": "marshal", "math": "math", "mmap": "mmap", "posix": "os",
    "select": "select", "sys": "sys", "time": "time", "unicodedata": "unicodedata",
    "zlib": "zlib",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text that a store can hold, by an id that is unique in its corpus."""

    id: str
    title: str
    text: str


def stdlib_passages() -> list[Passage]:
    """Cut the standard library's docstrings into a few thousand passages.

    They have about ``MIN_WORDS`` to ``MAX_WORDS`` words, no two the same text, and as
    title the qualified name that they document. The modules written in Python are
    parsed, not imported, for some act when imported. The same Python gives the same
    passages in the same order.
    """
    passages: list[Passage] = []
    titles: set[str] = set()
    texts: set[str] = set()
    for title, docstring in _docstrings():
        # A name may be defined twice, for two platforms or as getter and setter.
        if title in titles:
            continue
        titles.add(title)
        for number, text in enumerate(_cut(docstring)):
            if text not in texts:
                texts.add(text)
                passages.append(Passage(f"{title}#{number}", title, text))
    return passages


def load_passages(path: str | Path) -> list[Passage]:
    """Read passages from JSON lines, a ``.jsonl`` or ``.jsonl.gz`` file in UTF-8.

    Every line is an object with a ``text`` and, if wanted, an ``id`` and a
    ``title``. A passage without an id is called after its line number,
    behind as many ``#`` as keep all of those from being some passage's own.

    Raises:
        InvalidValueError: the file cannot be read, holds nothing, has a bad line
            or uses an id twice.
    """
    path = Path(path)
    passages: list[Passage] = []
    lines_by_id: dict[str, int] = {}
    if not path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise InvalidValueError(
            f"passages are read from .jsonl or .jsonl.gz, not from {path.name!r}"
        )
    records = list(read_json_lines(path))
    given = {str(record.get("id")) for _, record in records}
    mark = ""  # of names that are made: they are nobody's id
    while any(f"{mark}{n}" in given for n, record in records if "id" not in record):
        mark += "#"
    for number, record in records:
        passage = _passage(record, f"{mark}{number}", f"{path}, line {number}")
        first = lines_by_id.setdefault(passage.id, number)
        if first != number:
            raise InvalidValueError(
                f"{path}, line {number}: id {passage.id!r} was used on line {first}"
            )
        passages.append(passage)
    if not passages:
        raise InvalidValueError(f"{path} has no passage; write one JSON object a line")
    return passages


def _docstrings() -> Iterator[tuple[str, str]]:
    """Yield qualified names and cleaned docstrings, long enough to be of use."""
    root = Path(sysconfig.get_path("stdlib"))
    for name, path in sorted(_sources(root)):
        with warnings.catch_warnings():
            # Old string escapes in others' sources are not our caller's concern.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes(), filename=str(path))
        yield from _of_source(name, tree)
    for import_name, name in sorted(_C_MODULES.items()):
        try:
            module = importlib.import_module(import_name)
        except ImportError:
            continue  # not on this platform
        yield from _of_object(name, module)


def _sources(folder: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    for path in folder.iterdir():
        if path.name.startswith("_") or path.stem in _SKIPPED:
            continue
        name = f"{prefix}{path.stem}"
        if path.suffix == ".py":
            yield name, path
        elif (path / "__init__.py").is_file():
            yield name, path / "__init__.py"
            yield from _sources(path, f"{name}.")


def _of_source(
    name: str, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
) -> Iterator[tuple[str, str]]:
    yield from _long_enough(name, ast.get_docstring(node))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for child in _definitions(node):
        if not child.name.startswith("_"):
            yield from _of_source(f"{name}.{child.name}", child)


def _definitions(
    node: ast.AST,
) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield what a body defines, also under its ``if`` and ``try`` statements."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif isinstance(child, ast.If | ast.Try | ast.ExceptHandler):
            yield from _definitions(child)


def _of_object(name: str, value: Any) -> Iterator[tuple[str, str]]:
    yield from _long_enough(name, inspect.getdoc(value))
    if not inspect.ismodule(value) and not inspect.isclass(value):
        return
    holds = inspect.isclass if inspect.ismodule(value) else inspect.isdatadescriptor
    for key, member in sorted(vars(value).items()):
        # An alias, such as IOError, is left to the name that it stands for; a plain
        # value, such as math.pi, would show the docstring of its class.
        public = not key.startswith("_") and getattr(member, "__name__", key) == key
        if public and (inspect.isroutine(member) or holds(member)):
            yield from _of_object(f"{name}.{key}", member)


def _long_enough(name: str, docstring: str | None) -> Iterator[tuple[str, str]]:
    if docstring and _words(docstring) >= MIN_WORDS:
        yield name, inspect.cleandoc(docstring)


def _words(text: str) -> int:
    return len(text.split())


def _cut(text: str) -> list[str]:
    """Cut a text at its paragraphs into pieces of at most ``MAX_WORDS`` words.

    A paragraph that is too long is cut between its lines. A short rest stays with
    the piece before it, which may then be a little too long.
    """
    pieces: list[str] = []
    for unit, separator in _units(text):
        if pieces and (
            _words(pieces[-1]) + _words(unit) <= MAX_WORDS
            or _words(pieces[-1]) < MIN_WORDS
        ):
            pieces[-1] += separator + unit
        else:
            pieces.append(unit)
    if len(pieces) > 1 and _words(pieces[-1]) < MIN_WORDS:
        rest = pieces.pop()
        pieces[-1] += "\n\n" + rest
    return [piece.strip("\n") for piece in pieces]


def _units(text: str) -> Iterator[tuple[str, str]]:
    """Yield what must stay in one piece, and what joins it to the unit before."""
    for paragraph in text.split("\n\n"):
        if _words(paragraph) <= MAX_WORDS:
            yield paragraph, "\n\n"
        else:
            for number, line in enumerate(paragraph.split("\n")):
                yield line, "\n" if number else "\n\n"


def _passage(record: dict[str, Any], default_id: str, where: str) -> Passage:
    fields = {"id": default_id, "title": "", **record}
    for key in ("text", "id", "title"):
        if string_of(fields, key, where).strip() == "" and key != "title":
            raise InvalidValueError(f"{where}: {key!r} is empty")
    return Passage(fields["id"], fields["title"], fields["text"])


def string_of(fields: dict[str, Any], key: str, where: str) -> str:
    """A string of a record; raises InvalidValueError where it is none."""
    if key not in fields:
        raise InvalidValueError(f"{where}: there is no {key!r}")
    value = fields[key]
    if not isinstance(value, str):
        raise InvalidValueError(f"{where}: {key!r} is {value!r}, no string")
    return value


def load_questions(path: str | Path) -> list[str]:
    """Read questions from JSON lines, an object with a ``question`` each.

    Raises:
        InvalidValueError: there is none.
    """
    questions = [
        string_of(record, "question", f"{path}, line {number}")
        for number, record in read_json_lines(Path(path))
    ]
    if not questions:
        msg = f"{path} has no question; give JSON lines with a 'question' each"
        raise InvalidValueError(msg)
    return questions


def many_questions(n: int) -> list[str]:
    """So many different ones of ``QUESTIONS``: numbered, round and round."""
    some = itertools.islice(itertools.cycle(QUESTIONS), n)
    return [f"{question} ({number})" for number, question in enumerate(some)]
