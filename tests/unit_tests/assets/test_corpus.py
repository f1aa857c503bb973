import gzip
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from langchain_ralmspec.assets import corpus
from langchain_ralmspec.assets.corpus import (
    Passage,
    load_passages,
    load_questions,
    stdlib_passages,
)
from langchain_ralmspec.errors import InvalidValueError

WORDS = " ".join(f"word{number}" for number in range(20))


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    return stdlib_passages()


@pytest.fixture
def stdlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty standard library, with nothing written in C."""
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(corpus, "_C_MODULES", {})
    return tmp_path


def _write(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")


def test_there_are_thousands_of_passages_no_two_alike(passages: list[Passage]) -> None:
    assert 2000 <= len(passages) <= 4000
    assert len({passage.id for passage in passages}) == len(passages)
    assert len({passage.text for passage in passages}) == len(passages)
    # Neither are they short nor long.
    lengths = sorted(len(passage.text.split()) for passage in passages)
    assert lengths[0] >= corpus.MIN_WORDS
    # What one line holds more, and a short rest, may come on top.
    assert lengths[-1] <= corpus.MAX_WORDS + 2 * corpus.MIN_WORDS


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("collections.OrderedDict.move_to_end", "Move an existing element to the end"),
        ("json.dumps", "Serialize ``obj`` to a JSON formatted ``str``"),
        ("math.isclose", "two floating point numbers are close"),
        ("builtins.str.join", "Concatenate any number of strings"),
    ],
)
def test_a_title_is_the_qualified_name(
    passages: list[Passage], title: str, said: str
) -> None:
    found = [passage for passage in passages if passage.title == title]
    assert said in found[0].text
    assert [passage.id for passage in found] == [
        f"{title}#{number}" for number in range(len(found))
    ]


def test_nothing_private_tested_or_optional(passages: list[Passage]) -> None:
    titles = [passage.title.split(".") for passage in passages]
    modules = {title[0] for title in titles}
    assert {"json", "http", "builtins"} <= modules
    assert not {"test", "idlelib", "tkinter", "turtle", "lib2to3"} & modules
    assert not [part for title in titles for part in title if part.startswith("_")]


def test_reading_python_sources_imports_none_of_them() -> None:
    # `this` prints a poem when imported, `antigravity` opens a browser.
    program = (
        "import sys\n"
        "from langchain_ralmspec.assets.corpus import stdlib_passages\n"
        "before = set(sys.modules)\n"
        "stdlib_passages()\n"
        "new = set(sys.modules) - before\n"
        "print([name for name in new if getattr(sys.modules[name], '__file__', '')\n"
        "       and sys.modules[name].__file__.endswith('.py')])\n"
    )
    result = subprocess.run(  # noqa: S603 - our own program, our own Python
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_the_same_library_gives_the_same_passages(stdlib: Path) -> None:
    for name in ("b", "a", "c.d"):
        # An old escape in a source does not warn.
        source = f'"""{name} {WORDS}"""\npattern = "\\d"'
        _write(stdlib / f"{name.replace('.', '/')}.py", source)
        _write(stdlib / "c" / "__init__.py", "")
    assert [passage.id for passage in stdlib_passages()] == ["a#0", "b#0", "c.d#0"]


def test_definitions_are_found_where_they_may_stand(stdlib: Path) -> None:
    _write(
        stdlib / "shop.py",
        f'''
if True:
    class Till:
        """1 {WORDS}"""
        async def unlock(self):
            """2 {WORDS}"""
            def inner():
                """inside a function: {WORDS}"""
        def _secret(self):
            """private {WORDS}"""
        def short(self):
            """Too short."""
else:
    def fallback():
        """3 {WORDS}"""
try:
    pass
except ImportError:
    def handler():
        """4 {WORDS}"""
def again():
    """5 {WORDS}"""
def again():
    """the same name {WORDS}"""
def copy():
    """5 {WORDS}"""
''',
    )
    assert [(p.title, p.text.split()[0]) for p in stdlib_passages()] == [
        ("shop.Till", "1"),
        ("shop.Till.unlock", "2"),
        ("shop.fallback", "3"),
        ("shop.handler", "4"),
        ("shop.again", "5"),
    ]


def test_folders_and_files_that_are_passed_over(stdlib: Path) -> None:
    for folder in ("test", "site-packages", "tkinter", "_pyrepl", "data"):
        _write(stdlib / folder / "inner.py", f'"""{WORDS}"""')
        if folder != "data":  # no package
            _write(stdlib / folder / "__init__.py", f'"""{WORDS}"""')
    _write(stdlib / "_private.py", f'"""{WORDS}"""')
    _write(stdlib / "turtle.py", f'"""{WORDS}"""')
    assert stdlib_passages() == []


def test_a_module_written_in_c_is_shown_without_aliases_and_values(
    stdlib: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Till:
        __doc__ = f"1 {WORDS}"

        def unlock(self) -> None: ...

        unlock.__doc__ = f"2 {WORDS}"
        amount = property(doc=f"3 {WORDS}")

    class Value:
        __doc__ = f"not of a name {WORDS}"

    module = types.ModuleType("_shop")
    # The alias comes first in the alphabet.
    vars(module).update(Alias=Till, Till=Till, price=Value(), Till_unlock=Till.unlock)
    monkeypatch.setitem(sys.modules, "_shop", module)
    monkeypatch.setattr(corpus, "_C_MODULES", {"_shop": "shop", "_not_here": "no"})
    assert [(p.title, p.text.split()[0]) for p in stdlib_passages()] == [
        ("shop.Till", "1"),
        ("shop.Till.amount", "3"),
        ("shop.Till.unlock", "2"),
    ]


def test_a_long_docstring_is_cut_at_its_paragraphs(stdlib: Path) -> None:
    paragraphs = [f"{number} " + "w " * 49 + "end" for number in range(5)]
    body = "\n\n".join(paragraphs)
    _write(stdlib / "long.py", f'"""{body}"""')
    pairs = ["\n\n".join(paragraphs[first : first + 2]) for first in (0, 2, 4)]
    expected = [(f"long#{number}", text) for number, text in enumerate(pairs)]
    assert [(passage.id, passage.text) for passage in stdlib_passages()] == expected


def test_a_long_paragraph_is_cut_between_its_lines_but_for_a_short_rest(
    stdlib: Path,
) -> None:
    lines = [f"{number} " + "w " * 48 + "end" for number in range(4)]
    rest = "w " * 118 + "end\n\nSee also the other one."
    for body, pieces in (
        ("\n".join(lines), ["\n".join(lines[:2]), "\n".join(lines[2:])]),
        (rest, [rest]),
    ):
        _write(stdlib / "long.py", f'"""{body}"""')
        assert [passage.text for passage in stdlib_passages()] == pieces


@pytest.mark.parametrize("name", ["some.jsonl", "some.jsonl.gz"])
def test_passages_of_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    lines = '{"text": "é", "id": "x", "title": "T", "more": 1}\n\n{"text": "b"}\n'
    data = lines.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert load_passages(path) == [Passage("x", "T", "é"), Passage("3", "", "b")]
    assert load_passages(str(path)) == load_passages(path)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('{"text": ', "not JSON, .* at column 9"),
        ("{}", "there is no 'text'"),
        ('{"text": 7}', "'text' is 7, no string"),
        ('{"text": null}', "'text' is None, no string"),
        ('{"text": " "}', "'text' is empty"),
        ('{"text": "b", "id": 7}', "'id' is 7, no string"),
        ('{"text": "b", "id": ""}', "'id' is empty"),
        ('{"text": "b", "title": []}', r"'title' is \[\], no string"),
        ('{"text": "b", "id": "first"}', "id 'first' was used on line 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, wrong: str) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps({"text": "a", "id": "first"}) + "\n" + line + "\n")
    with pytest.raises(InvalidValueError, match=rf"some\.jsonl, line 2: {wrong}"):
        load_passages(path)


@pytest.mark.parametrize(
    ("name", "data", "wrong"),
    [
        ("some.jsonl", b"", "has no passage"),
        ("some.jsonl", b"\n \n", "has no passage"),
        ("some.jsonl.gz", b"not gzip", "cannot be read: Not a gzipped file"),
        ("some.csv", b"a,b", "not from 'some.csv'"),
        (
            "some.jsonl",
            b'{"text": "a", "id": "2"}\n{"text": "b", "id": "2"}\n',
            "line 2: id '2' was used on line 1",
        ),
        ("some.jsonl", None, "cannot be read: .*No such file"),
    ],
)
def test_a_bad_file_is_named(
    tmp_path: Path, name: str, data: bytes | None, wrong: str
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InvalidValueError, match=wrong) as caught:
        load_passages(path)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [("{}", "there is no 'question'"), ('{"question": null}', "is None, no string")],
)
def test_a_bad_question_is_named(tmp_path: Path, line: str, wrong: str) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text('{"question": "Why?"}\n' + line)
    with pytest.raises(InvalidValueError, match=rf"some\.jsonl, line 2: .*{wrong}"):
        load_questions(path)
    path.write_text('{"question": "Why?"}\n')
    assert load_questions(path) == ["Why?"]
    path.write_text("\n")
    with pytest.raises(InvalidValueError, match=r"some\.jsonl has no question"):
        load_questions(path)


def test_no_passage_is_called_as_another_one_is(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text('{"text": "a", "id": "2"}\n{"text": "b"}\n{"text": "c"}\n')
    assert [passage.id for passage in load_passages(file)] == ["2", "#2", "#3"]
