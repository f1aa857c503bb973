"""Pure algorithms over numbers and ids; imports nothing else of this package."""

from langchain_ralmspec.speculation.bounds import Bounds
from langchain_ralmspec.speculation.cache import SessionCache
from langchain_ralmspec.speculation.guess import (
    GUESS_POLICIES,
    GuessPolicy,
    Lookup,
    SameDocument,
)
from langchain_ralmspec.speculation.statistics import SpeculationStats

__all__ = [
    "GUESS_POLICIES",
    "Bounds",
    "GuessPolicy",
    "Lookup",
    "SameDocument",
    "SessionCache",
    "SpeculationStats",
]
