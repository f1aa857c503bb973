"""Documents that were found are read, and an answer is begun behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_ralmspec.engine.heads import aligned
from langchain_ralmspec.ralm import BLOCK, Branch

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_ralmspec.answer.statistics import SpeculationStats
    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.ralm import DocumentLayout, Prompt
    from langchain_ralmspec.ralm.hits import Hits


def branch_under(
    hits: Hits,
    *,
    model: Model,
    prompt: Prompt,
    layout: DocumentLayout,
    require: Callable[..., None],
    namespace: str | None,
    with_tail: bool,
    stats: SpeculationStats,
) -> Branch:
    """Read head and documents, and the prompt's tail as well where no others follow.

    Raises:
        ContextOverflowError: the documents do not fit, as ``require`` says.
    """
    tokens, ends = layout.laid_out(model.weights, hits)
    require(n_documents=len(tokens))
    text, n_head = (*prompt.head, *tokens), len(prompt.head)
    border = aligned(n_head + ends[-1])
    prefix, behind = text[:border], text[border:]
    where: Any = {
        "part": BLOCK,
        "ends": [n_head + end for end in ends],
        "namespace": namespace,
    }
    with stats.laying_out("reading"):
        if with_tail:
            rest = (*behind, *prompt.tail)
            path, n_kept, logits, keep = model.read(prefix, rest, **where)
            branch = Branch(path, behind, len(rest), logits, keep)
        else:
            path, n_kept = model.find_or_open(prefix, **where)
            branch = Branch(path, behind)
    stats.cached_tokens += n_kept
    stats.read_tokens += len(prefix) - n_kept
    return branch
