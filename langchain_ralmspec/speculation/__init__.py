"""Pure algorithms over numbers and ids; imports nothing else of this package."""

from langchain_ralmspec.speculation.bounds import Bounds
from langchain_ralmspec.speculation.cache import SessionCache, session_cache
from langchain_ralmspec.speculation.costs import Line
from langchain_ralmspec.speculation.guess import (
    GUESS_POLICIES,
    GuessPolicy,
    Lookup,
    SameDocument,
)
from langchain_ralmspec.speculation.statistics import SpeculationStats
from langchain_ralmspec.speculation.stride import Estimates, Plan, StrideScheduler

__all__ = [
    "GUESS_POLICIES",
    "Bounds",
    "Estimates",
    "GuessPolicy",
    "Line",
    "Lookup",
    "Plan",
    "SameDocument",
    "SessionCache",
    "SpeculationStats",
    "StrideScheduler",
    "session_cache",
]
