"""What is published is refused where PyPI's readers would stumble."""

import runpy
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "check_wheel.py"
CHECK: dict[str, Any] = runpy.run_path(str(SCRIPT))
check_links: Callable[[Message], None] = CHECK["check_links"]
check_extras: Callable[[Message], list[str]] = CHECK["check_extras"]


def metadata(description: str = "", **wanted: str) -> Message:
    told = Message()
    for extra, need in wanted.items():
        told["Provides-Extra"] = extra
        told["Requires-Dist"] = f'{need}; extra == "{extra}"'
    told.set_payload(description)
    return told


def test_links_into_the_repository() -> None:
    check_links(metadata("[a](https://arxiv.org/abs/2401.14021) and `b](c`"))
    with pytest.raises(SystemExit, match=r"docs/guide\.md#a-store"):
        check_links(metadata("see [the guide](docs/guide.md#a-store)"))


@pytest.mark.parametrize(
    ("need", "told"),
    [
        ("numpy<1", "numpy<1.*is installed"),
        ("no-such-package", "not installed"),
        ("langchain-ralmspec[colour]", "colour"),
    ],
)
def test_extras_that_do_not_fit(need: str, told: str) -> None:
    assert check_extras(metadata(fine="numpy>=1", qwen="no-such-package")) == ["fine"]
    with pytest.raises(SystemExit, match=told):
        check_extras(metadata(odd=need))
