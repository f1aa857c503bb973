"""Reports about one answer: what is kept of it, and the page that shows it."""

from langchain_ralmspec.report.page import embedded, page
from langchain_ralmspec.report.record import Call, Passage, Record, RollBack, Step

__all__ = ["Call", "Passage", "Record", "RollBack", "Step", "embedded", "page"]
