import inspect

import pytest
from langchain_core.exceptions import ContextOverflowError as CoreContextOverflowError

from langchain_ralmspec import errors

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if kind.__module__ == errors.__name__
]


@pytest.mark.parametrize("kind", KINDS)
def test_one_except_clause_catches_every_error(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.RaLMSpecError)
    assert kind.__doc__


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InvalidValueError, ValueError),
        (errors.SetupError, errors.InvalidValueError),
        (errors.UnknownArgumentError, TypeError),
        (errors.MissingExtraError, ImportError),
        (errors.ModelFileError, OSError),
        (errors.ChatTemplateError, ValueError),
        (errors.GrammarError, ValueError),
        (errors.ContextOverflowError, CoreContextOverflowError),
        (errors.DecodeError, RuntimeError),
        (errors.DatastoreError, RuntimeError),
        (errors.QueueFullError, RuntimeError),
        (errors.EmptyStoreError, LookupError),
        (errors.DimensionMismatchError, ValueError),
        (errors.StoreError, RuntimeError),
        (errors.StoreTimeoutError, TimeoutError),
    ],
)
def test_existing_except_clauses_keep_working(
    kind: type[Exception], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin, match="what went wrong"):
        raise kind("what went wrong")


def test_every_error_has_a_builtin_parent_in_the_table_above() -> None:
    # A new error must be added to the table: count them.
    assert len(KINDS) == 16


def test_a_missing_extra_comes_with_the_command_that_installs_it() -> None:
    error = errors.MissingExtraError.of("faiss", "faiss")

    assert "'faiss' is not installed" in str(error)
    assert "pip install 'langchain-ralmspec[faiss]'" in str(error)


@pytest.mark.parametrize(
    ("given", "known", "hint"),
    [
        ("max_token", ["model_path", "max_tokens"], "did you mean 'max_tokens'?"),
        ("zzz", {"stop", "seed"}, "known: seed, stop"),  # like no other: all, in order
    ],
)
def test_an_unknown_argument_is_told_its_nearest_neighbour(
    given: str, known: list[str], hint: str
) -> None:
    error = errors.UnknownArgumentError.of("RaLMSpecLLM", given, known)
    assert str(error) == f"RaLMSpecLLM has no argument {given!r}; {hint}"
