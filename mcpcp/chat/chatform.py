"""The service's own form of requests, answers and events: `/chat`, `/execute`, `/tools`."""

from __future__ import annotations

from typing import Any, Final

from mcpcp.chat.edge import described
from mcpcp.chat.runner import Event, Finished, Progress, Record, Request, Result, Started, Token
from mcpcp.errors import McpcpError
from mcpcp.jsonrpc import encode

_PROGRESS: Final[tuple[str, ...]] = ("progress", "total", "message")


def request_of(body: dict[str, Any]) -> Request:
    """The request that a checked body means."""
    return Request(body["messages"], body.get("model"), body.get("max_turns"))


def record_of(record: Record) -> dict[str, Any]:
    """A tool call and its end."""
    return {
        "id": record.id,
        "name": record.name,
        "arguments": record.arguments,
        "result": record.result,
        "error": record.error,
        "duration": round(record.duration, 6),
        "attachments": list(record.attachments),
    }


def answer_of(result: Result) -> dict[str, Any]:
    """The whole answer."""
    return {
        "message": result.message,
        "tool_calls": [record_of(record) for record in result.records],
        "usage": dict(result.usage),
        "model": result.model,
        "finish_reason": result.finish,
    }


class ChatEvents:
    """Named events; what each holds is said in the OpenAPI document."""

    def event(self, event: Event) -> bytes:
        """See Writer."""
        match event:
            case Token(text):
                return _event("token", {"text": text})
            case Started(record):
                started = {"id": record.id, "name": record.name, "arguments": record.arguments}
                return _event("tool_started", started)
            case Progress(record, params):
                known = {k: params[k] for k in _PROGRESS if k in params}
                return _event("tool_progress", {"id": record.id, **known})
            case Finished(record):
                return _event("tool_finished", record_of(record))

    def done(self, result: Result) -> bytes:
        """See Writer."""
        return _event("done", answer_of(result))

    def failed(self, error: McpcpError) -> bytes:
        """See Writer."""
        return _event("error", described(error)[1])


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + encode(data) + b"\n\n"
