"""Run ``ralmspec`` in this process."""

import sys
from typing import Any

import pytest

from langchain_ralmspec import cli


def run(*arguments: str) -> Any:
    """Run a command line; its exit status, or what it says of an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ralmspec", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    return caught.value.code
