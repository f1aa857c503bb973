"""Run ``ralmspec`` in this process, and read what it says."""

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from langchain_ralmspec import cli


def run(*arguments: str) -> Any:
    """Run a command line; its exit status, or what it says of an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ralmspec", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    return caught.value.code


def printed(tell: Callable[..., object], *what: Any, width: int = 80) -> str:
    """What something says to a console of this width."""
    file = io.StringIO()
    tell(*what, Console(file=file, width=width))
    return file.getvalue()
