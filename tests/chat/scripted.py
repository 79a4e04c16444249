"""A language model with a script: OpenAI's protocol over real HTTP, good and bad manners alike.

Each request for a completion takes the next act of the script; the last one is repeated.
"""

from __future__ import annotations

import contextlib
import json
import select
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
PATIENCE = 120.0
"""Seconds after which something hangs."""


class Exchange:
    """One request for a completion, and the ways to answer it."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: Json) -> None:
        self._handler = handler
        self.body = body

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))

    def results(self) -> list[str]:
        """What the tools returned, as the model gets it."""
        return [m["content"] for m in self.body["messages"] if m["role"] == "tool"]

    def json(self, body: Any, status: int = 200, **headers: str) -> None:
        data = json.dumps(body).encode()
        self._handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.send_header("Content-Length", str(len(data)))
        self._handler.end_headers()
        self._handler.wfile.write(data)

    def begin(self) -> None:
        """An event stream of unknown length."""
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "text/event-stream")
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()

    def data(self, text: str) -> None:
        self.write(f"data: {text}\n\n".encode())

    def write(self, data: bytes) -> None:
        """One HTTP chunk, at once on the wire."""
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self._handler.wfile.flush()

    def delta(self, delta: Json, finish: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        self.data(json.dumps({"object": "chat.completion.chunk", "choices": [choice]}))

    def end(self, finish: str = "stop", *, usage: Json | None = None) -> None:
        self.delta({}, finish)
        if usage is not None:
            self.data(json.dumps({"choices": [], "usage": usage}))
        self.data("[DONE]")
        self.write(b"")

    def hang_up(self) -> None:
        """Close the connection where it stands."""
        self._handler.close_connection = True

    def wait_until_left(self) -> bool:
        """Whether the client closed the connection."""
        readable, _, _ = select.select([self._handler.connection], [], [], PATIENCE)
        return bool(readable) and not self._handler.connection.recv(1)


Act = Callable[[Exchange], None]
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def say(*pieces: str, finish: str = "stop") -> Act:
    """The text, a delta for each piece."""

    def act(exchange: Exchange) -> None:
        if not exchange.streams:
            message = {"role": "assistant", "content": "".join(pieces)}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            exchange.json({"choices": [choice], "usage": USAGE})
            return
        exchange.begin()
        for piece in pieces:
            exchange.delta({"content": piece})
        exchange.end(finish, usage=USAGE)

    return act


def quote() -> Act:
    """What the tools returned, so that a test sees what the model was given."""

    def act(exchange: Exchange) -> None:
        say("\n".join(exchange.results()))(exchange)

    return act


def call(*calls: tuple[str, Any], text: str = "") -> Act:
    """Tool calls by name and arguments, as OpenAI streams them: split, by index."""

    def act(exchange: Exchange) -> None:
        exchange.begin()
        if text:
            exchange.delta({"content": text})
        for index, (name, arguments) in enumerate(calls):
            written = arguments if isinstance(arguments, str) else json.dumps(arguments)
            head = {"index": index, "id": f"call-{index}", "type": "function"}
            exchange.delta({"tool_calls": [{**head, "function": {"name": name, "arguments": ""}}]})
            for part in (written[:3], written[3:]):
                piece = {"index": index, "function": {"arguments": part}}
                exchange.delta({"tool_calls": [piece]})
        exchange.end("tool_calls", usage=USAGE)

    return act


def refuse(status: int, body: Any, **headers: str) -> Act:
    """An HTTP error."""
    return lambda exchange: exchange.json(body, status, **headers)


class ScriptedLlm:
    """The server; `requests` is every body that it was sent, `seen` their headers."""

    def __init__(self) -> None:
        self.requests: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.models = ["scripted"]
        self.left = threading.Event()
        """Set by `stall` when its client has gone."""
        self.reached = threading.Event()
        """Set by `stall` when it begins to be silent."""
        self._acts: list[Act] = [say("Hello.")]
        self._lock = threading.Lock()
        llm = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                data = [{"id": name, "object": "model"} for name in llm.models]
                Exchange(self, {}).json({"object": "list", "data": data})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                act = llm._next(body, {k.lower(): v for k, v in self.headers.items()})
                try:
                    act(Exchange(self, body))
                except (BrokenPipeError, ConnectionResetError):  # the client has gone
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients go as they like

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def play(self, *acts: Act) -> None:
        """Begin a new script, and forget what was asked before."""
        with self._lock:
            self._acts = list(acts)
            self.requests.clear()
            self.headers.clear()
        self.left.clear()
        self.reached.clear()

    def stall(self, *pieces: str) -> Act:
        """Some text, then silence until the client goes."""

        def act(exchange: Exchange) -> None:
            exchange.begin()
            for piece in pieces:
                exchange.delta({"content": piece})
            self.reached.set()
            if exchange.wait_until_left():
                self.left.set()
            exchange.hang_up()

        return act

    def _next(self, body: Json, headers: dict[str, str]) -> Act:
        with self._lock:
            self.requests.append(body)
            self.headers.append(headers)
            return self._acts.pop(0) if len(self._acts) > 1 else self._acts[0]

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def scripted_llm() -> Iterator[ScriptedLlm]:
    """A running one."""
    llm = ScriptedLlm()
    llm.start()
    try:
        yield llm
    finally:
        llm.close()
