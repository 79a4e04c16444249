"""The scrape token: it lets its holder read metrics anywhere in the fleet, and do nothing else.

Metrics name servers and tools, which agents must not learn of; the fleet's credential would let
Prometheus call every tool. So there is a secret for reading alone, in a file that Prometheus reads.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from mcpcp.errors import ConfigError

SHORTEST: Final = 16
REFUSAL: Final = (
    "metrics need the scrape token: Authorization: Bearer TOKEN; `mcpcp monitoring config` says"
    " where it lies"
)


def load_token(path: Path) -> str:
    """The token in `path`, made where there is none; raises ConfigError."""
    try:
        if not path.exists():
            _make(path)
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(f"the scrape token {path} can't be read or made: {reason}") from None
    if len(token) < SHORTEST or not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError(
            f"{path}: a scrape token is one line of {SHORTEST} or more characters; delete the file"
            " to have a new one made"
        )
    return token


def _make(path: Path) -> None:
    """Whoever is first makes it; nobody ever reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        os.link(draft, path)
    except FileExistsError:
        pass  # somebody else was first: theirs holds
    finally:
        draft.unlink()


def admits(token: str, shown: str | None) -> bool:
    """Whether `shown`, the token of an Authorization header, may read metrics."""
    return shown is not None and hmac.compare_digest(shown.encode(), token.encode())
