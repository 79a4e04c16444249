"""The service's OpenAPI document; requests are checked against the very schemas that it shows."""

from __future__ import annotations

from typing import Any, Final

from mcpcp import __version__

Schema = dict[str, Any]

_ROLES: Final = ["system", "developer", "user", "assistant", "tool"]
_CONTENT: Final[Schema] = {
    "type": ["string", "array", "null"],
    "items": {"type": "object"},
    "description": "text, or parts of OpenAI's form",
}
MESSAGE: Final[Schema] = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": _ROLES}, "content": _CONTENT},
}
_MESSAGES: Final[Schema] = {
    "type": "array",
    "items": MESSAGE,
    "minItems": 1,
    "maxItems": 2000,
    "description": "the conversation so far, oldest first",
}
_MODEL: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 200}

CHAT_REQUEST: Final[Schema] = {
    "type": "object",
    "required": ["messages"],
    "additionalProperties": False,
    "properties": {
        "messages": _MESSAGES,
        "model": {**_MODEL, "description": "default: LLM_MODEL_NAME"},
        "stream": {"type": "boolean", "default": False, "description": "answer with events"},
        "max_turns": {
            "type": "integer",
            "minimum": 1,
            "maximum": 100,
            "description": "how often tools may be called before the answer; at most the config's",
        },
    },
}
EXECUTE_REQUEST: Final[Schema] = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "description": "as GET /tools lists it"},
        "arguments": {"type": "object", "default": {}},
    },
}
COMPLETION_REQUEST: Final[Schema] = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        "messages": _MESSAGES,
        "model": _MODEL,
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": "boolean"}},
        },
        "n": {"enum": [1, None], "description": "one answer is made"},
        "tools": {
            "type": ["array", "null"],
            "maxItems": 0,
            "description": "none: the tools are those of the caller's token, and are run here",
        },
    },
}
_USAGE: Final[Schema] = {
    "type": "object",
    "properties": {
        name: {"type": "integer"} for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    },
}
_RECORD: Final[Schema] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "name": {"type": "string"},
        "arguments": {"type": "object"},
        "result": {"type": ["string", "null"], "description": "the tool's text; null on failure"},
        "error": {
            "type": ["string", "null"],
            "description": "why it failed; null where it did not",
        },
        "duration": {"type": "number", "description": "seconds"},
        "attachments": {
            "type": "array",
            "items": {"type": "object"},
            "description": "what is no text, as MCP content: images have mimeType and base64 data",
        },
    },
}
_ANSWER: Final[Schema] = {
    "type": "object",
    "properties": {
        "message": MESSAGE,
        "tool_calls": {"type": "array", "items": _RECORD},
        "usage": _USAGE,
        "model": {"type": "string"},
        "finish_reason": {"enum": ["stop", "length", "content_filter"]},
    },
}
_ERROR: Final[Schema] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "code": {"type": "integer"},
            },
        }
    },
}
_EVENTS: Final = (
    "With `stream: true` the answer is a stream of server-sent events: `token` {text},"
    " `tool_started` {id, name, arguments}, `tool_progress` {id, progress, total?, message?},"
    " `tool_finished` (a tool call's record), and at the end `done` (the whole answer) or `error`."
)


def _body(schema: Schema) -> Schema:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _operation(summary: str, answer: Schema, *, body: Schema | None = None, **more: Any) -> Schema:
    ok = {"description": "OK", "content": {"application/json": {"schema": answer}}}
    failed = {"description": "What went wrong", "content": {"application/json": {"schema": _ERROR}}}
    request = {"requestBody": _body(body)} if body is not None else {}
    return {"summary": summary, **request, "responses": {"200": ok, "default": failed}, **more}


_OPEN: Final[Schema] = {"security": []}
_TOOLS: Final[Schema] = {
    "type": "object",
    "properties": {"tools": {"type": "array", "items": {"type": "object"}}},
}
_READY: Final[Schema] = {
    "type": "object",
    "properties": {
        "status": {"enum": ["ready", "not_ready"]},
        "dependencies": {"type": "object", "description": "state and detail of each by its name"},
    },
}


def document() -> Schema:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mcpcp chat",
            "version": __version__,
            "description": "A language model that uses the tools of the caller's token.",
        },
        "security": [{"agentToken": []}],
        "components": {
            "securitySchemes": {
                "agentToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "an agent's token: `mcpcp token issue NAME`",
                }
            }
        },
        "paths": {
            "/chat": {
                "post": _operation(
                    "Answer, with tools where they help",
                    _ANSWER,
                    body=CHAT_REQUEST,
                    description=_EVENTS,
                )
            },
            "/tools": {"get": _operation("The tools of the caller's token", _TOOLS)},
            "/execute": {
                "post": _operation("Call one tool, without a model", _RECORD, body=EXECUTE_REQUEST)
            },
            "/v1/chat/completions": {
                "post": _operation(
                    "The same as /chat in OpenAI's form",
                    {"type": "object"},
                    body=COMPLETION_REQUEST,
                    description="Other members, such as temperature, are passed on to the model.",
                )
            },
            "/v1/models": {"get": _operation("The models that there are", {"type": "object"})},
            "/health": {
                "get": _operation("Whether the process serves", {"type": "object"}, **_OPEN)
            },
            "/ready": {
                "get": _operation("Whether all that it needs is there (else 503)", _READY, **_OPEN)
            },
            "/metrics": {
                "get": {
                    "summary": "Counters for Prometheus, which shows the scrape token",
                    "responses": {"200": {"description": "OK", "content": {"text/plain": {}}}},
                }
            },
        },
    }
