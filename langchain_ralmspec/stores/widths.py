"""What stores say where a search asks for more than they give at once."""

from __future__ import annotations

import re

_NAMES_OF_K = re.compile(
    r"\bk\b|\b(?:top|n)[ _-]?k\b|\bn_results\b|\bcontiguous 2D array\b"  # of hnswlib
    r"|\btoo many SQL variables\b"  # of SQLite, in Chroma
    r"|\bindex out of range\b|\bout of bounds\b"  # of a list, and of an array
    r"|\b(?:n_?|number of |nearest )neighbou?rs\b|\bnum_?candidates\b"
    r"|\b(?:number of|maximum|up to \d+) (?:\w+ )?(?:results|hits|matches)\b"
    r"|\b(?:limit|(?:page_?)?size|count|top)(?:[`'\"\]]| must\b| should\b)",
    re.IGNORECASE,
)
# What was asked is in these, and says nothing of why it failed.
_ADDRESSES = re.compile(r"\w+://\S+|\burl: \S+", re.IGNORECASE)


def speaks_of_width(error: Exception, k: int) -> bool:
    """Whether a store says that ``k`` is too many; one that is not there does not."""
    # The errors of HTTP are an OSError too, where a server did answer.
    has_answered = getattr(error, "response", None) is not None
    if isinstance(error, OSError) and not (has_answered or hasattr(error, "code")):
        return False
    said = _ADDRESSES.sub("", str(error))
    # No part of an address, a version or a code.
    quotes_k = re.search(rf"(?<![.:])(?<!code = )\b{k}\b(?![.:]\d)", said)
    return bool(quotes_k or _NAMES_OF_K.search(said))
