"""Pages of other origins, where the config names them: a browser asks before it lets them in."""

from __future__ import annotations

from typing import Final

from mcpcp.frontends.connection import Application
from mcpcp.frontends.requests import Reply, Request

_LEAVE: Final = (
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, content-type"),
    (b"access-control-max-age", b"600"),
)


class Cors:
    """`application`, for pages of these origins too."""

    def __init__(self, application: Application, origins: tuple[str, ...]) -> None:
        self._application = application
        self._origins = origins

    async def __call__(self, request: Request, reply: Reply) -> None:
        """One HTTP request."""
        origin = request.header(b"origin")
        if origin is not None and origin in self._origins:
            reply.add_header(b"access-control-allow-origin", origin)
            reply.add_header(b"vary", "Origin")
            if _asks_first(request):
                reply.send(200, b"", headers=_LEAVE)
                return
        await self._application(request, reply)


def _asks_first(request: Request) -> bool:
    asked = request.raw(b"access-control-request-method")
    return request.method == "OPTIONS" and asked is not None
