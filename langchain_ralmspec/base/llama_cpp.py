"""What becomes of the arguments of LangChain's models over llama-cpp-python.

``ChatLlamaCpp`` and ``LlamaCpp`` of langchain-community take more than the models here
do; who swaps a line is told of each argument what stands in for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import RunnableBinding

from langchain_ralmspec.errors import InvalidValueError, UnknownArgumentError

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

_POOR_DEFAULTS = {"n_ctx", "n_batch", "rope_freq_base", "rope_freq_scale"}
"""Arguments whose defaults there suit none of today's models."""

_TOLD = ("tags", "metadata", "callbacks")
"""What ``with_config`` binds that a model may have as well."""

_OF_CALLS = {"streaming", "profile"}
"""Arguments that say nothing of an answer's text."""

NO_COUNTERPART = {
    "client": "the model is loaded from model_path, and shared by itself",
    "echo": "an answer never repeats its prompt; put prompt and answer together",
    "f16_kv": 'the KV has 16 bits, as True means, or 8: kv_type="q8_0"',
    "grammar_path": "give the file's text as grammar=…",
    "logits_all": "there is no counterpart; logits are computed where they are needed",
    "logprobs": "there is no counterpart: probabilities are not told",
    "lora_base": "merge the adapter into the GGUF (llama-export-lora) and load that",
    "lora_path": "merge the adapter into the GGUF (llama-export-lora) and load that",
    "model_kwargs": "give what is in it as arguments, such as min_p=…",
    "n_parts": "a model file tells its parts itself; leave it out",
    "streaming": "stream() gives all pieces, to callbacks too; leave it out",
    "suffix": "there is no counterpart: an answer ends without a text behind it",
    "vocab_only": "the whole model is loaded; a tokenizer alone can be had elsewhere",
}
"""Arguments that are refused, and what to do instead."""

_OF_FROM_CHAIN = {
    "llm": "from_chain(llm=…) takes its settings over; else give model_path=…",
}
"""Arguments that only ``from_chain`` takes."""


def refuse(owner: str, name: str) -> None:
    """Refuse an argument that there is elsewhere, and say what to do instead.

    Raises:
        UnknownArgumentError: it is one of them.
    """
    told = {**NO_COUNTERPART, **_OF_FROM_CHAIN}.get(name)
    if told is not None:
        msg = f"{owner} has no argument {name!r}: {told}"
        raise UnknownArgumentError(msg)


def settings_of(
    llm: Any, owner: str, engine: Container[str], besides: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a ``ChatLlamaCpp`` or ``LlamaCpp``, as a model here takes them.

    Args:
        llm: the model, or a ``bind(…)`` of it, whose arguments count as well.
        owner: the class that they are for, named in errors.
        engine: arguments that are taken even where they were not given, for there they
            have defaults of their own; others of LangChain's are if they were.
        besides: arguments that are given beside the model, and prevail.

    Raises:
        InvalidValueError: it is no such model, or bounds no answer.
        UnknownArgumentError: it was given an argument that has no counterpart.
    """
    bound: dict[str, Any] = {}
    while isinstance(llm, RunnableBinding):
        told = {name: llm.config[name] for name in _TOLD if name in llm.config}  # type: ignore[literal-required]
        bound = {**told, **llm.kwargs, **bound}
        llm = llm.bound
    is_model = isinstance(llm, BaseLanguageModel) and hasattr(llm, "model_path")
    if not is_model or type(llm).__module__.startswith("langchain_ralmspec."):
        msg = (
            "llm must be a ChatLlamaCpp or LlamaCpp, whose model_path and settings are "
            f"taken over, got {type(llm).__name__}; else give model_path=…"
        )
        raise InvalidValueError(msg)
    taken: dict[str, Any] = {}
    fields = type(llm).model_fields
    for name in fields.keys() - _OF_CALLS:
        value = getattr(llm, name)
        is_given = name in llm.model_fields_set
        if name in NO_COUNTERPART:
            default = fields[name].get_default(call_default_factory=True)
            if is_given and value != default and name != "client":
                refuse(owner, name)
        elif (value is not None or name == "max_tokens") and (
            is_given or (name in engine and name not in _POOR_DEFAULTS)
        ):
            taken[name] = value
    own = {name: v for name, v in {**taken, **bound}.items() if name not in besides}
    return {**_as_meant_there(own), **besides}


def _as_meant_there(settings: dict[str, Any]) -> dict[str, Any]:
    """The arguments, without values that llama-cpp-python takes for "as it pleases".

    Raises:
        InvalidValueError: an answer would have no bound.
    """
    most = settings.get("max_tokens", 1)
    if most is None or (isinstance(most, int) and most < 1):
        msg = (
            f"max_tokens={most!r} of the llm lets an answer go on until n_ctx is full; "
            "here room is kept for all of it: give from_chain(…, max_tokens=…)"
        )
        raise InvalidValueError(msg)
    return {k: v for k, v in settings.items() if (k, v) != ("n_threads", 0)}
