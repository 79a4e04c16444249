"""Where errors become answers: the one translation that all frontends share."""

from __future__ import annotations

import logging
from typing import Any

from mcpcp.callers import Caller
from mcpcp.errors import (
    DeadlineExceeded,
    Interrupted,
    Limited,
    McpcpError,
    TokenError,
    Unavailable,
)
from mcpcp.gateway import Gateway
from mcpcp.jsonrpc import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    LIMITED,
    REQUEST_TIMEOUT,
    Message,
    RpcError,
    error_response,
    response,
)
from mcpcp.methods import dispatch
from mcpcp.peer import Back

logger = logging.getLogger(__name__)


async def answer(gateway: Gateway, caller: Caller, message: Message, back: Back) -> Message:
    """The answer to one request, whatever happens to it."""
    request_id = message["id"]
    try:
        return response(request_id, await dispatch(gateway, caller, message, back))
    except McpcpError as error:
        return error_response(request_id, error_object(error))
    except Exception:
        logger.exception("request %s failed", message.get("method"))
        return error_response(
            request_id,
            {
                "code": INTERNAL_ERROR,
                "message": "Internal error: the gateway's log has the details",
            },
        )


def error_object(error: McpcpError) -> Message:
    """The JSON-RPC error object of one of our errors."""
    if isinstance(error, RpcError):
        return error.error
    if isinstance(error, Limited):
        data = {"rule": error.rule, "retryAfter": error.retry_after}
        return {"code": LIMITED, "message": str(error), "data": data}
    if isinstance(error, DeadlineExceeded):
        return {"code": REQUEST_TIMEOUT, "message": str(error)}
    if isinstance(error, Interrupted):
        return {"code": CONNECTION_CLOSED, "message": str(error), "data": {"delivered": True}}
    if isinstance(error, Unavailable):
        return {"code": CONNECTION_CLOSED, "message": str(error), "data": {"delivered": False}}
    if isinstance(error, TokenError):
        return {"code": INVALID_REQUEST, "message": str(error)}
    return {"code": INTERNAL_ERROR, "message": str(error)}


def check_message(message: Any) -> Message:
    """`message` if it is one JSON-RPC object; else RpcError."""
    if not isinstance(message, dict):
        raise RpcError(INVALID_REQUEST, "Invalid request: one JSON-RPC object is expected")
    method = message.get("method")
    if "method" in message and not isinstance(method, str):
        raise RpcError(INVALID_REQUEST, "Invalid request: method must be a string")
    request_id = message.get("id")
    if isinstance(request_id, bool) or not isinstance(request_id, str | int | float | None):
        raise RpcError(INVALID_REQUEST, "Invalid request: id must be a string or a number")
    if message.get("jsonrpc") != "2.0":
        raise RpcError(INVALID_REQUEST, 'Invalid request: jsonrpc must be "2.0"')
    return message
