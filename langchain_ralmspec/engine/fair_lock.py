"""A lock that is given in the order in which it was asked for."""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """A lock that nobody overtakes, where ``threading.Lock`` goes to who runs already.

    Else a thread that reads a long text, call after call, would keep it.
    """

    def __init__(self) -> None:
        """Start free."""
        self._mutex = threading.Lock()
        self._gates: deque[threading.Lock] = deque()  # of its owner, and who waits

    def __enter__(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        try:
            with self._mutex:
                self._gates.append(gate)
                if len(self._gates) == 1:
                    return
            gate.acquire()
        except BaseException:  # Ctrl-C
            self._leave(gate)
            raise

    def __exit__(self, *_: object) -> None:
        self._leave(self._gates[0])

    def _leave(self, gate: threading.Lock) -> None:
        with self._mutex:
            if gate not in self._gates:
                return
            is_owner = self._gates[0] is gate
            self._gates.remove(gate)
            if is_owner and self._gates:
                self._gates[0].release()
