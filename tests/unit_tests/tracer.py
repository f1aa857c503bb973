"""A tracer that keeps every run, as it began and as it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.tracers.base import BaseTracer

if TYPE_CHECKING:
    from langchain_core.tracers.schemas import Run


class Recorder(BaseTracer):
    """Keeps runs in the order in which they began."""

    run_inline = True

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        pass

    def _on_run_create(self, run: Run) -> None:
        self.runs.append(run)

    def named(self, run: Run | None) -> str | None:
        return run.name if run else None

    def above(self, run: Run) -> Run | None:
        """The run that it is beneath; it must still go on when this one begins."""
        by_id = {each.id: each for each in self.runs}
        return by_id[run.parent_run_id] if run.parent_run_id else None

    def kinds(self, kind: str) -> list[Run]:
        return [run for run in self.runs if run.run_type == kind]

    @property
    def look_ups(self) -> list[tuple[Any, list[Any]]]:
        """Queries that have found something, and the documents' texts, in order."""
        return [
            (run.inputs["query"], [each.page_content for each in found])
            for run in self.kinds("retriever")
            if (found := (run.outputs or {}).get("documents")) is not None
        ]

    @property
    def verdicts(self) -> list[str]:
        return [told(run)["ralmspec_guess"] for run in self.kinds("retriever")]

    def check(self) -> None:
        """Every run has ended, once, within the one that it is beneath."""
        assert not self.run_map, "all have ended"
        for run in self.runs:
            assert run.end_time is not None
            if (above := self.above(run)) is not None:
                assert run in above.child_runs
                assert above.start_time <= run.start_time
                assert above.end_time is not None
                assert run.end_time <= above.end_time


def told(run: Run) -> dict[str, Any]:
    """A run's metadata."""
    metadata: dict[str, Any] = (run.extra or {})["metadata"]
    return metadata
