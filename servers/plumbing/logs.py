"""Structured logs to stderr: one line a record, `key=value` for people or JSON for machines.

Each line that is written while a request is worked on carries the request's id; none has a secret.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

Format = Literal["text", "json"]

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The request that is worked on, as the gateway calls it."""

_TOKENS = re.compile(r"(?i)(?<=bearer )[^\s\"',]+|\beyJ[\w-]+\.[\w-]+\.[\w-]*")
_WORD = re.compile(r'[^ "=]+')
_HIDDEN = "[hidden]"
_secrets: set[str] = set()

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_CHATTY = ("mcp", "uvicorn", "httpx2", "httpcore2", "sse_starlette", "asyncio", "docker", "urllib3")


def hide(*secrets: str) -> None:
    """Keep these out of every line from now on."""
    _secrets.update(secrets)


def configure(level: str, style: Format) -> None:
    """Send every record to stderr; libraries are heard from WARNING on, unless `level` is DEBUG."""
    logging._srcfile = None  # file and line are not looked for: no formatter here shows them
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if level != "DEBUG":
        for name in _CHATTY:
            logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    request = request_id.get()
    return {**fields, "request": request} if request else fields


def _without_secrets(text: str) -> str:
    for secret in _secrets:
        text = text.replace(secret, _HIDDEN)
    lower = text.lower()
    if "bearer " in lower or "eyj" in lower:  # the pattern alone is half of what a line costs
        text = _TOKENS.sub(_HIDDEN, text)
    return text


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class TextFormatter(logging.Formatter):
    """`time LEVEL logger: message key=value ...`; line breaks in values are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {key}={_shown(value)}" for key, value in _fields(record).items())
        message = _one_line(record.getMessage())
        line = f"{_moment(record)} {record.levelname} {record.name}: {message}{pairs}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return _without_secrets(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, message, the extra fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _moment(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return _without_secrets(json.dumps(entry, default=str))


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _shown(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and _WORD.fullmatch(text)
    return text if plain else json.dumps(text)
