"""The command ``ralmspec``."""

from __future__ import annotations

import os
import sys

from langchain_ralmspec.errors import MissingExtraError, RaLMSpecError
from langchain_ralmspec.machine import openmp_environment, wait_briefly

OPENMP_AT_START = openmp_environment()
"""As the user's shell has it, before :func:`main` sets it for our own commands."""


def main() -> None:
    """Run the command line."""
    # llama.cpp, torch and FAISS each bring an OpenMP pool whose threads spin while
    # they wait, against one another. It has to be said before any of them loads.
    wait_briefly()
    os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")
    try:
        try:
            from langchain_ralmspec.cli.app import app
        except ImportError as error:
            raise MissingExtraError.of(error.name or "typer", "cli") from error
        app()
    except RaLMSpecError as error:
        sys.exit(f"ralmspec: {error}")
