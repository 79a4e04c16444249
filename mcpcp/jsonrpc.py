"""JSON-RPC messages as raw dicts: read, written and answered; no types of MCP's.

Above: `peer` holds a conversation, the frontends speak to clients. What is in a message that we do
not know passes untouched; that is why there are no typed models here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from mcpcp import depth
from mcpcp.errors import McpcpError
from mcpcp.verbatim import pieces, read_answer

Message = dict[str, Any]
Notify = Callable[[Message], None]


PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
RESOURCE_NOT_FOUND: Final = -32002
CONNECTION_CLOSED: Final = -32000
REQUEST_TIMEOUT: Final = -32001
LIMITED: Final = -32029
HEADER_MISMATCH: Final = -32020
UNSUPPORTED_PROTOCOL_VERSION: Final = -32022


class RpcError(McpcpError):
    """A JSON-RPC error object, ours or one that a server answered; passed on as it is."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.error: Message = {"code": code, "message": message}
        if data is not None:
            self.error["data"] = data

    @classmethod
    def of(cls, error: Any) -> RpcError:
        """From an answer's `error` member; unknown members are kept."""
        if not isinstance(error, dict):
            return cls(INTERNAL_ERROR, f"the server answered a malformed error: {error!r:.200}")
        code = error.get("code")
        message = str(error.get("message") or "the server gave no reason")
        rpc_error = cls(code if type(code) is int else INTERNAL_ERROR, message)
        rpc_error.error = {**error, **rpc_error.error}
        return rpc_error


def decode(raw: bytes) -> Any:
    """Parse one JSON text; `RpcError` with PARSE_ERROR where it is none, or nested too deep."""
    try:
        value = orjson.loads(raw)
        if depth.may_be_deep(raw):
            depth.check(value)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
        raise RpcError(PARSE_ERROR, f"Parse error: {error}") from None
    return value


def decode_reply(raw: bytes) -> Any:
    """Parse what a server says, as `decode` does; an answer's result can pass as it was written."""
    answer = read_answer(raw)
    return decode(raw) if answer is None else answer


def encode(value: Any) -> bytes:
    """The JSON text of a message, or of any other value; results pass as they were written."""
    return b"".join(pieces(value))


def response(request_id: Any, result: Any) -> Message:
    """The answer to request `request_id`; `id` comes second, which the stdio relay relies on."""
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def error_response(request_id: Any, error: Message) -> Message:
    """The error answer to request `request_id`."""
    return {"jsonrpc": "2.0", "id": request_id, "error": error}


def notification(method: str, params: Message | None = None) -> Message:
    """A message that is not answered."""
    message: Message = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return message
