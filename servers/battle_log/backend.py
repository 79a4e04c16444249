"""The backend that judges battles: one POST an event, and what its answer means."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

import httpx2

from servers.battle_log.journal import Event

logger = logging.getLogger(__name__)

ACCEPTED: Final = 204
_NOT_THE_EVENTS_FAULT = frozenset({401, 407, 408, 425, 429})
_TIMEOUT = httpx2.Timeout(10.0, connect=3.0)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The backend has the event."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The backend will never take this event."""

    reason: str


@dataclass(frozen=True, slots=True)
class Away:
    """The backend did not take the event now; later it may."""

    reason: str


Answer = Accepted | Refused | Away


class BackendUrlError(ValueError):
    """The backend's URL can't be used."""


class Backend:
    """POSTs events to `{url}/battles/{battle_id}`, never through a proxy."""

    def __init__(self, url: str) -> None:
        try:
            httpx2.URL(url)
            parts = urlsplit(url)
            _ = parts.port  # raises for one out of range
        except (ValueError, httpx2.InvalidURL) as e:
            raise BackendUrlError(f"BACKEND_URL is not a URL: {e}") from e
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BackendUrlError("BACKEND_URL is not a URL such as http://localhost:9000")
        self._base = url.rstrip("/")
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
        self.shown = urlunsplit(bare)
        self._client: httpx2.AsyncClient | None = None

    async def post(self, event: Event) -> Answer:
        """Offer the event once."""
        try:
            response = await self._open().post(
                f"{self._base}/battles/{quote(event.battle_id, safe='')}",
                content=json.dumps({**event.body, "event_id": event.event_id}).encode(),
                headers={
                    "Content-Type": "application/json",
                    "Idempotency-Key": event.event_id,
                },
            )
        except httpx2.TimeoutException:
            return Away("the backend did not answer in time")
        except httpx2.ConnectError as e:
            logger.debug("no connection", extra={"backend": self.shown, "error": str(e)})
            return Away(f"the backend can't be reached at {self.shown}")
        except httpx2.HTTPError as e:
            return Away(f"the backend broke off: {str(e) or type(e).__name__}")
        return judge(response.status_code)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client:
            await self._client.aclose()
            self._client = None

    def _open(self) -> httpx2.AsyncClient:
        # at first use: it loads the certificate store, which a start should not wait for
        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=_TIMEOUT, trust_env=False)
        return self._client


def judge(status: int) -> Answer:
    """What a status says: only 204 accepts; a 4xx that is about the event refuses it for good."""
    if status == ACCEPTED:
        return Accepted()
    if 400 <= status < 500 and status not in _NOT_THE_EVENTS_FAULT:
        return Refused(f"the backend answered {status}")
    return Away(f"the backend answered {status}")
