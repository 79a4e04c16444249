"""What a browser is shown: the chat page, the API's documentation, and their two files."""

from __future__ import annotations

import html
import json
from collections.abc import Coroutine
from importlib.resources import files
from string import Template
from typing import Any, Final, Protocol

from mcpcp.chat import openapi
from mcpcp.config import ChatConfig
from mcpcp.config.llm import LlmSettings
from mcpcp.frontends.requests import Reply, Request
from mcpcp.jsonrpc import encode

POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing from elsewhere, nothing inline: what a tool or a model wrote can't become script."""
_HEADERS: Final = (
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)
_HTML: Final = b"text/html; charset=utf-8"
_STATIC: Final = {
    "chat.js": b"text/javascript; charset=utf-8",
    "chat.css": b"text/css; charset=utf-8",
    "icon.svg": b"image/svg+xml",
}


class Handler(Protocol):
    """Answers one request."""

    def __call__(self, request: Request, reply: Reply, /) -> Coroutine[Any, Any, None]: ...


class Pages:
    """Everything is read and rendered once; `handlers` by path."""

    def __init__(self, llm: LlmSettings, config: ChatConfig) -> None:
        folder = files(__package__).joinpath("static")
        values = {
            "model": html.escape(llm.model),
            "url": html.escape(llm.shown_url),
            "anonymous": "yes" if config.anonymous else "no",
        }
        document = openapi.document()
        text = {name: folder.joinpath(name).read_text("utf-8") for name in _TEMPLATES}
        page = Template(text["chat.html"]).substitute(values)
        docs = Template(text["docs.html"]).substitute(operations=_operations(document))
        self.handlers: dict[str, Handler] = {
            "/": _fixed(page.encode(), _HTML),
            "/docs": _fixed(docs.encode(), _HTML),
            "/openapi.json": _fixed(encode(document), b"application/json"),
            **{
                f"/static/{name}": _fixed(folder.joinpath(name).read_bytes(), kind)
                for name, kind in _STATIC.items()
            },
        }


_TEMPLATES: Final = ("chat.html", "docs.html")


def _fixed(body: bytes, content_type: bytes) -> Handler:
    async def answer(_: Request, reply: Reply) -> None:
        reply.send(200, body, content_type, _HEADERS)

    return answer


def _operations(document: dict[str, Any]) -> str:
    """The OpenAPI document for people: one section an operation."""
    parts = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method, operation))
    return "\n".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    lines = [
        f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2>",
        f"<p>{html.escape(operation['summary'])}. {html.escape(operation.get('description', ''))}",
        "<em>Open to anybody.</em></p>" if operation.get("security") == [] else "</p>",
    ]
    body = operation.get("requestBody")
    if body is not None:
        lines.append(_schema("Request", body["content"]["application/json"]["schema"]))
    answer = operation["responses"]["200"]["content"].get("application/json")
    if answer is not None:
        lines.append(_schema("Answer", answer["schema"]))
    return "\n".join([*lines, "</section>"])


def _schema(title: str, schema: dict[str, Any]) -> str:
    text = html.escape(json.dumps(schema, indent=2, ensure_ascii=False))
    return f"<details><summary>{title}</summary><pre>{text}</pre></details>"
