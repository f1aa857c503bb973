"""Pure algorithms over numbers and ids; imports of this package only its errors."""

from langchain_ralmspec.speculation.acceptance import Acceptance, Transfer
from langchain_ralmspec.speculation.bounds import Bounds
from langchain_ralmspec.speculation.cache import SessionCache
from langchain_ralmspec.speculation.costs import Line
from langchain_ralmspec.speculation.draft_length import (
    BatchCosts,
    DraftEstimates,
    DraftScheduler,
    chances_of_match,
)
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
    "Acceptance",
    "BatchCosts",
    "Bounds",
    "DraftEstimates",
    "DraftScheduler",
    "Estimates",
    "GuessPolicy",
    "Line",
    "Lookup",
    "Plan",
    "SameDocument",
    "SessionCache",
    "SpeculationStats",
    "StrideScheduler",
    "Transfer",
    "chances_of_match",
]
