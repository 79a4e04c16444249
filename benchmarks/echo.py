"""A tool server that costs next to nothing, so that what a gateway adds can be seen.

    python -m benchmarks.echo http --port 7101 --tools 100      /mcp; /sse and /messages
    python -m benchmarks.echo stdio --tools 100

No SDK and no framework: bytes in, bytes out. It speaks the legacy era; `echo` gives back its text,
`big` as many bytes as it is asked for, and the rest of the tools are there to fill lists.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import sys
from typing import Any, Final, cast

import httptools
import orjson

VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
_PATTERN: Final = '0123456789 lorem ipsum "quoted" \\ '


def make_tools(count: int) -> list[dict[str, Any]]:
    """Definitions of a usual size: `echo`, `big`, and fillers up to `count`."""
    text = {"text": {"type": "string", "description": "what to give back"}}
    size = {"n": {"type": "integer", "description": "bytes"}}
    query = {
        "query": {"type": "string", "description": "what to look for"},
        "limit": {"type": "integer", "description": "rows at most", "default": 10},
        "order": {"type": "string", "enum": ["asc", "desc"]},
        "where": {"type": "object", "properties": {"field": {"type": "string"}}},
    }
    tools = [_tool("echo", "Give the text back.", text), _tool("big", "Many bytes.", size)]
    tools += [
        _tool(f"filler_{n:03}", f"Look up records of kind {n} and page through them.", query)
        for n in range(count - len(tools))
    ]
    return tools


def _tool(name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    return {"name": name, "description": description, "inputSchema": schema}


class Echo:
    """Messages in, answers out; results are made once and kept."""

    def __init__(self, tools: int) -> None:
        self._results = {
            "tools/list": orjson.dumps({"tools": make_tools(tools)}),
            "ping": b"{}",
        }
        self._sized: dict[int, bytes] = {}

    def answer(self, raw: bytes) -> bytes | None:
        """The answer to one message; None where it takes none."""
        message = orjson.loads(raw)
        request_id, method = message.get("id"), message.get("method")
        if request_id is None or method is None:
            return None
        head = b'{"jsonrpc":"2.0","id":' + orjson.dumps(request_id)
        result = self._result(method, message.get("params") or {})
        if result is None:
            return head + b',"error":{"code":-32601,"message":"Method not found"}}'
        return head + b',"result":' + result + b"}"

    def _result(self, method: str, params: dict[str, Any]) -> bytes | None:
        if method == "tools/call":
            return self._call(params["name"], params.get("arguments") or {})
        if method == "initialize":
            version = params.get("protocolVersion")
            return orjson.dumps(
                {
                    "protocolVersion": version if version in VERSIONS else VERSIONS[2],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "echo", "version": "1"},
                }
            )
        return self._results.get(method)

    def _call(self, name: str, arguments: dict[str, Any]) -> bytes:
        if name != "big":
            return _content(arguments.get("text", ""))
        size = arguments["n"]
        if size not in self._sized:
            self._sized[size] = _content((_PATTERN * (size // len(_PATTERN) + 1))[:size])
        return self._sized[size]


def _content(text: str) -> bytes:
    quoted = orjson.dumps(text)
    return b'{"content":[{"type":"text","text":' + quoted + b'}],"isError":false}'


class HttpEcho(asyncio.Protocol):
    """One connection of a client: streamable HTTP, or HTTP+SSE."""

    streams: Final[dict[bytes, HttpEcho]] = {}
    _numbers: Final = itertools.count(1)

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._stream = b""
        self._url = b""
        self._body = b""

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.streams.pop(self._stream, None)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path, _, query = self._url.partition(b"?")
        method = self._parser.get_method()
        if method == b"POST" and path == b"/mcp":
            self._post()
        elif method == b"POST" and path == b"/messages":
            self._post_for(query.removeprefix(b"session_id="))
        elif method == b"GET" and path == b"/sse":
            self._open_stream()
        else:
            self._send(b"200 OK" if method == b"DELETE" else b"405 Method Not Allowed")

    def _post(self) -> None:
        answer = self._echo.answer(self._body)
        if answer is None:
            self._send(b"202 Accepted")
        else:
            self._send(b"200 OK", answer)

    def _post_for(self, name: bytes) -> None:
        stream = self.streams.get(name)
        if stream is None:
            self._send(b"404 Not Found")
            return
        self._send(b"202 Accepted")
        if (answer := self._echo.answer(self._body)) is not None:
            stream.tell(b"message", answer)

    def _open_stream(self) -> None:
        self._stream = b"%d" % next(self._numbers)
        self.streams[self._stream] = self
        head = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self._transport.write(b"HTTP/1.1 200 OK\r\n" + head)
        self.tell(b"endpoint", b"/messages?session_id=" + self._stream)

    def tell(self, event: bytes, data: bytes) -> None:
        """Send an event on this connection's stream."""
        text = b"event: " + event + b"\r\ndata: " + data + b"\r\n\r\n"
        self._transport.write(b"%x\r\n" % len(text) + text + b"\r\n")

    def _send(self, status: bytes, body: bytes = b"") -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % (status, len(body)) + body)


async def serve_http(echo: Echo, port: int) -> None:
    """Serve until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HttpEcho(echo), "127.0.0.1", port)
    await server.serve_forever()


def serve_stdio(echo: Echo) -> None:
    """Serve stdin until its end."""
    for line in sys.stdin.buffer:
        if (answer := echo.answer(line)) is not None:
            sys.stdout.buffer.write(answer + b"\n")
            sys.stdout.buffer.flush()


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(description="A tool server that costs next to nothing.")
    parser.add_argument("transport", choices=("http", "stdio"))
    parser.add_argument("--port", type=int, default=7101)
    parser.add_argument("--tools", type=int, default=3)
    options = parser.parse_args()
    echo = Echo(options.tools)
    if options.transport == "stdio":
        serve_stdio(echo)
        return
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_http(echo, options.port))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
