"""Threads that hardly leave one another in peace."""

import sys
import threading
from collections.abc import Callable


def failures(use: Callable[[int], object], n_threads: int = 4) -> list[Exception]:
    """What was raised by several threads that used something at once.

    Args:
        use: called once in every thread, with its number.
        n_threads: how many.
    """
    failed: list[Exception] = []

    def run(number: int) -> None:
        try:
            use(number)
        except Exception as error:  # noqa: BLE001  the caller is told
            failed.append(error)

    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run, args=(n,)) for n in range(n_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switching)
    return failed
