"""Print the slowest tests of pytest's JUnit reports, and how long everything took.

The first argument is when all began, in seconds since the epoch; reports follow.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

N_TESTS = 10


def main() -> None:
    """Read the reports and print the table."""
    began, *reports = sys.argv[1:]
    tests = [test for report in reports for test in tests_of(Path(report))]
    print(f"The {N_TESTS} slowest of {len(tests)} tests, set-up and teardown included:")
    for seconds, name in sorted(tests, reverse=True)[:N_TESTS]:
        print(f"{seconds:8.1f} s  {name}")
    minutes, seconds = divmod(round(time.time() - float(began)), 60)
    print(f"All steps took {minutes} min {seconds} s.")


def tests_of(report: Path) -> list[tuple[float, str]]:
    """Return the seconds and the name of every test in a report."""
    cases = ET.parse(report).iter("testcase")  # noqa: S314  our own file
    return [
        (float(c.attrib["time"]), f"{c.get('classname')}::{c.get('name')}")
        for c in cases
    ]


if __name__ == "__main__":
    main()
