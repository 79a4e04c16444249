"""OpenAI's form of requests and answers: `/v1/chat/completions` and `/v1/models`.

Tools run here, so a client sees nothing of them but the answer that rests on them.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

from mcpcp.chat.edge import described
from mcpcp.chat.runner import Event, Request, Result, Token
from mcpcp.errors import McpcpError
from mcpcp.jsonrpc import encode

_PASSED: Final = (
    *("temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed"),
    *("presence_penalty", "frequency_penalty", "logit_bias", "reasoning_effort", "user"),
)
"""What says how the model is to answer: passed on as it is. Everything else is not."""


def request_of(body: dict[str, Any]) -> Request:
    """The request that a checked body means."""
    options = {name: body[name] for name in _PASSED if body.get(name) is not None}
    return Request(body["messages"], body.get("model"), options=options)


def completion_of(result: Result) -> dict[str, Any]:
    """The whole answer."""
    choice = {"index": 0, "message": result.message, "finish_reason": result.finish}
    return {
        **_head("chat.completion", result.model),
        "choices": [{**choice, "logprobs": None}],
        "usage": dict(result.usage),
    }


def models_of(names: Sequence[str]) -> dict[str, Any]:
    """The list of models."""
    entries = [{"id": name, "object": "model", "created": 0, "owned_by": "mcpcp"} for name in names]
    return {"object": "list", "data": entries}


class CompletionChunks:
    """The chunks of one streamed completion."""

    def __init__(self, model: str, with_usage: bool) -> None:
        self._head = _head("chat.completion.chunk", model)
        self._with_usage = with_usage
        self._begun = False

    def event(self, event: Event) -> bytes:
        """See Writer; only text is known to such clients."""
        if not isinstance(event, Token):
            return b""
        delta: dict[str, Any] = {"content": event.text}
        if not self._begun:
            self._begun = True
            delta = {"role": "assistant", **delta}
        return self._chunk(delta, None)

    def done(self, result: Result) -> bytes:
        """See Writer."""
        said: dict[str, Any] = {}
        if not self._begun:
            said = {"role": "assistant", "content": result.message["content"]}
        end = self._chunk(said, result.finish)
        if self._with_usage:
            end += _data({**self._head, "choices": [], "usage": dict(result.usage)})
        return end + b"data: [DONE]\n\n"

    def failed(self, error: McpcpError) -> bytes:
        """See Writer."""
        return _data(described(error)[1])

    def _chunk(self, delta: dict[str, Any], finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data({**self._head, "choices": [choice]})


def _head(kind: str, model: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + encode(value) + b"\n\n"
