"""What a tool returned, as the model and as the caller get it; pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

LARGEST_SHOWN: Final = 1_000_000
"""Characters of a result's text that a caller is shown at most."""
MOST_ATTACHED: Final = 8 * 1024 * 1024
"""Characters of base64 that one call's images and files may have together."""

_TAG: Final = re.compile(r"<\s*(/?)\s*(tool_result)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A call's end: `text` is for the model, `attachments` are content blocks for the caller."""

    text: str
    failed: bool = False
    attachments: tuple[dict[str, Any], ...] = ()


def of(result: dict[str, Any]) -> Outcome:
    """The result of `tools/call`; what is no text is named to the model and kept for the caller."""
    content = result.get("content")
    blocks = [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []
    attachments = _bounded([b for b in blocks if _text(b) is None])
    texts = [text if (text := _text(b)) is not None else _named(b) for b in blocks]
    if not texts and "structuredContent" in result:
        texts = [json.dumps(result["structuredContent"], ensure_ascii=False)]
    failed = result.get("isError") is True
    return Outcome("\n".join(texts) or "(no output)", failed, attachments)


def _text(block: dict[str, Any]) -> str | None:
    """A text block's text, and that of a text resource which is embedded."""
    if block.get("type") == "text":
        return str(block.get("text", ""))
    resource = block.get("resource")
    if block.get("type") == "resource" and isinstance(resource, dict) and "text" in resource:
        return str(resource["text"])
    return None


def _named(block: dict[str, Any]) -> str:
    """An image and its like in words: most models can't look at what a tool returns."""
    kind = str(block.get("type", "content"))[:40]
    what = str(block.get("mimeType") or block.get("uri") or "")[:200]
    return f"[{kind} {what}".rstrip() + ": shown to the user, not to you]"


def _bounded(blocks: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    kept: list[dict[str, Any]] = []
    size = 0
    for block in blocks:
        size += len(json.dumps(block))
        if size > MOST_ATTACHED:
            break
        kept.append(block)
    return tuple(kept)


def truncated(text: str, limit: int) -> str:
    """At most `limit` characters, the beginning and the end, and a marker of what is missing."""
    if len(text) <= limit:
        return text
    tail = limit // 4
    head = limit - tail
    left_out = len(text) - limit
    end = text[-tail:] if tail else ""
    return f"{text[:head]}\n[... {left_out} characters left out here ...]\n{end}"


def marked(tool: str, text: str) -> str:
    """Between tags that the system message calls data, and that the text can't close itself."""
    inside = _TAG.sub(r"&lt;\1\2", text)
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", tool)[:128]
    return f'<tool_result tool="{name}">\n{inside}\n</tool_result>'
