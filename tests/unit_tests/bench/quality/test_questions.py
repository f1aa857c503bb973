import json
from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec.bench.quality.questions import load
from langchain_ralmspec.errors import InvalidValueError


def written(tmp_path: Path, *records: dict[str, Any]) -> Path:
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return file


def test_the_contexts_of_all_lines_are_retrieved_from_once_each(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {"question": "who?", "answers": ["she"], "context": "She did."},
        {"question": "when?", "answers": ["then"], "context": "Then it was."},
        {"question": "who else?", "answers": ["her", "she"], "context": "She did."},
    )
    questions, passages = load(file)
    assert [each.text for each in passages] == ["She did.", "Then it was."]
    assert [each.text for each in questions] == ["who?", "when?", "who else?"]
    assert [each.gold for each in questions] == [
        (passages[0],),
        (passages[1],),
        (passages[0],),
    ]
    assert questions[2].answers == ("her", "she")
    assert questions[2].passage == "She did."


def test_a_question_without_answers_is_refused_by_its_text(tmp_path: Path) -> None:
    file = written(tmp_path, {"question": "who?", "context": "She did."})
    with pytest.raises(InvalidValueError, match=r"'who\?' has no answers"):
        load(file)


def test_questions_about_python_have_passages_that_name_the_answer() -> None:
    questions, passages = load(None)
    assert len(questions) > 10
    assert len({each.id for each in passages}) == len(passages) > 1000
    for question in questions:
        (answer,) = question.answers
        assert all(answer in passage.text for passage in question.gold)
        assert {*question.gold} <= {*passages}
