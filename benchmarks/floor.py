"""The floor: what a Python process behind uvicorn costs that does next to nothing for a call.

    python -m benchmarks.floor --port 9003 http://127.0.0.1:7101/mcp ...

No product: it looks names up, exchanges them and relays the answer's bytes. No tokens, allowlists,
audit, metrics, sessions, deadlines, limits, errors, reconnecting or notifications.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
import uvicorn
import uvloop

from benchmarks.wire import Pool, request_head, with_body

Event = MutableMapping[str, Any]
_HEADERS = {
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2025-06-18",
}
_INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "floor", "version": "1"},
}


class Floor:
    """An ASGI application before servers whose tools it names `mcp1_...`, `mcp2_...`."""

    def __init__(self, urls: list[str]) -> None:
        self._servers = [(Pool(url), request_head("POST", url, _HEADERS)) for url in urls]
        self._routes: dict[str, tuple[int, str]] = {}
        self._list = b""

    async def start(self) -> None:
        """Learn the servers' tools."""
        tools = []
        for number in range(len(self._servers)):
            await self._ask(number, "initialize", _INITIALIZE)
            for tool in (await self._ask(number, "tools/list", {}))["tools"]:
                name = f"mcp{number + 1}_{tool['name']}"
                self._routes[name] = (number, tool["name"])
                tools.append({**tool, "name": name})
        self._list = orjson.dumps({"tools": tools})

    async def __call__(
        self,
        scope: Event,
        receive: Callable[[], Awaitable[Event]],
        send: Callable[[Event], Awaitable[None]],
    ) -> None:
        parts = []
        while True:
            event = await receive()
            parts.append(event.get("body", b""))
            if not event.get("more_body"):
                break
        answer = await self._answer(b"".join(parts)) if scope["method"] == "POST" else b""
        status = 202 if answer is None else 200
        body = answer or b""
        length = (b"content-length", b"%d" % len(body))
        headers = [(b"content-type", b"application/json"), length]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, raw: bytes) -> bytes | None:
        message = orjson.loads(raw)
        request_id, method = message.get("id"), message["method"]
        if request_id is None:
            return None
        if method == "tools/call":
            number, message["params"]["name"] = self._routes[message["params"]["name"]]
            return await self._exchange(number, orjson.dumps(message))
        result = self._list if method == "tools/list" else orjson.dumps(_hello())
        return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (orjson.dumps(request_id), result)

    async def _ask(self, number: int, method: str, params: Any) -> Any:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return orjson.loads(await self._exchange(number, orjson.dumps(message)))["result"]

    async def _exchange(self, number: int, body: bytes) -> bytes:
        pool, head = self._servers[number]
        return (await pool.exchange(with_body(head, body))).body


def _hello() -> dict[str, Any]:
    return {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "floor", "version": "1"},
    }


async def serve(port: int, urls: list[str]) -> None:
    """Serve until a signal."""
    floor = Floor(urls)
    await floor.start()
    config = uvicorn.Config(
        floor, port=port, log_level="error", access_log=False, lifespan="off", ws="none"
    )
    await uvicorn.Server(config).serve()


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(description="The floor of a gateway in Python.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("urls", nargs="+")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.port, options.urls))


if __name__ == "__main__":
    main()
