"""The W3C trace context that a request brought in its HTTP headers, while it is worked on.

MCP's own place for it is `_meta`, where a client of the protocol writes it; the headers are written
by what a client runs in, such as an instrumented HTTP library. What is in `_meta` counts first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Final

PARENT: Final = "traceparent"
STATE: Final = "tracestate"
FIELDS: Final = (PARENT, STATE)

_FORM: Final = re.compile(r"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_STATE_FORM: Final = re.compile(r"[\x20-\x7e]{1,512}")
_NONE: Final[Mapping[str, str]] = {}
_current: ContextVar[Mapping[str, str]] = ContextVar("trace_context", default=_NONE)


def begin(header: Callable[[bytes], str | None]) -> None:
    """Take the context of the request that begins; `header` gives its headers, None where absent.

    What has not the form of one is no context.
    """
    parent = header(b"traceparent")
    _current.set(_NONE if parent is None else _read(parent, header(b"tracestate")))


def current() -> Mapping[str, str]:
    """The context, as `_meta` would hold it; empty where there is none."""
    return _current.get()


def _read(parent: str, state: str | None) -> Mapping[str, str]:
    if not _FORM.fullmatch(parent):
        return _NONE
    if state is None or not _STATE_FORM.fullmatch(state):
        return {PARENT: parent}
    return {PARENT: parent, STATE: state}


def of(meta: Mapping[str, object]) -> dict[str, str]:
    """The context of a message with that `_meta`: its own, or the one of the headers it came by."""
    if meta.get(PARENT):
        return {key: text for key in FIELDS if isinstance(text := meta.get(key), str)}
    return dict(_current.get())
