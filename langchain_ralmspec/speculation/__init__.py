"""Algorithms over numbers and ids: guesses, plans, costs, acceptance of drafts."""

from langchain_ralmspec.speculation.acceptance import Acceptance, Transfer
from langchain_ralmspec.speculation.cache import SessionCache
from langchain_ralmspec.speculation.calibration import (
    Calibration,
    chance_of_match,
    chance_of_probability,
)
from langchain_ralmspec.speculation.costs import Cost, Line
from langchain_ralmspec.speculation.guess import (
    GUESS_POLICIES,
    NEEDS_VECTOR,
    REPLICA,
)
from langchain_ralmspec.speculation.measured import Estimates, Source
from langchain_ralmspec.speculation.plan import Plan
from langchain_ralmspec.speculation.scheduler import Scheduler

__all__ = [
    "GUESS_POLICIES",
    "NEEDS_VECTOR",
    "REPLICA",
    "Acceptance",
    "Calibration",
    "Cost",
    "Estimates",
    "Line",
    "Plan",
    "Scheduler",
    "SessionCache",
    "Source",
    "Transfer",
    "chance_of_match",
    "chance_of_probability",
]
