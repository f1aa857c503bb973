"""The keys and values of a sequence: in a slot, or as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The KV of a sequence, outside the context: ``length`` tokens as bytes."""

    length: int
    state: NDArray[np.uint8]


@dataclass(eq=False, slots=True, weakref_slot=True)
class KV:
    """The keys and values of one sequence, in a slot or parked; ``Slots`` changes it.

    Attributes:
        length: number of tokens decoded so far.
        slot: the slot of the context that holds it now; None while it is parked.
        parked: its bytes while it is not in a slot; None for an empty sequence.
    """

    length: int = 0
    slot: int | None = None
    parked: NDArray[np.uint8] | None = None
