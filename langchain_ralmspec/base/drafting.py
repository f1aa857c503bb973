"""Whether drafts for a model can be verified, and how long they may be."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from langchain_ralmspec.engine import selftest

if TYPE_CHECKING:
    from langchain_ralmspec.engine import Model


def can_draft(target: Model) -> bool:
    """Whether drafts can be taken back; warns where they cannot."""
    can_roll_back = selftest.can_roll_back(target)
    if not can_roll_back:
        warnings.warn(
            f"the memory of {target.path.name!r} cannot be rolled back, so nothing "
            "can be drafted for it: decoding token by token",
            RuntimeWarning,
            stacklevel=2,
        )
    return can_roll_back


def longest_exact_draft(target: Model) -> int:
    """Tokens of a draft that are verified to the bit; warns where there are none."""
    size = selftest.exact_batch_size(target)
    if size == 1:
        warnings.warn(
            f"even two tokens at once make {target.path.name!r} round otherwise "
            "than one, so exact_batches=True leaves no room for drafts: decoding "
            "token by token (Q4_0 and Q8_0 files can be exact)",
            RuntimeWarning,
            stacklevel=2,
        )
    return size - 1
