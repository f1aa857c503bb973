"""What a message's content says: blocks of every provider, read as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from reprlib import repr as shortened
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    FunctionMessage,
    ToolMessage,
)

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.text import well_formed

_SAID = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "text-plain": "text",
    "refusal": "refusal",
}
"""Kinds of blocks that are text, and the key that it stands under."""

_WITHIN = {"document", "search_result", "file"}
"""Kinds of blocks that may have text in them, or what is none."""

_DEEPEST = 32  # blocks within blocks; those of services are four at most

_UNSAID = {
    *("thinking", "redacted_thinking", "reasoning", "reasoning_content"),
    *("tool_call", "tool_call_chunk", "invalid_tool_call"),
    *("tool_use", "function_call", "input_json_delta"),
    *("cachePoint", "cache_point"),
}
"""Kinds of blocks that say nothing: thoughts are not sent back, calls are told by the
message itself, and what a service is to cache concerns no other."""

_WITHOUT_TYPE = {"json", "cachePoint", "cache_point"}
"""Beside ``text``, the types that Bedrock's blocks of a tool's result have by a key."""

_INSTEAD = {
    "image": "describe the picture in words, or have a model that sees do so",
    "audio": "send its transcript",
    "video": "send its transcript, or a description",
    "file": "load its text, by a document loader for example, and send that",
    "tool_result": "send a ToolMessage(content, tool_call_id=…)",
}
_ALIASES = {
    "image_url": "image",
    "input_image": "image",
    "image_file": "image",
    "input_audio": "audio",
    "video_url": "video",
    "input_file": "file",
    "document": "file",
    "media": "file",
    "text-plain": "file",
}


def text_of(message: BaseMessage, place: str) -> str:
    """What a message says, in whatever blocks it does.

    Pieces of an answer are joined as they were written; blocks of anybody else are
    paragraphs or results of their own, and stand on lines of their own.

    Args:
        message: of any kind.
        place: where it stands, for errors.

    Raises:
        InvalidValueError: there is a block that is no text.
    """
    content = message.content
    if isinstance(content, str):
        return well_formed(content)
    reader = _Reader(
        place,
        is_answer=isinstance(message, AIMessage),
        is_result=isinstance(message, ToolMessage | FunctionMessage),
    )
    separator = "" if reader.is_answer else "\n"
    return well_formed(separator.join(reader.texts(content)))


class _Reader:
    """Reads the blocks of one message."""

    def __init__(self, place: str, *, is_answer: bool, is_result: bool) -> None:
        self._place, self._is_result = place, is_result
        self.is_answer = is_answer

    def texts(self, blocks: Any, depth: int = 0) -> Iterator[str]:
        """What blocks say, one after the other; these are ``depth`` blocks deep."""
        for block in blocks if isinstance(blocks, list | tuple) else [blocks]:
            text = block if isinstance(block, str) else self._text(block, depth)
            if text:
                yield text

    def _text(self, block: Any, depth: int) -> str:
        if not isinstance(block, Mapping):
            raise self._refusal(type(block).__name__, block)
        kind = str(block.get("type") or _kind_of(block))
        if depth > _DEEPEST:
            raise self._refusal(
                kind, block, f"unnest it: none may be {_DEEPEST} others deep"
            )
        if self._is_result and not (block.get("type") or _is_bedrocks(block)):
            return self._json(kind, block)
        if kind == "non_standard" and isinstance(block.get("value"), Mapping):
            return self._text(block["value"], depth + 1)
        if kind == "json":
            return self._json(kind, block.get("json"))
        said = block.get(_SAID[kind]) if kind in _SAID else None
        if isinstance(said, Mapping):  # as OpenAI's assistants have it
            said = said.get("value")
        if said is None and kind in _WITHIN:
            said = self._within(block, depth + 1)
        if isinstance(said, str):
            return said
        known = _ALIASES.get(kind, kind)
        # What else stands in an answer is its service's own: what that has searched,
        # run or cited by itself.
        is_own = self.is_answer and said is None and known not in _INSTEAD
        if kind in _UNSAID or is_own:
            return ""
        raise self._refusal(
            kind, block, _INSTEAD.get(known, "send what it says as text")
        )

    def _refusal(
        self, kind: str, block: Any, instead: str = "send what it says as text"
    ) -> InvalidValueError:
        msg = (
            f"{self._place} has a content block of type {kind!r}, {_shown(block)}, "
            f"which cannot be read: the model reads text alone; {instead}"
        )
        return InvalidValueError(msg)

    def _within(self, block: Mapping[str, Any], depth: int) -> str | None:
        """The text of a document or of a found passage, behind its title."""
        source = block.get("source")
        said = block.get("text") or block.get("content")
        if isinstance(source, Mapping):
            is_text = source.get("type") in {"text", "content"}
            said = (source.get("data") or source.get("content")) if is_text else None
        if not isinstance(said, str | list):
            return None
        heads = [h for h in (block.get("title"), source) if isinstance(h, str)]
        return "\n".join([*heads, *self.texts(said, depth)])

    def _json(self, kind: str, value: Any) -> str:
        try:
            return json.dumps(value, ensure_ascii=False, default=str)
        except Exception as error:  # whatever is asked for its text
            raise self._refusal(kind, value, f"it is not JSON ({error})") from error


def _kind_of(block: Mapping[str, Any]) -> str:
    """The type of a block that does not tell it; its first key, as Bedrock has it."""
    return "text" if "text" in block else next(iter(block), "none")


def _is_bedrocks(block: Mapping[str, Any]) -> bool:
    """Whether what a tool gave is a block of Bedrock's, and not data of its own.

    Bedrock's have their type for their only key.
    """
    if len(block) != 1:
        return False
    (key, value), *_ = block.items()
    return key in _WITHOUT_TYPE or (key == "text" and isinstance(value, str))


def _shown(block: Any) -> str:
    try:
        return f"{block!r:.60}"
    except RecursionError:
        return shortened(block)
