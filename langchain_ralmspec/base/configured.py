"""Models whose fields the config of a call sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.runnables.config import ensure_config
from langchain_core.runnables.configurable import RunnableConfigurableFields

from langchain_ralmspec.arguments import owned
from langchain_ralmspec.registry import Registry
from langchain_ralmspec.retrievers.snapshot import is_same

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

T = TypeVar("T")

_MOST = 4
"""Configured objects that are kept: each may hold a model of its own."""


def remade(made: Any, kind: Callable[..., T]) -> T:
    """The same as an object of a kind that has its fields, such as a subclass."""
    return kind(**{name: getattr(made, name) for name in type(made).model_fields})


class KeptFields(RunnableConfigurableFields):  # type: ignore[type-arg]  # as LangChain has it
    """Fields that configs set, and the latest objects that have them set so.

    LangChain makes an object anew for each call, which would load its model anew.
    """

    def _prepare(self, config: RunnableConfig | None = None) -> Any:
        config = ensure_config(config)
        names = {field.id for field in self.fields.values()}
        given = config.get("configurable", {})
        settings = {
            "given": {name: given[name] for name in names & given.keys()},
            "fields": self.fields,
            "others": dict(self.default),  # may be set since
        }
        latest = _latest.of(self.default)  # with_config() makes another of these
        found = (each for each in latest.kept if is_same(each[0], settings))
        known = next(found, None)
        if known is None:
            made, config = super()._prepare(config)
            if made is self.default:
                return made, config
            known = owned(settings), made
        others = (each for each in latest.kept if each is not known)
        latest.kept = (known, *others)[:_MOST]
        return known[1], config


class _Latest:
    """Configured objects, the latest first, and what they were configured by."""

    # Replaced as a whole, so that no thread sees it half changed.
    kept: tuple[tuple[dict[str, Any], Any], ...] = ()


_latest = Registry(_Latest)


def close_configured(model: object) -> None:
    """Close what was configured of a model, and forget it."""
    latest = _latest.of(model)
    closing, latest.kept = latest.kept, ()
    for _, made in closing:
        made.close()
