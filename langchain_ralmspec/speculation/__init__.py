"""Algorithms over numbers and ids: guesses, plans, costs, acceptance of drafts."""

from langchain_ralmspec.speculation.acceptance import Acceptance, Transfer
from langchain_ralmspec.speculation.batch_costs import BatchCosts
from langchain_ralmspec.speculation.cache import SessionCache
from langchain_ralmspec.speculation.costs import Line
from langchain_ralmspec.speculation.draft_length import (
    DraftEstimates,
    DraftScheduler,
    chances_of_match,
)
from langchain_ralmspec.speculation.estimates import Estimates
from langchain_ralmspec.speculation.guess import (
    GUESS_POLICIES,
    NEEDS_VECTOR,
    REPLICA,
)
from langchain_ralmspec.speculation.plan import Plan
from langchain_ralmspec.speculation.stride import StrideScheduler

__all__ = [
    "GUESS_POLICIES",
    "NEEDS_VECTOR",
    "REPLICA",
    "Acceptance",
    "BatchCosts",
    "DraftEstimates",
    "DraftScheduler",
    "Estimates",
    "Line",
    "Plan",
    "SessionCache",
    "StrideScheduler",
    "Transfer",
    "chances_of_match",
]
