from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec.bench.rapid.documents import (
    QUOTE_TEMPLATE,
    QUOTED_WORDS,
    Sample,
    grouped,
    load_samples,
    parted,
    python_samples,
    quotable,
    quotes,
)
from langchain_ralmspec.errors import InvalidValueError


def written(folder: Path, *records: Any) -> Path:
    file = folder / "a.jsonl"
    text = "\n".join(r if isinstance(r, str) else json.dumps(r) for r in records)
    file.write_text(text, encoding="utf-8")
    return file


RECORD = {"context": "some text", "question": "why?", "answers": ["so"], "id": 7}


def test_samples_are_read_and_quotations_need_no_questions(tmp_path: Path) -> None:
    file = written(tmp_path, RECORD, "", {"context": "more", "question": "how?"})
    samples = [Sample("some text", "why?", ("so",)), Sample("more", "how?")]
    assert load_samples(file) == samples
    file = written(tmp_path, {"context": "a"})
    assert load_samples(file, with_questions=False) == [Sample("a", "")]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("{", "line 2: not JSON"),
        ({"question": "why?"}, "line 2: there is no 'context'"),
        ({"context": "a"}, "line 2: there is no 'question'"),
        ({"context": "  ", "question": "why?"}, "line 2: 'context' is '  '"),
        ({"context": "a", "question": 7}, "line 2: 'question' is 7"),
        (RECORD | {"answers": "so"}, "line 2: 'answers' is 'so'"),
        (RECORD | {"answers": [1]}, r"line 2: 'answers' is \[1\]"),
    ],
)
def test_bad_lines_are_quoted(tmp_path: Path, record: Any, said: str) -> None:
    with pytest.raises(InvalidValueError, match=said):
        load_samples(written(tmp_path, RECORD, record))


def test_files_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="no sample"):
        load_samples(written(tmp_path, "", ""))
    with pytest.raises(InvalidValueError, match=r"nowhere\.jsonl' cannot be read"):
        load_samples(tmp_path / "nowhere.jsonl")


def test_the_default_questions_are_answered_in_their_texts() -> None:
    samples = python_samples()
    assert len(samples) == 20
    assert len({sample.context for sample in samples}) == 5
    for sample in samples:
        assert sample.answers[0] in sample.context
        assert len(sample.context) > 8000
    assert grouped(samples) == samples


def words(name: str, n: int = 60) -> str:
    return " ".join(f"{name}{i}" for i in range(n))


def test_paragraphs_in_the_middle_come_first() -> None:
    first, middle, last = words("a", 70), words("b"), words("c", 60)
    short = words("d", 59)
    text = f"{first}\n\n{middle}\n \n\n{last}\n\n{short}"
    # The middle of the text lies between the second and the third of four.
    assert set(quotable(text)[:2]) == {middle, last}
    assert quotable(text)[2:] == [first]
    # Lines are paragraphs where there are no others.
    text = "\n\n".join((words("a", 30), words("b", 20) + "\n" + words("c", 20)))
    assert quotable(text) == []
    long = "\n".join((words("a", 70), words("b", 61)))
    # Parted by lines only, it is a single paragraph, and can be quoted as one.
    assert quotable(long) == [long]


def test_a_quotation_is_given_word_for_word() -> None:
    given = words("a", QUOTED_WORDS - 1) + "\n last,"
    paragraph = f"  {given}  " + words("b", 50)
    begun, rest = parted(paragraph)
    assert begun == given
    assert rest == words("b", 50)
    assert begun in paragraph
    assert QUOTE_TEMPLATE.endswith('"{question}')


def test_a_context_that_comes_again_is_quoted_elsewhere() -> None:
    text = f"{words('a')}\n\n{words('b')}\n\n{words('c')}"
    samples = [Sample(text, "x"), Sample("short", "y"), *[Sample(text, "z")] * 3]
    asked = quotes(samples, lambda context: context)
    assert [one.question.split()[0] for one in asked] == ["b0", "a0", "c0"]
    assert all(one.context == text for one in asked)
    (rest,) = asked[0].answers
    assert rest == " ".join(f"b{i}" for i in range(QUOTED_WORDS, 60))


def test_only_what_the_model_sees_is_quoted() -> None:
    seen, unseen = words("a"), words("b")
    (asked,) = quotes([Sample(f"{seen}\n\n{unseen}", "")], lambda _: seen)
    assert asked.question.startswith("a0")
    with pytest.raises(InvalidValueError, match="none of the 1 contexts"):
        quotes([Sample(seen, "")], lambda context: context[:20])


def test_equal_contexts_come_together() -> None:
    samples = [Sample(context, str(n)) for n, context in enumerate("abacb")]
    assert [one.question for one in grouped(samples)] == ["0", "2", "1", "4", "3"]
