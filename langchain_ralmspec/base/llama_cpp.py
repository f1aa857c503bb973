"""What becomes of the arguments of LangChain's models over llama-cpp-python.

``ChatLlamaCpp`` and ``LlamaCpp`` of langchain-community take more than the models here
do; who swaps a line is told of each argument what stands in for it.
"""

from __future__ import annotations

from langchain_ralmspec.errors import UnknownArgumentError

NO_COUNTERPART = {
    "client": "the model is loaded from model_path, and shared by itself",
    "echo": "an answer never repeats its prompt; put prompt and answer together",
    "f16_kv": "the KV always has 16 bits, as True means; leave it out",
    "grammar": "there is no counterpart: no grammar constrains the answer",
    "grammar_path": "there is no counterpart: no grammar constrains the answer",
    "logits_all": "there is no counterpart; logits are computed where they are needed",
    "logprobs": "there is no counterpart: probabilities are not told",
    "lora_base": "merge the adapter into the GGUF (llama-export-lora) and load that",
    "lora_path": "merge the adapter into the GGUF (llama-export-lora) and load that",
    "model_kwargs": "give what is in it as arguments, such as min_p=…",
    "n_parts": "a model file tells its parts itself; leave it out",
    "streaming": "use stream(); only chat models have it, for their invoke()",
    "suffix": "there is no counterpart: an answer ends without a text behind it",
    "vocab_only": "the whole model is loaded; a tokenizer alone can be had elsewhere",
}
"""Arguments that are refused, and what to do instead."""


def refuse(owner: str, name: str) -> None:
    """Refuse an argument that there is elsewhere, and say what to do instead.

    Raises:
        UnknownArgumentError: it is one of them.
    """
    if name in NO_COUNTERPART:
        msg = f"{owner} has no argument {name!r}: {NO_COUNTERPART[name]}"
        raise UnknownArgumentError(msg)
