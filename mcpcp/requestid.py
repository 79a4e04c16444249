"""One id for each request, from the client through the gateway to the server and back.

A client may bring its own (the header X-Request-Id, or `_meta["mcpcp/request"]`); log lines written
while a request is worked on carry it, and so do its audit record and what the server logs.
"""

from __future__ import annotations

import itertools
import re
import secrets
from contextvars import ContextVar
from typing import Final

META_REQUEST: Final = "mcpcp/request"
HEADER: Final = b"x-request-id"

_FORM: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PREFIX: Final = secrets.token_hex(4)
_NUMBERS: Final = itertools.count(1)
_current: ContextVar[str] = ContextVar("request_id", default="")


def current() -> str:
    """The id of the request that is worked on; empty where there is none."""
    return _current.get()


def begin(given: object = None) -> str:
    """Make the id of the request that begins: `given` where it has the form of one, else a new."""
    # Unique, not secret: a random start for each process and a number cost a tenth of random bytes.
    good = isinstance(given, str) and _FORM.fullmatch(given)
    made = given if good else f"{_PREFIX}-{next(_NUMBERS):x}"
    _current.set(str(made))
    return str(made)


def go_on(given: object) -> str:
    """The id that an outer layer has begun with, unless `given` is another one; else a new."""
    return begin(given if given is not None else _current.get())
