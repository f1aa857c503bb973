"""What the doctor tells of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["slow", "worth knowing", "fine"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about a stack: what is the case, why that matters, and what to set.

    ``why`` and ``advice`` are empty where all is fine.
    """

    severity: Severity
    what: str
    why: str = ""
    advice: str = ""
    about: str = ""
