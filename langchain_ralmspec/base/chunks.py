"""What a chat model's answers are told in: chunks, and blocks of content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessageChunk

from langchain_ralmspec.base.thoughts import Thought

if TYPE_CHECKING:
    from langchain_core.messages.tool import ToolCallChunk
    from langchain_core.outputs import ChatResult


def chunk_of(piece: str | ToolCallChunk, *, in_blocks: bool) -> AIMessageChunk:
    """A piece of an answer as LangChain streams it."""
    nothing: Any = [] if in_blocks else ""
    if isinstance(piece, Thought):
        # As of Ollama and DeepSeek; LangChain shows a block of reasoning by it.
        told = {"reasoning_content": str(piece)}
        block = {"type": "reasoning", "reasoning": str(piece), "index": "lc_rs_0"}
        content: Any = [block] if in_blocks else ""
        return AIMessageChunk(content=content, additional_kwargs=told)
    if isinstance(piece, str):
        return AIMessageChunk(content=block_of(piece) if in_blocks and piece else piece)
    return AIMessageChunk(content=nothing, tool_call_chunks=[piece])


def block_of(text: str, **more: Any) -> Any:
    """A piece of an answer's one text, as content; LangChain joins them by the index.

    It joins calls of tools by numbers, which this must not be one of.
    """
    return [{"type": "text", "text": text, "index": "lc_txt_0", **more}]


def whole(result: ChatResult) -> ChatResult:
    """A result without what chunks are joined by."""
    for generation in result.generations:
        content = generation.message.content
        for block in content if isinstance(content, list) else ():
            if isinstance(block, dict):
                block.pop("index", None)
    return result
