"""Log lines for people or for machines: each with its request's id, none with a secret.

`servers/plumbing/logs.py` writes the same forms; `mcpcp logs --request` reads both.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any, Final, Literal

from mcpcp import requestid

Style = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]

HIDDEN: Final = "[hidden]"

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_TOKENS = re.compile(r"(?i)(?<=bearer )[^\s\"',]+|\beyJ[\w-]+\.[\w-]+\.[\w-]*")
_secrets: set[str] = set()


def hide(secret: str) -> None:
    """Keep `secret` out of every line from now on."""
    if secret:
        _secrets.add(secret)


def without_secrets(text: str) -> str:
    """`text` without tokens and without what is to be hidden."""
    for secret in _secrets:
        text = text.replace(secret, HIDDEN)
    return _TOKENS.sub(HIDDEN, text)


def formatter(style: Style) -> logging.Formatter:
    """Makes one line a record, and more only for a traceback."""
    return JsonFormatter() if style == "json" else TextFormatter()


def configure(style: Style, level: Level, handler: logging.Handler) -> None:
    """Send every record of this process to `handler`, in that form."""
    handler.setFormatter(formatter(style))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class TextFormatter(logging.Formatter):
    """`time LEVEL logger: message key=value ...`; line breaks in messages are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        pairs = "".join(f" {key}={_shown(value)}" for key, value in _fields(record).items())
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{_moment(record)} {record.levelname} {record.name}: {message}{pairs}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return without_secrets(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, message, the fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        entry: dict[str, Any] = {
            "time": _moment(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return without_secrets(json.dumps(entry, default=str))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    request = requestid.current()
    return {**fields, "request": request} if request else fields


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _shown(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not any(c in ' "=' for c in text)
    return text if plain else json.dumps(text)
