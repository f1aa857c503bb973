"""What is slow in a stack, and what to set."""

from langchain_ralmspec.cli.doctor.command import doctor

__all__ = ["doctor"]
